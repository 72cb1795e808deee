"""The steps around a handler, and what becomes of their answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from celery.exceptions import Reject
from celery.exceptions import Retry as CeleryRetry
from sqlalchemy import text

from pipeline import Context, Event, InvalidEvent, Payload, Pipeline, UnknownAgent
from pipeline.contracts.newer import DEAD, NewerMajor
from pipeline.contracts.versions import version_of
from pipeline.core.errors import LedgerUnavailable
from pipeline.core.event import new_event
from pipeline.core.ids import delivery_id
from pipeline.core.times import SECOND, now
from pipeline.delivery import steps
from pipeline.delivery.delivery import Postponed
from pipeline.delivery.plain import Plain
from pipeline.delivery.steps import Attempt, Done, Filtered, Paused, Result
from pipeline.ledger.database.tables import deliveries, outbox, timers
from pipeline.ledger.deliveries import Delivery
from tests.ledgers import move, release
from tests.records import logged, make_app, rows


class Asked(Payload, type="question.asked"):
    n: int


Next = Callable[[], Result]
ONE, TWO = version_of("1.0.0"), version_of("2.0.0")


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Pipeline]:
    one = make_app(f"sqlite:///{tmp_path / 'ledger.db'}", tmp_path, agents=False)

    @one.agent(on=Asked)
    def answer(asked: Asked, ctx: Context) -> None:
        calls.append(asked.n)
        if asked.n == 0:
            ctx.session.execute(text("CREATE TABLE IF NOT EXISTS effects (n INTEGER)"))
            ctx.publish("answer.given", {})
        if asked.n < 0:
            ctx.publish("answer.given", {}, targets=("newcomer",))

    calls: list[int] = []
    one.calls = calls  # type: ignore[attr-defined]
    one.ledger.subscribers.register({"answer": (("question.asked",), None)})
    one.ledger.workers.heartbeat(one.bus.worker_id)
    yield one
    one.close()


def deliver(app: Pipeline, event: Event, agent: str = "answer", *, redelivered: bool = False, **bus: Any) -> Any:
    """Run the task of an agent as a worker does."""
    app.celery.finalize()
    task = app.celery.tasks[f"agent.{agent}"]
    task.push_request(
        id=delivery_id(event.id, agent), retries=0, called_directly=False, is_eager=False, ignore_result=True,
        delivery_info={"redelivered": redelivered}, bus={"ledger": app.ledger.id, "key": event.key, **bus},
    )  # fmt: skip
    try:
        return task.run(event.encode().decode())
    finally:
        task.pop_request()


def row(app: Pipeline) -> dict[str, Any]:
    (found,) = rows(app, agent="answer")
    return found


def test_steps_are_gone_through_in_their_order_and_the_handler_is_last(app: Pipeline) -> None:
    way: list[str] = []

    def named(name: str) -> steps.Step:
        def step(attempt: Attempt, call_next: Next) -> Result:
            way.append(name)
            result = call_next()
            way.append(f"{name} again")
            return result

        return step

    event = app.publish(Asked(n=1))
    context = Context(event, "answer", "d", 1, "/t", None)
    attempt = Attempt(app.bus, app.agents["answer"], context)
    assert steps.run(attempt, (named("first"), named("second"), steps.contract)) == Done(None)
    assert way == ["first", "second", "second again", "first again"]
    assert app.calls == [1]


def test_the_contract_is_checked_before_the_handler_is_called(app: Pipeline) -> None:
    event = app.publish(Event(id="e1", type="question.asked", source="/other", data={"n": "many"}))
    with pytest.raises(InvalidEvent, match="n: "):
        deliver(app, event)
    assert (app.calls, row(app)["outcome"]) == ([], "dead")


def asked(version: str, data: Any, **changes: Any) -> Event:
    return new_event("question.asked", data, source="/other", version=version).evolve(**changes)


def test_older_data_is_made_newer_before_the_handler_is_called(app: Pipeline) -> None:
    app.upcaster("question.asked", "0.1.0", "1.0.0")(lambda data: {"n": data["number"]})
    deliver(app, app.publish(asked("0.1.0", {"number": 7})))
    assert (app.calls, row(app)["outcome"]) == ([7], "succeeded")


def test_a_newer_major_version_waits_and_spends_no_attempt(app: Pipeline) -> None:
    event = app.publish(asked("2.0.0", {"n": "seven"}))
    for _ in range(5):
        with pytest.raises(CeleryRetry):
            deliver(app, event, attempt=1)
        assert (row(app)["outcome"], row(app)["attempts"]) == ("parked", 0)
        told, due = row(app)["error"], row(app)["due"]
        release(app.ledger)
    assert told == "waits for a worker that reads version 2.x; this one reads 1.0.0"
    assert due - now() == pytest.approx(30e6, abs=10e6)
    assert app.calls == []


def test_an_old_event_of_a_newer_major_version_waits_as_long_as_a_new_one(app: Pipeline) -> None:
    event = app.publish(asked("2.0.0", {"n": 1}, time=datetime.now(UTC) - timedelta(days=30)))
    with pytest.raises(CeleryRetry):
        deliver(app, event)
    assert row(app)["outcome"] == "parked"
    assert row(app)["due"] - now() == pytest.approx(30e6, abs=10e6)
    move(app.ledger, deliveries, 400, "waits")
    release(app.ledger)
    with pytest.raises(CeleryRetry):
        deliver(app, event, attempt=1)
    assert row(app)["due"] - now() == pytest.approx(100e6, abs=10e6)


def test_a_newer_major_version_that_nobody_reads_within_a_day_is_dead_and_requeued_it_waits_anew(
    app: Pipeline,
) -> None:
    event = app.publish(asked("2.0.0", {"n": 1}))
    with pytest.raises(CeleryRetry):
        deliver(app, event)
    move(app.ledger, deliveries, DEAD, "waits")
    release(app.ledger)
    with pytest.raises(InvalidEvent, match=r"its version is 2.0.0, this worker's class is 1.0.0"):
        deliver(app, event, attempt=1)
    assert (app.calls, row(app)["outcome"]) == ([], "dead")
    app.dead_letters.requeue(row(app)["id"])
    with pytest.raises(CeleryRetry):
        deliver(app, event, attempt=1, requeued=1)
    assert row(app)["outcome"] == "parked"


def test_without_a_ledger_a_message_says_since_when_its_event_waits(app: Pipeline) -> None:
    books, pause = Plain(app.bus), Paused(30.0, "waits", NewerMajor(asked("2.0.0", {}), "answer", TWO, ONE))
    delivery = Delivery("d", asked("2.0.0", {}, time=datetime.now(UTC) - timedelta(days=30)), "answer")
    first = books.paused(delivery, 1, pause)
    assert isinstance(first, Postponed)
    assert first.delay == 30
    assert first.waits is not None
    later = books.paused(delivery._replace(waits=first.waits - 400 * SECOND), 1, pause)
    assert isinstance(later, Postponed)
    assert (round(later.delay), later.waits) == (100, first.waits - 400 * SECOND)
    with pytest.raises(InvalidEvent, match="within 24 h"):
        books.paused(delivery._replace(waits=first.waits - round(DEAD) * SECOND), 1, pause)


def test_a_step_that_is_missing_makes_a_dead_letter_that_names_it(app: Pipeline) -> None:
    with pytest.raises(InvalidEvent, match=r'declare @app.upcaster\("question.asked", "0.1.0", "1.0.0"\)'):
        deliver(app, app.publish(asked("0.1.0", {"n": 1})))
    assert (app.calls, row(app)["outcome"]) == ([], "dead")


def test_what_a_handler_publishes_without_a_class_is_of_the_newest_version(app: Pipeline) -> None:
    class Given(Payload, type="answer.given", version="3.1.0"): ...

    app.types.add(Given)
    deliver(app, app.publish(Asked(n=0)))
    assert [sent.schema_version for sent in logged(app, "answer.given")] == ["3.1.0"]


def test_what_is_filtered_is_recorded_and_its_handler_not_called(
    app: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps.run, "__defaults__", ((lambda attempt, call_next: Filtered("not wanted"),),))
    event = app.publish(Asked(n=1))
    assert deliver(app, event) is None
    assert app.calls == []
    assert (row(app)["outcome"], row(app)["attempts"]) == ("filtered", 0)
    assert app.settle(event, timeout=5), "nothing is open"
    assert deliver(app, event) is None, "a second copy of the message"
    assert row(app)["outcome"] == "filtered"


def test_what_is_paused_comes_again_and_has_spent_no_attempt(app: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    event = app.publish(Asked(n=1))
    with monkeypatch.context() as patch:
        patch.setattr(steps.run, "__defaults__", ((lambda attempt, call_next: Paused(60.0),),))
        for _ in range(5):  # more often than there are attempts
            with pytest.raises(CeleryRetry):
                deliver(app, event, attempt=1)
            assert (row(app)["outcome"], row(app)["attempts"]) == ("retrying", 0)
            (timer,) = rows(app, timers)
            assert (timer["id"], timer["kind"]) == (row(app)["id"], "retry")
    assert app.calls == []
    deliver(app, event, attempt=1)
    assert (app.calls, row(app)["outcome"], row(app)["attempts"]) == ([1], "succeeded", 1)
    move(app.ledger, timers, 60)
    assert app.ledger.timers.take(10)[:2] == ([], []), "there is nothing to send any more"
    assert rows(app, timers) == []


def test_what_cannot_be_recorded_is_given_back_to_the_broker(app: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: Any, **__: Any) -> Any:
        raise LedgerUnavailable("the ledger is away")

    event = app.publish(Asked(n=1))
    for verb in ("claim", "succeed"):
        with monkeypatch.context() as patch:
            patch.setattr(app.ledger, verb, away)
            with pytest.raises(Reject) as caught:
                deliver(app, event)
        assert (caught.value.requeue, caught.value.reason) == (True, "LedgerUnavailable: the ledger is away")


def test_an_error_is_tried_again_by_a_timer_and_the_last_one_is_raised(
    app: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(attempt: Attempt, call_next: Next) -> Result:
        raise ValueError("boom")

    monkeypatch.setattr(steps.run, "__defaults__", ((fail,),))
    event = app.publish(Asked(n=1))
    for attempt in (1, 2, 3):
        with pytest.raises(CeleryRetry, match="boom"):
            deliver(app, event, **({} if attempt == 1 else {"attempt": attempt}))
    with pytest.raises(ValueError, match="boom"):
        deliver(app, event, attempt=4)
    assert (row(app)["outcome"], row(app)["attempts"]) == ("dead", 4)
    assert len(logged(app, "delivery.dead")) == 1


def test_a_target_that_is_not_known_yet_is_tried_again_instead_of_dead_at_once(app: Pipeline) -> None:
    event = app.publish(Asked(n=-1))
    with pytest.raises(CeleryRetry, match="no agent is called 'newcomer'"):
        deliver(app, event)
    assert row(app)["outcome"] == "retrying"
    with pytest.raises(UnknownAgent):
        app.publish("answer.given", {}, targets=("newcomer",))
    app.ledger.subscribers.register({"newcomer": ((), None)})
    deliver(app, event, attempt=2)
    assert row(app)["outcome"] == "succeeded"
    assert [sent.targets for sent in logged(app, "answer.given")] == [("newcomer",)]


def test_what_is_emitted_beside_a_session_is_sent_when_that_is_closed(
    app: Pipeline, caplog: pytest.LogCaptureFixture
) -> None:
    deliver(app, app.publish(Asked(n=0)))
    assert "could not be noted" not in caplog.text, "the session's lock was let go before"
    assert (len(logged(app, "answer.given")), rows(app, outbox)) == (1, [])


def test_who_listens_hears_of_publishing_and_of_each_attempt(app: Pipeline) -> None:
    heard: list[tuple[str, Any]] = []

    class Listener:
        def __init__(self, name: str, attributes: Any) -> None:
            self.name, self.attributes = name, attributes

        def __enter__(self) -> None: ...

        def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
            heard.append((self.name, kind))

    leave = app.bus.spans.listen(Listener)
    good = app.publish(Asked(n=1))
    bad = app.publish(Event(id="e1", type="question.asked", source="/other", data={"n": "many"}))
    deliver(app, good)
    with pytest.raises(InvalidEvent):
        deliver(app, bad)
    leave()
    app.publish(Asked(n=2))
    published = [("send", None), ("publish", None)]
    announced = ("send", None)
    assert heard == [*published, *published, ("deliver", None), ("deliver", InvalidEvent), announced]
