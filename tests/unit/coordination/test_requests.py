"""What a request has come to, by what became of the deliveries of its event."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import closing
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import update

from pipeline import LedgerOff, NoResponder, Pipeline, RequestFailed, RequestTimeout
from pipeline.coordination import requests
from pipeline.coordination.requests import FEW, LONGEST, Asked, Requests, answered
from pipeline.core.door.replies import ENDS, EXPIRES, NO_LONGER, REPLY_BY, too_late, wants_reply
from pipeline.core.errors import LedgerUnavailable
from pipeline.core.event import Event, new_event
from pipeline.core.ids import delivery_id
from pipeline.core.outcome import Outcome
from pipeline.core.times import monotonic
from pipeline.ledger.database.tables import deliveries
from tests.records import die, run_agents, succeed

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
        assert (too_late(asked.model_extra, begun=True) is None) is waits
        assert ENDS & {*(asked.model_extra or ())}


def test_an_event_that_has_expired_is_not_begun_and_what_has_begun_goes_on() -> None:
    event = new_event("news", {}, source="/t")
    assert ENDS.isdisjoint(event.model_extra or ())
    assert too_late(event.model_extra, begun=False) is None
    over = event.evolve(**{EXPIRES: (datetime.now(UTC) - timedelta(seconds=1)).isoformat()})
    assert str(too_late(over.model_extra, begun=False)).startswith("it has expired at ")
    assert too_late(over.model_extra, begun=True) is None
    fresh = event.evolve(**{EXPIRES: (datetime.now(UTC) + timedelta(seconds=60)).isoformat()})
    assert too_late(fresh.model_extra, begun=False) is None
    assert ENDS & {*(fresh.model_extra or ())}


def test_requests_need_a_ledger(tmp_path: Any) -> None:
    app = Pipeline("test", directory=tmp_path, ledger_url="")
    with pytest.raises(LedgerOff):
        app.request("price.asked", {})


@pytest.fixture
def app(tmp_path: Any, no_settings: None) -> Iterator[Pipeline]:
    """An app without a worker, of whose agents the ledger knows some."""
    with closing(Pipeline("test", directory=tmp_path)) as one:
        run_agents(one, {"quote": "price.asked", "audit": "#"})
        yield one


def asked_for(event: Event, *agents: str, since: float = 0.0, every: bool = False) -> Asked:
    """Return somebody who has waited for so many seconds."""
    ids, at = {delivery_id(event.key, name): name for name in agents}, monotonic()
    return Asked(event.key, ids, frozenset(agents), every, at - since, at + 60, Future())


def test_each_is_looked_for_at_its_own_pace_however_long_another_has_waited(app: Pipeline) -> None:
    event = app.publish("price.asked", {})
    old, new = asked_for(event, "quote", since=30), asked_for(event, "audit")
    Requests(app.bus)._look_at([old, new])
    assert old.look_at - new.look_at > LONGEST / 2
    succeed(app, event, "audit")
    new.look_at = 0.0
    Requests(app.bus)._look_at([new])
    assert new.answer.result(0)["audit"].status == "success"
    assert not old.answer.done(), "nobody has looked for it"


@pytest.mark.parametrize("others", [0, FEW])
def test_few_and_many_are_looked_for_with_the_same_answers(app: Pipeline, others: int) -> None:
    event = app.publish("price.asked", {})
    succeed(app, event, "quote")
    die(app, event, "audit")
    unknown = [f"never{n}" for n in range(others)]
    one, all_of_them = asked_for(event, "quote", *unknown), asked_for(event, "quote", "audit", every=True)
    Requests(app.bus)._look_at([one, all_of_them])
    assert one.answer.done() is (others == 0), "the others may still say something"
    found = all_of_them.answer.result(0)
    assert {name: (each.status, each.agent_id, each.original_event_id) for name, each in found.items()} == {
        "quote": ("success", "quote", event.key), "audit": ("failure", "audit", event.key),
    }  # fmt: skip


def test_who_has_not_begun_in_time_is_no_answer_and_the_wait_ends_at_its_time(app: Pipeline) -> None:
    event = app.publish("price.asked", {})
    late = {"outcome": Outcome.FILTERED.value, "error": NO_LONGER}
    quote = succeed(app, event, "quote")
    with app.ledger.database.transaction() as connection:
        connection.execute(update(deliveries).where(deliveries.c.id == quote).values(late))
    succeed(app, event, "audit")
    one, several = asked_for(event, "quote"), asked_for(event, "quote", "audit", every=True)
    asking = Requests(app.bus)
    asking._look_at([one, several])
    assert not one.answer.done()
    assert not several.answer.done()
    one.until = several.until = 0.0
    asking._look_at([one, several])
    with pytest.raises(RequestTimeout, match="nobody has answered"):
        one.answer.result(0)
    with pytest.raises(RequestTimeout, match=r"1 of 2 have answered request .* in time, and not quote") as caught:
        several.answer.result(0)
    assert list(caught.value.answers) == ["audit"]


def test_while_the_ledger_is_away_each_ends_at_its_time(app: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: Any) -> None:
        raise LedgerUnavailable("away")

    one, other = asked_for(app.publish("price.asked", {}), "quote"), asked_for(app.publish("price.asked", {}), "quote")
    one.until = 0.0
    asking = Requests(app.bus)
    monkeypatch.setattr(asking, "_look_for", away)
    asking._look_at([one, other])
    with pytest.raises(requests.RequestTimeout):
        one.answer.result(0)
    assert not other.answer.done()
    assert other.look_at > monotonic() + requests.AWAY / 2
