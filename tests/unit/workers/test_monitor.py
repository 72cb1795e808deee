"""What one worker sees of the others, as a table: who may have failed, who is there again, and who may judge."""

from __future__ import annotations

import pytest

from pipeline.core.times import SECOND
from pipeline.ledger.workers import Roll, Seen
from pipeline.workers.monitor import changes

AT = 1_000 * SECOND
AFTER = 90 * SECOND


def seen(
    id: str, ago: float, *agents: str, beats: int = 9, leaves: float | None = None, ended: float | None = None
) -> Seen:
    at = {name: None if ago is None else AT - round(ago * SECOND) for name, ago in (("l", leaves), ("e", ended))}
    return Seen(id, AT - round(ago * SECOND), beats, at["l"], at["e"], frozenset(agents), {})


ME = seen("me", 1)


@pytest.mark.parametrize(
    ("workers", "lost"),
    [
        pytest.param([ME, seen("a", 89, "x")], set(), id="silent for a while"),
        pytest.param([ME, seen("a", 91, "x")], {"x"}, id="silent for too long"),
        pytest.param([ME, seen("a", 91, "x"), seen("b", 3, "x")], set(), id="another worker runs it"),
        pytest.param([ME, seen("a", 500, "x"), seen("b", 120, "x")], {"x"}, id="all its workers are silent"),
        pytest.param([ME, seen("a", 91, "x", leaves=95)], set(), id="it had said that it leaves"),
        pytest.param([ME, seen("a", 300, "x", ended=290)], set(), id="it has ended"),
        pytest.param([ME, seen("a", 500, "x"), seen("b", 130, "x", ended=100)], set(), id="the last one has ended"),
        pytest.param([ME, seen("a", 500, "x", ended=470), seen("b", 130, "x")], {"x"}, id="the last one is silent"),
        pytest.param([ME], set(), id="forgotten"),
        pytest.param([seen("me", 1, beats=1), seen("a", 91, "x")], set(), id="who judges has just come"),
        pytest.param([seen("me", 13), seen("a", 91, "x")], set(), id="who judges was stopped"),
        pytest.param([seen("a", 91, "x")], set(), id="who judges is not known"),
        pytest.param([seen("me", 1, leaves=1), seen("a", 91, "x")], set(), id="who judges leaves"),
    ],
)
def test_who_may_have_failed(workers: list[Seen], lost: set[str]) -> None:
    found = changes(Roll(AT, workers, {"x": None}), "me", AFTER)
    assert {*found.lost} == lost
    assert not found.back


@pytest.mark.parametrize(
    ("workers", "back"),
    [
        pytest.param([ME, seen("a", 1, "x", beats=2)], {"x"}, id="two beats"),
        pytest.param([ME, seen("a", 1, "x", beats=1)], set(), id="one beat"),
        pytest.param([ME, seen("a", 13, "x", beats=9)], set(), id="silent again"),
        pytest.param([ME, seen("a", 1, "x", leaves=1)], set(), id="leaves"),
        pytest.param([ME, seen("a", 500, "x"), seen("b", 1, "x")], {"x"}, id="another one in its place"),
        pytest.param([ME, seen("a", 500, "x")], set(), id="as before"),
    ],
)
def test_who_is_there_again(workers: list[Seen], back: set[str]) -> None:
    found = changes(Roll(AT, workers, {"x": AT - 500 * SECOND}), "me", AFTER)
    assert {*found.back} == back
    assert not found.lost


@pytest.mark.parametrize(
    ("workers", "over"),
    [
        pytest.param([ME, seen("a", 500, "x"), seen("b", 40, "x", ended=9)], ["x"], id="back for a moment, and left"),
        pytest.param([ME], ["x"], id="forgotten"),
        pytest.param([ME, seen("a", 500, "x")], [], id="as before"),
        pytest.param([ME, seen("a", 1, "x", beats=1)], [], id="just back"),
    ],
)
def test_of_whom_there_is_nothing_to_suspect_any_more(workers: list[Seen], over: list[str]) -> None:
    found = changes(Roll(AT, workers, {"x": AT - 500 * SECOND}), "me", AFTER)
    assert (found.back, [*found.over]) == ({}, over)


def test_when_it_was_last_heard_of_is_told() -> None:
    workers = [ME, seen("a", 500, "x"), seen("b", 120, "x")]
    assert changes(Roll(AT, workers, {"x": None}), "me", AFTER).lost == {"x": AT - 120 * SECOND}
