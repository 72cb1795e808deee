"""Who emits what to whom: what is declared, what has run, and what was seen lately, put together."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from pipeline.contracts.graph import AgentNode, ScheduleNode, System, TypeNode
from pipeline.coordination.flows.instances import Flow
from pipeline.core.outcome import Outcome
from pipeline.history.traffic import Emitted
from pipeline.http.page.drawing import MOST_NODES
from pipeline.http.page.graphs import Topology, flow_picture, picture_of, topology_of
from pipeline.ledger.flows.rows import Step

SYSTEM = System(
    "shop",
    "events",
    (
        AgentNode("billing", "q", ("order.placed",), sends=(TypeNode("order.paid"),)),
        AgentNode("never-ran", "q", ("order.*",)),
        AgentNode("pick", "q"),
        AgentNode("parcel", "q", ("box.wanted",), members=("pick",)),
    ),
    (ScheduleNode("nightly", TypeNode("night.came")),),
)


def shop(*lately: Emitted, **patterns: tuple[str, ...]) -> Topology:
    return topology_of(SYSTEM, {"billing": "online", "hook": "paused"}, {"hook": ("#",), **patterns}, lately)


def test_agents_are_those_that_are_declared_and_those_that_have_run() -> None:
    found = {one.agent: (one.state, one.patterns) for one in shop(billing=("order.placed", "order.changed")).roles}
    assert found == {
        "billing": ("online", ("order.placed", "order.changed")),  # as other versions of it have it
        "hook": ("paused", ("#",)),
        "never-ran": ("not there", ("order.*",)),
        "parcel": ("not there", ("box.wanted",)),
        "pick": ("not there", ()),
    }


def test_types_say_who_emits_them_and_who_listens_as_declared_or_as_seen() -> None:
    seen = [Emitted("order.lost", "hook", 2), Emitted("order.lost", None, 3), Emitted("odd.one", None, 1)]
    found = {one.type: one[1:] for one in shop(*seen).types}
    assert found == {
        "box.wanted": ((), ("hook", "parcel"), 0),
        "night.came": (("nightly",), ("hook",), 0),
        "odd.one": ((), ("hook",), 1),
        "order.lost": (("hook",), ("hook", "never-ran"), 5),
        "order.paid": (("billing",), ("hook", "never-ran"), 0),
        "order.placed": ((), ("billing", "hook", "never-ran"), 0),
    }


def test_a_pattern_that_matches_no_type_is_shown_as_it_is() -> None:
    found = {one.type: one.receivers for one in shop(hook=("gone.*",)).types}
    assert found["gone.*"] == ("hook",)
    assert "order.*" not in found


def test_the_picture_has_what_is_connected_and_says_how_agents_are() -> None:
    found = picture_of(shop(Emitted("odd.one", None, 1), Emitted("delivery.dead", "billing", 1), hook=("night.came",)))
    assert found is not None
    boxes = {box.node.label: box.node for box in found.boxes}
    assert {"odd.one", "delivery.dead"}.isdisjoint(boxes)
    assert (boxes["hook"].note, boxes["hook"].link, boxes["hook"].state) == ("‖ paused", "agents/hook", "paused")
    assert boxes["never-ran"].note == "○ not there"
    assert boxes["order.placed"].link == "?type=order.placed"
    assert {line.edge.said for line in found.lines} == {
        "billing emits order.paid",
        "billing listens to order.placed",
        "never-ran listens to order.paid",
        "never-ran listens to order.placed",
        "nightly emits night.came",
        "hook listens to night.came",
        "parcel listens to box.wanted",
        "pick works for parcel",
    }


def test_too_much_is_not_drawn() -> None:
    found = topology_of(System("s", "e"), {f"a{n}": "online" for n in range(MOST_NODES + 1)}, {}, [])
    assert len(found.roles) == MOST_NODES + 1
    assert picture_of(found) is None


def test_a_flow_is_drawn_with_the_state_of_each_step_in_words_and_signs() -> None:
    nodes: list[dict[str, Any]] = [
        {"name": "<b>take</b>", "agent": "take", "after": (), "undo": "give"},
        {"name": "pay", "agent": "pay", "after": ("<b>take</b>",), "undo": None},
        {"name": "ship", "agent": "ship", "after": ("pay",), "undo": None},
    ]
    steps = [
        Step("d0", 0, "take", Outcome.SUCCEEDED, None, None, 1),
        Step("d1", 1, "pay", Outcome.DEAD, None, "no money", 2),
        Step("d3", 3, "give", Outcome.RUNNING, None, None),
    ]
    at = datetime(2026, 1, 1, tzinfo=UTC)
    definition = {"nodes": nodes, "emits": "order.done", "fails": "order.failed"}
    flow = Flow(
        "f", "order", "saga", "compensating", "e/1", "c", 3, 1, 1, at, None, None, None,
        definition=definition, steps=steps,
    )  # fmt: skip
    found = flow_picture(flow)
    assert found is not None
    assert [(box.node.label, box.node.kind, box.note) for box in found.boxes] == [
        ("saga order", "start", "▶ compensating"),
        ("<b>take</b>", "step", "✓ succeeded"),
        ("pay", "step", "✗ dead"),
        ("give", "undo", "▶ running"),
        ("ship", "step", "○ not begun"),
        ("order.failed", "end", "▶ compensating"),
    ]
    assert found.boxes[0].node.link == "events/e%2F1"
    assert [line.edge[:3] for line in found.lines] == [
        ("start", "s0", ""), ("s0", "s1", ""), ("s1", "s2", ""), ("s2", "end_", ""), ("s0", "s3", "undoes"),
    ]  # fmt: skip
