"""Steps for each item of a list, and the times of steps: pure functions of rows."""

from __future__ import annotations

import pytest

from pipeline.coordination.graphs.graph import Graph, Hold, Node
from pipeline.coordination.graphs.plan import as_row, clocks_of, open_places, planned, rung, wound
from pipeline.core.event import new_event
from pipeline.core.outcome import Outcome
from pipeline.ledger.flows.items import folded, is_undo, needless, place_of
from pipeline.ledger.flows.rows import Step, members_of

QUEUED, RUNNING, DONE, DEAD = Outcome.QUEUED, Outcome.RUNNING, Outcome.SUCCEEDED, Outcome.DEAD
LATE, DROPPED, FILTERED = Outcome.LATE, Outcome.DROPPED, Outcome.FILTERED
CAUSE = new_event("order.placed", {"items": [7, 8], "none": [], "text": "x"}, source="/s")


def graph(*nodes: Node) -> Graph:
    return Graph(kind="saga", name="g", emits="g.done", fails="g.failed", source="/s", nodes=nodes)


def rows(number: int, pos: int, *outcomes: Outcome) -> dict[int, Step]:
    """Return the items of a step."""
    places = [place_of(item, pos, number) for item in range(len(outcomes))]
    ended = {DONE: "1", FILTERED: None}
    return {
        place: Step(f"d{place}", place, "a", outcome, ended.get(outcome), "E: no" if outcome is DEAD else None, 10 - n)
        for n, (place, outcome) in enumerate(zip(places, outcomes, strict=True))
    }


def test_every_position_says_whose_it_is() -> None:
    places = [place_of(item, pos, 3) for item in range(4) for pos in range(3)]
    assert len(set(places)) == 12
    assert min(places) == 6
    assert [place % 3 for place in places] == [0, 1, 2] * 4
    assert [pos for pos in range(9) if is_undo(pos, 3)] == [3, 4, 5]


@pytest.mark.parametrize(
    ("outcomes", "collects", "outcome", "result", "error"),
    [
        ([DONE, DONE], False, DONE, "[1,1]", None),
        ([DONE, FILTERED], False, DONE, "[1,null]", None),
        ([DONE, QUEUED], False, RUNNING, None, None),
        ([DONE, DEAD, RUNNING], False, RUNNING, None, None),
        ([DONE, DEAD], False, DEAD, "[1,null]", "item 1: E: no"),
        ([DEAD, DEAD], False, DEAD, None, "item 1: E: no"),
        ([LATE, LATE], False, LATE, None, "item 1: late"),
        ([DONE, DEAD], True, DONE, "[1,null]", None),
        ([DEAD, DEAD], True, DEAD, None, "item 1: E: no"),
        ([DONE, DROPPED], False, DROPPED, "[1,null]", "item 1: dropped"),
        ([DEAD, DROPPED], False, DEAD, None, "item 0: E: no"),
    ],
)
def test_what_the_items_of_a_step_come_to(
    outcomes: list[Outcome], collects: bool, outcome: Outcome, result: str | None, error: str | None
) -> None:
    one = folded(rows(2, 1, *outcomes), 2, {1} if collects else ())[1]
    assert (one.outcome, one.result, one.error) == (outcome, result, error)


def test_items_are_needless_when_one_has_failed_and_no_failure_is_collected() -> None:
    mine = rows(2, 1, DONE, DEAD, QUEUED, RUNNING)
    assert needless(mine, 2) == [place_of(2, 1, 2), place_of(3, 1, 2)]
    assert needless(mine, 2, {1}) == []
    assert needless(rows(2, 1, DONE, QUEUED), 2) == []
    assert members_of(2, mine.values()) == 5


def test_what_has_nothing_to_do_is_over_at_once() -> None:
    nodes = (
        Node(name="a", agent="a", each="data.none"),
        Node(name="b", agent="b", after=("a",), each="data.items"),
        Node(name="c", agent="c", after=("b",)),
    )
    plan = planned(graph(*nodes), {}, CAUSE, {}, "f")
    assert [begun.pos for begun in plan.begun] == [0, 1]
    assert sorted(plan.rows) == [0, place_of(0, 1, 3), place_of(1, 1, 3)]
    assert (plan.counts.members, plan.counts.done, plan.need, plan.end) == (4, 1, 3, None)
    assert plan.work.results == {"a": []}
    assert planned(graph(nodes[0]), {}, CAUSE, {}, "f").end == ("completed", "all")


def test_only_where_nothing_else_is_open_nobody_looks_before_the_last_item() -> None:
    both = graph(Node(name="a", agent="a", each="data.items"), Node(name="b", agent="b"))
    assert planned(both, {}, CAUSE, {}, "f").need == 0
    assert planned(graph(Node(name="b", agent="b")), {}, CAUSE, {}, "f").need == 0


@pytest.mark.parametrize(
    ("each", "why"), [("data.text", "is no list"), ("data.nothing", "is missing"), ("results.a", "is missing")]
)
def test_a_step_whose_list_is_none_has_failed(each: str, why: str) -> None:
    plan = planned(graph(Node(name="a", agent="a", each=each)), {}, CAUSE, {}, "f")
    assert plan.end == (
        "failed",
        f"step 'a' is cancelled: it could not begin: ValueError: each='{each}' {why}",
    )


def test_a_function_that_is_not_there_holds_the_flow_and_one_that_raises_fails_the_step() -> None:
    made = graph(Node(name="a", agent="a", computed=True), Node(name="b", agent="b"))
    held = planned(made, {}, CAUSE, {}, "f")
    assert isinstance(held.end, Hold)
    assert sorted(held.rows) == [1], "others begin"
    begun = planned(made, held.rows, CAUSE, {"a": lambda event, _: event.data["items"]}, "f")
    assert (begun.end, sorted(begun.rows)) == (None, [0, 1])
    body = begun.begun[0].members[0].body
    assert body is not None
    assert b'"data":[7,8]' in body
    failed = planned(made, {}, CAUSE, {"a": lambda *_: 1 / 0}, "f")
    assert failed.rows[0].error == "it could not begin: ZeroDivisionError: division by zero"
    assert "JSON" in (planned(made, {}, CAUSE, {"a": lambda *_: object()}, "f").rows[0].error or "")


def test_the_clock_of_a_step_runs_while_it_is_open() -> None:
    made = graph(Node(name="a", agent="a", timeout=2.0), Node(name="b", agent="b", after=("a",), timeout=3.0))
    plan = planned(made, {}, CAUSE, {}, "f")
    clocks = wound({"deadline": 9_000_000}, plan, 1_000_000)
    assert clocks == {"deadline": 9_000_000, "0": 3_000_000}
    kept = as_row(clocks)
    assert kept["due"] == 3_000_000
    assert clocks_of(str(kept["clocks"]), 3_000_000) == clocks
    assert rung(clocks, 3_000_000) == ["0"]
    assert open_places(plan.rows, 2, [0]) == {0}
    plan = planned(made, {0: plan.rows[0]._replace(outcome=DONE)}, CAUSE, {}, "f")
    assert wound(clocks, plan, 4_000_000) == {"deadline": 9_000_000, "1": 7_000_000}
    assert as_row({"deadline": 9}) == {"due": 9, "clocks": None}
    assert (clocks_of(None, 9), clocks_of(None, None), as_row({})["due"]) == ({"deadline": 9}, {}, None)
    undo = {0: plan.rows[0], 2: plan.rows[0]._replace(pos=2, outcome=QUEUED)}
    assert wound(clocks, planned(made, undo, CAUSE, {}, "f"), 5) == {}, "what undoes is given all the time it takes"
