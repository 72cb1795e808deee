"""What a request has come to, by what became of the deliveries of its event."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline import LedgerOff, NoResponder, Pipeline, RequestFailed
from pipeline.coordination.requests import answered
from pipeline.core.door.replies import REPLY_BY, is_waited_for, wants_reply
from pipeline.core.event import Event, new_event

AGENTS = {"d1": "quote", "d2": "audit"}
QUOTE, BOTH = {"quote"}, {"quote", "audit"}


def rows(**outcomes: tuple[str, str | None]) -> Any:
    """Return rows of deliveries that have ended: their outcome, and their result or error."""
    return {
        id: SimpleNamespace(
            id=id, event_id="e", agent=AGENTS[id], outcome=outcome, started=1_000_000, ended=3_500_000,
            result=said if outcome == "succeeded" else None, error=None if outcome == "succeeded" else said,
        )
        for id, (outcome, said) in outcomes.items()
    }  # fmt: skip


def test_the_first_that_says_something_answers() -> None:
    assert answered(AGENTS, rows(d2=("succeeded", "null")), BOTH, every=False) is None
    found = answered(AGENTS, rows(d1=("succeeded", '{"price": 7}')), QUOTE, every=False)
    assert isinstance(found, dict)
    assert (found["quote"].result, found["quote"].processing_time_ms) == ({"price": 7}, 2500.0)
    assert answered(AGENTS, rows(d1=("succeeded", "0"), d2=("succeeded", "null")), QUOTE, every=False) is not None


def test_one_that_says_nothing_answers_when_it_is_meant_and_no_other_is_open() -> None:
    ended = rows(d1=("succeeded", "null"), d2=("succeeded", "null"))
    found = answered(AGENTS, ended, QUOTE, every=False)
    assert isinstance(found, dict)
    assert [(name, one.result) for name, one in found.items()] == [("quote", None)]
    nobody = answered(AGENTS, ended, set(), every=False)
    assert isinstance(nobody, NoResponder)
    assert "audit and quote listened to it among others, and returned nothing" in str(nobody)
    failed = rows(d1=("dead", "ValueError: no"), d2=("succeeded", "null"))
    assert isinstance(answered(AGENTS, failed, QUOTE, every=False), RequestFailed)


@pytest.mark.parametrize(
    ("error", "code", "retryable"),
    [("LookupError: no", "LookupError", True), ("InvalidEvent: n: wrong", "InvalidEvent", False), ("", "", True)],
)
def test_when_all_are_dead_it_has_failed(error: str, code: str, retryable: bool) -> None:
    found = answered(AGENTS, rows(d1=("dead", error), d2=("filtered", "no")), BOTH, every=False)
    assert isinstance(found, RequestFailed)
    assert (found.code, found.retryable) == (code, retryable)


def test_nobody_answers_what_is_kept_from_all() -> None:
    kept = rows(d1=("filtered", "no"), d2=("cancelled", "no"))
    assert isinstance(answered(AGENTS, kept, BOTH, every=False), NoResponder)


def test_all_are_waited_for() -> None:
    assert answered(AGENTS, rows(d1=("succeeded", "1")), BOTH, every=True) is None
    found = answered(AGENTS, rows(d1=("succeeded", "1"), d2=("dead", "E: no")), BOTH, every=True)
    assert isinstance(found, dict)
    assert {name: (one.status, one.result) for name, one in found.items()} == {
        "quote": ("success", 1), "audit": ("failure", "E: no"),
    }  # fmt: skip


def test_how_long_somebody_waits_travels_with_the_event() -> None:
    event = new_event("price.asked", {}, source="/shop")
    assert not wants_reply(event.model_extra)
    soon, past = (datetime.now(UTC) + timedelta(seconds=s) for s in (60, -1))
    for until, waits in (
        (soon.isoformat(), True),
        (past.isoformat(), False),
        ("whenever", True),
        ("2020-01-01", False),
    ):
        asked = Event.decode(event.evolve(**{REPLY_BY: until}).encode())
        assert wants_reply(asked.model_extra)
        assert is_waited_for(asked.model_extra) is waits


def test_requests_need_a_ledger(tmp_path: Any) -> None:
    app = Pipeline("test", directory=tmp_path, ledger_url="")
    with pytest.raises(LedgerOff):
        app.request("price.asked", {})
