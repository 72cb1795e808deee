"""What becomes of an event that a worker's own version of an agent does not want."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from celery.exceptions import Retry as CeleryRetry

from pipeline import Event, Pipeline
from pipeline.agents.filters import parse
from pipeline.agents.wanting import Wanting
from pipeline.core.errors import BrokerUnavailable, NobodyListens, QueueConflict
from pipeline.core.event import new_event
from pipeline.delivery import strays
from pipeline.delivery.consumer import to_task_message
from pipeline.delivery.delivery import NotRecordedError
from pipeline.delivery.plain import Plain
from pipeline.ledger.database.rows import GONE_AFTER
from pipeline.ledger.database.tables import workers
from pipeline.ledger.facts import Delivery
from tests.ledgers import move
from tests.records import make_app, rows
from tests.unit.delivery.test_steps import deliver


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Pipeline]:
    one = make_app(f"sqlite:///{tmp_path / 'ledger.db'}", tmp_path, agents=False)
    one.calls = []  # type: ignore[attr-defined]

    @one.agent(on="question.asked")
    def answer(event: Event) -> None:
        one.calls.append(event.id)  # type: ignore[attr-defined]

    run(one, "this", "question.asked")
    yield one
    one.close()


def run(app: Pipeline, worker: str, *patterns: str) -> None:
    """Let a worker live whose version of the agent listens to these patterns."""
    app.ledger.subscribers.register({"answer": (patterns, None)}, worker)


def test_a_stray_waits_for_the_worker_whose_version_wants_it(app: Pipeline) -> None:
    run(app, "other", "question.asked", "question.late")
    event = app.publish("question.late", {})
    with pytest.raises(CeleryRetry):
        deliver(app, event, stray=True)
    (row,) = rows(app, agent="answer")
    assert (row["outcome"], row["attempts"]) == ("retrying", 0)
    assert row["error"] == "waits for a worker whose version of the agent listens to question.late"
    assert app.calls == []  # type: ignore[attr-defined]


def test_a_stray_waits_while_the_version_that_wants_it_has_ended_a_moment_ago_and_may_come_back(app: Pipeline) -> None:
    run(app, "other", "question.late")
    app.ledger.workers.leave("other")
    with pytest.raises(CeleryRetry):
        deliver(app, app.publish("question.late", {}), stray=True)


def test_a_stray_that_nobody_wants_is_recorded_with_the_reason_and_said_once(
    app: Pipeline, caplog: pytest.LogCaptureFixture
) -> None:
    run(app, "gone", "question.asked", "question.late")
    app.ledger.workers.leave("gone")
    move(app.ledger, workers, GONE_AFTER, "seen")
    run(app, "new", "question.asked")
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            deliver(app, app.publish("question.late", {}), stray=True)
    found = rows(app, agent="answer")
    assert {(row["outcome"], row["error"]) for row in found} == {
        ("filtered", "no version of the agent that runs listens to question.late")
    }
    lines = [one.getMessage() for one in caplog.records if "does not want question.late" in one.getMessage()]
    assert len(lines) == 1
    assert any(row["event_id"] in lines[0] for row in found)


@pytest.fixture
def picky(app: Pipeline) -> Pipeline:
    """An app with an agent that wants little of what it listens to."""

    @app.agent(on="question.#", where="n = 1")
    def picky(event: Event) -> None:
        app.calls.append(event.id)  # type: ignore[attr-defined]

    return app


def run_picky(app: Pipeline, worker: str, where: str, *patterns: str) -> None:
    """Let a worker live whose version of the agent has these patterns and this filter."""
    said = {"picky": Wanting(parse(where), {}).as_data(1.0)}
    app.ledger.subscribers.register({"picky": (patterns or ("question.#",), None)}, worker, said)


def test_what_its_filter_keeps_back_waits_for_a_version_that_runs_and_wants_it(picky: Pipeline) -> None:
    run_picky(picky, "this", "n = 1")
    run_picky(picky, "other", "n = 2")
    mine, theirs, nobodys = (picky.publish("question.asked", {"n": n}) for n in (1, 2, 3))
    deliver(picky, mine, "picky", redelivered=True)
    deliver(picky, nobodys, "picky", redelivered=True)
    with pytest.raises(CeleryRetry):
        deliver(picky, theirs, "picky", redelivered=True)
    found = {row["event_id"]: (row["outcome"], row["attempts"], row["error"]) for row in rows(picky, agent="picky")}
    assert found == {
        mine.id: ("succeeded", 1, None),
        nobodys.id: ("filtered", 0, "its filter does not match"),
        theirs.id: ("retrying", 0, "waits for a worker whose version of the agent wants it by its filter"),
    }
    picky.ledger.workers.leave("other")
    deliver(picky, theirs, "picky", attempt=1)
    assert [row["outcome"] for row in rows(picky, event_id=theirs.id, agent="picky")] == ["filtered"]
    assert picky.calls == [mine.id]  # type: ignore[attr-defined]


def test_a_version_that_does_not_listen_to_an_event_is_not_waited_for(picky: Pipeline) -> None:
    run_picky(picky, "other", "n = 2", "question.late")
    event = picky.publish("question.asked", {"n": 2})
    deliver(picky, event, "picky", redelivered=True)
    assert [row["outcome"] for row in rows(picky, agent="picky")] == ["filtered"]


def test_a_stray_that_somebody_has_asked_for_gets_to_the_agent_when_no_other_version_wants_it(app: Pipeline) -> None:
    event = app.publish("question.late", {})
    deliver(app, event, stray=True, requeued=1)
    assert app.calls == [event.id]  # type: ignore[attr-defined]


def test_what_another_version_has_marked_as_a_stray_is_handled_by_the_one_that_wants_it(app: Pipeline) -> None:
    event = app.publish("question.asked", {})
    deliver(app, event, stray=True)
    assert app.calls == [event.id]  # type: ignore[attr-defined]


def test_without_a_ledger_a_stray_is_offered_a_number_of_times_and_then_is_a_dead_letter(app: Pipeline) -> None:
    books = Plain(app.bus)
    delivery = Delivery("d", new_event("question.late", {}, source="/t"), "answer", wanted=False)
    pauses = [books.stray(delivery._replace(handed=handed)) for handed in range(strays.MOST)]
    assert all(isinstance(pause, strays.Paused) and 0 < pause.delay <= strays.LONGEST_UNKNOWN for pause in pauses)
    with pytest.raises(NobodyListens, match=r"listens to question\.late, as far as can be known"):
        books.stray(delivery._replace(handed=strays.MOST))


@pytest.mark.parametrize("trouble", [BrokerUnavailable("away"), QueueConflict("other arguments")])
def test_without_a_ledger_an_event_goes_back_when_what_it_emits_cannot_be_sent(
    app: Pipeline, monkeypatch: pytest.MonkeyPatch, trouble: Exception
) -> None:
    def refuse(_: object) -> bool:
        raise trouble

    monkeypatch.setattr(app.bus.outbox, "send", refuse)
    with pytest.raises(NotRecordedError, match=str(trouble)):
        Plain(app.bus).send([])


@pytest.mark.parametrize(("age", "most"), [(0, 0.5), (-9, 0.5), (20, 5), (10**6, 30)])
def test_the_pause_of_a_stray_grows_with_its_age(age: int, most: float) -> None:
    event = new_event("question.late", {}, source="/t").evolve(time=datetime.now(UTC) - timedelta(seconds=age))
    assert most / 2 - 0.1 <= strays.kept(Delivery("d", event, "answer")).delay <= most + 0.1


class Message:
    """What a consumer gets."""

    def __init__(self, event: Event) -> None:
        self.body = event.encode()
        self.delivery_info = {"routing_key": "agent.answer"}
        self.headers: dict[str, object] = {}


def test_a_requeued_delivery_is_another_task_for_celery_each_time_and_the_same_delivery(app: Pipeline) -> None:
    event = app.publish("question.asked", {})
    ids, deliveries = set(), set()
    for number in (0, 1, 2):
        message = Message(event)
        bus = {"direct": True, **({"requeued": number} if number else {})}
        about = {"id": event.id, "type": event.type, "targets": None, "bus": bus}
        assert to_task_message(message, about, app.agents["answer"], "agent.answer")
        headers: Any = message.headers
        ids.add(headers["id"])
        deliveries.add(headers["bus"].get("delivery", headers["id"]))
    assert (len(ids), len(deliveries)) == (3, 1)
