"""The bookkeeping of deliveries: what is raised, what is written, and what is sent, whatever went wrong."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from celery.exceptions import Ignore, Reject
from celery.exceptions import Retry as CeleryRetry

from pipeline import Context, Event, Pipeline
from pipeline.core.errors import InvalidEvent, LedgerUnavailable, WorkerDied
from pipeline.core.ids import delivery_id
from pipeline.core.outcome import Outcome
from pipeline.delivery.inbox import Delivery, Inbox
from pipeline.families import DeliveryDead
from pipeline.ledger import due
from pipeline.ledger.database.tables import events, outbox, timers
from pipeline.ledger.ledger import Claim
from tests.records import logged, make_app, order, rows


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Pipeline]:
    one = make_app(f"sqlite:///{tmp_path / 'ledger.db'}", tmp_path)
    due.heartbeat(one.ledger, one.worker_id)
    yield one
    one.close()


@pytest.fixture
def inbox(app: Pipeline) -> Inbox:
    assert isinstance(app.inbox, Inbox)
    return app.inbox


def task_of(app: Pipeline) -> Any:
    app.celery.finalize()
    return app.celery.tasks["agent.billing"]


def delivery(app: Pipeline, **options: Any) -> Delivery:
    event = app.publish(order())
    return Delivery(delivery_id(event.id, "billing"), event, **options)


def context(app: Pipeline, one: Delivery, attempt: int = 1) -> Context:
    return Context(one.event, "billing", one.id, attempt, "/t/agent/billing", None, ledger=app.ledger)


def billing(app: Pipeline) -> dict[str, Any]:
    (row,) = rows(app, agent="billing")
    return row


def test_a_success_is_recorded_and_what_it_emitted_is_sent(app: Pipeline, inbox: Inbox) -> None:
    one = delivery(app)
    ctx = context(app, one)
    assert inbox.claim(task_of(app), one) == Claim(1, Outcome.RUNNING)
    emitted, later = ctx.publish("order.paid", {}), ctx.publish("order.late", {}, delay=60)
    inbox.succeed(task_of(app), one, ctx, None)
    assert (billing(app)["outcome"], [event.id for event in logged(app, "order.paid")]) == ("succeeded", [emitted.id])
    assert [row["id"] for row in rows(app, timers)] == [later.id]
    assert rows(app, outbox) == [], "it was sent"


def test_what_was_recorded_and_not_sent_is_sent_when_the_delivery_comes_again(app: Pipeline, inbox: Inbox) -> None:
    one = delivery(app)
    ctx = context(app, one)
    inbox.claim(task_of(app), one)
    ctx.publish("order.paid", {})
    app.outbox._away_until = float("inf")
    inbox.succeed(task_of(app), one, ctx, None)
    assert len(rows(app, outbox)) == 1
    app.outbox._away_until = 0.0
    claim = inbox.claim(task_of(app), one)
    assert (claim.attempt, claim.outcome, claim.emitted) == (0, Outcome.SUCCEEDED, 1)
    assert inbox.again(one, claim) is None
    assert rows(app, outbox) == []


def test_a_second_run_that_ends_later_takes_no_effect(app: Pipeline, inbox: Inbox) -> None:
    one = delivery(app)
    inbox.claim(task_of(app), one)
    inbox.succeed(task_of(app), one, context(app, one), None)
    late = context(app, one)
    late.publish("order.paid", {})
    inbox.succeed(task_of(app), one, late, None)
    assert logged(app, "order.paid") == []


@pytest.mark.parametrize("outcome", [Outcome.RUNNING, Outcome.RETRYING])
def test_a_copy_of_a_chords_member_that_is_at_work_says_nothing_to_the_chord(
    app: Pipeline, inbox: Inbox, outcome: Outcome
) -> None:
    one = delivery(app, in_canvas=True)
    inbox.claim(task_of(app), one)
    if outcome is Outcome.RETRYING:
        app.ledger.again(one.id, one.event, 1, delay=60, error="boom", timer=False)
    claim = inbox.claim(task_of(app), one)
    assert (claim.attempt, claim.outcome) == (0, outcome)
    with pytest.raises(Ignore):
        inbox.again(one, claim)


def test_a_chords_member_that_is_dead_fails_the_chord_and_one_that_is_done_answers(app: Pipeline, inbox: Inbox) -> None:
    dead, done = delivery(app, in_canvas=True), delivery(app, in_canvas=True)
    for one in (dead, done):
        inbox.claim(task_of(app), one)
    inbox.fail(task_of(app), dead, 1, InvalidEvent("data: wrong"))
    inbox.succeed(task_of(app), done, context(app, done), {"total": 7})
    with pytest.raises(WorkerDied, match="this delivery is dead"):
        inbox.again(dead, inbox.claim(task_of(app), dead))
    assert inbox.again(done, inbox.claim(task_of(app), done)) == {"total": 7}


def test_a_failure_that_may_pass_is_tried_again_by_a_timer(app: Pipeline, inbox: Inbox) -> None:
    one = delivery(app)
    inbox.claim(task_of(app), one)
    assert isinstance(inbox.fail(task_of(app), one, 1, ValueError("boom")), CeleryRetry)
    assert [row["id"] for row in rows(app, timers)] == [one.id]
    assert (billing(app)["outcome"], billing(app)["error"]) == ("retrying", "ValueError: boom")


def test_a_failure_for_good_is_dead_and_announced_once(app: Pipeline, inbox: Inbox) -> None:
    one = delivery(app)
    inbox.claim(task_of(app), one)
    error = InvalidEvent("data: wrong")
    for _ in range(2):
        assert inbox.fail(task_of(app), one, 1, error) is error
    (announced,) = logged(app, DeliveryDead.event_type)
    assert (announced.causation_id, announced.data["delivery_id"]) == (one.event.id, one.id)
    assert billing(app)["outcome"] == "dead"


def test_the_death_of_an_announcement_is_not_announced(app: Pipeline, inbox: Inbox) -> None:
    about = delivery(app)
    inbox.claim(task_of(app), about)
    inbox.fail(task_of(app), about, 1, InvalidEvent("data: wrong"))
    (event,) = logged(app, DeliveryDead.event_type)
    one = Delivery(delivery_id(event.id, "billing"), event)
    inbox.claim(task_of(app), one)
    inbox.fail(task_of(app), one, 1, InvalidEvent("data: wrong"))
    assert len(logged(app, DeliveryDead.event_type)) == 1


def test_attempts_that_each_kill_their_worker_end_the_delivery(app: Pipeline, inbox: Inbox) -> None:
    task = task_of(app)
    one = delivery(app, redelivered=True)
    for attempt in range(1, task.agent.retry.max + 2):
        assert inbox.claim(task, one).attempt == attempt
    with pytest.raises(WorkerDied, match="its worker died"):
        inbox.claim(task, one)
    assert billing(app)["outcome"] == "dead"


def test_a_process_that_died_after_its_success_was_recorded_changes_nothing(app: Pipeline, inbox: Inbox) -> None:
    one = delivery(app)
    inbox.claim(task_of(app), one)
    inbox.succeed(task_of(app), one, context(app, one), None)
    before = billing(app)
    with pytest.raises(Reject):  # it comes again, and whoever gets it finishes it
        inbox.process_died(task_of(app), one, WorkerDied("killed"))
    assert (billing(app), rows(app, timers)) == (before, [])


def test_a_process_that_died_in_an_attempt_has_failed_it(app: Pipeline, inbox: Inbox) -> None:
    one = delivery(app)
    inbox.claim(task_of(app), one)
    assert isinstance(inbox.process_died(task_of(app), one, WorkerDied("killed")), CeleryRetry)
    with pytest.raises(Reject):
        inbox.process_died(task_of(app), one, WorkerDied("killed"))
    assert (billing(app)["outcome"], billing(app)["attempts"]) == ("retrying", 1)


def away(*_: Any, **__: Any) -> Any:
    raise LedgerUnavailable("the ledger is away")


@pytest.mark.parametrize("step", ["claim", "succeed", "fail", "die", "process_died"])
def test_what_cannot_be_recorded_goes_back_to_the_queue(
    app: Pipeline, inbox: Inbox, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, task = delivery(app), task_of(app)
    if step != "claim":
        inbox.claim(task, one)
    before = rows(app)
    with monkeypatch.context() as patch:
        for method in ("claim", "succeed", "again", "die"):
            patch.setattr(app.ledger, method, away)
        if step in ("fail", "die"):
            error = ValueError("boom") if step == "fail" else InvalidEvent("wrong")
            found: Any = inbox.fail(task, one, 1, error)
        else:
            call = {
                "claim": lambda: inbox.claim(task, one),
                "succeed": lambda: inbox.succeed(task, one, context(app, one), None),
                "process_died": lambda: inbox.process_died(task, one, WorkerDied("killed")),
            }[step]
            with pytest.raises(Reject) as caught:
                call()
            found = caught.value
    assert isinstance(found, Reject)
    assert found.requeue
    assert rows(app) == before


def test_a_silent_replay_records_what_it_emits_and_sends_nothing(app: Pipeline, inbox: Inbox) -> None:
    one = delivery(app, replay="r1", broadcast=False)
    inbox.claim(task_of(app), one)
    ctx = context(app, one)
    ctx.publish("order.paid", {})
    ctx.publish("order.late", {}, delay=60)
    inbox.succeed(task_of(app), one, ctx, None)
    (row,) = rows(app, events, type="order.paid")
    assert (row["replay"], row["delivery"]) == ("r1", one.id)
    assert Event.decode(row["body"]).causation_id == one.event.id
    assert (rows(app, outbox), rows(app, timers)) == ([], [])
