"""The picture of a flow: a join's members side by side, a saga's steps behind each other, and what undid them."""

from __future__ import annotations

from typing import Any

from pipeline.coordination.graphs.picture import mermaid, picture
from pipeline.core.outcome import Outcome
from pipeline.ledger.flows.rows import Step

NODES: list[dict[str, Any]] = [
    {"name": "create", "agent": "create", "after": (), "undo": "cancel"},
    {"name": "reserve", "agent": "reserve", "after": ("create",), "undo": "release"},
    {"name": "pay", "agent": "pay", "after": ("reserve",), "undo": "refund"},
]
SAGA = {"emits": "order.completed", "fails": "order.failed", "nodes": NODES}


def step(pos: int, agent: str, outcome: Outcome = Outcome.SUCCEEDED) -> Step:
    return Step(str(pos), pos, agent, outcome, None, None, ended=pos)


def drawn(*flow: Any) -> str:
    return mermaid(picture(*flow))


def edges(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if "->" in line]


def test_the_members_of_a_join_stand_side_by_side() -> None:
    steps = [step(0, "stock"), step(1, "credit", Outcome.QUEUED)]
    assert drawn("join checks", "active", None, {"emits": "order.checked"}, steps).splitlines() == [
        "flowchart LR",
        '    start(["join checks"])',
        '    s0["stock: succeeded"]',
        '    s1["credit: queued"]',
        '    end_(["order.checked: active"])',
        "    start --> s0",
        "    s0 --> end_",
        "    start --> s1",
        "    s1 --> end_",
        "    style start stroke:#1565c0,stroke-width:2px",
        "    style s0 stroke:#2e7d32,stroke-width:2px",
        "    style end_ stroke:#1565c0,stroke-width:2px",
    ]


def test_the_steps_of_a_saga_follow_each_other_also_those_that_have_not_begun() -> None:
    text = drawn("saga order", "active", None, SAGA, [step(0, "create"), step(1, "reserve", Outcome.RUNNING)])
    assert edges(text) == ["start --> s0", "s0 --> s1", "s1 --> s2", "s2 --> end_"]
    assert '    s2["pay: not begun"]' in text.splitlines()


def test_what_undoes_a_step_is_beside_it() -> None:
    steps = [step(0, "create"), step(1, "reserve"), step(2, "pay", Outcome.DEAD), step(4, "release"), step(3, "cancel")]
    text = drawn("saga order", "compensated", "no money", SAGA, steps)
    assert [line for line in edges(text) if ".->" in line] == ["s0 -. undone by .-> s3", "s1 -. undone by .-> s4"]
    assert '    s4[/"release: succeeded"/]' in text.splitlines()
    assert '    end_(["order.failed: no money"])' in text.splitlines()


def test_no_error_means_anything_to_mermaid() -> None:
    text = drawn("saga order", "failed", 'step "pay" [1]\n: <b>', SAGA, [])
    assert '    end_(["order.failed: step #34;pay#34; #91;1#93;#92;n: #60;b#62;"])' in text.splitlines()
