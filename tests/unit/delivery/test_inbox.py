"""The bookkeeping of deliveries: what is raised, what is written, and what is sent, whatever went wrong."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from celery.exceptions import Ignore

from pipeline import Context, Event, Limit, Pipeline
from pipeline.agents.effects import NOTHING, Effects
from pipeline.core.errors import (
    EventTooLarge,
    InvalidEvent,
    LedgerRefused,
    LedgerUnavailable,
    NotAnEventError,
    WorkerDied,
)
from pipeline.core.event import new_event
from pipeline.core.ids import delivery_id
from pipeline.core.outcome import Outcome
from pipeline.core.retry import Dead
from pipeline.delivery.delivery import Ended, NotRecordedError, Postponed, Scheduled, decided
from pipeline.delivery.inbox import Inbox
from pipeline.delivery.plain import Plain
from pipeline.delivery.steps import Paused
from pipeline.delivery.turns.turns import turns_of
from pipeline.families import DeliveryDead
from pipeline.ledger.database.tables import events, outbox, timers
from pipeline.ledger.database.waiting import turns
from pipeline.ledger.facts import Delivery
from pipeline.ledger.ledger import Claim
from tests.foreign import foreign
from tests.records import logged, make_app, order, rows


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Pipeline]:
    one = make_app(f"sqlite:///{tmp_path / 'ledger.db'}", tmp_path)
    one.ledger.workers.heartbeat(one.bus.worker_id)
    yield one
    one.close()


@pytest.fixture
def inbox(app: Pipeline) -> Inbox:
    return Inbox(app.bus)


def delivery(app: Pipeline, **options: Any) -> Delivery:
    event = app.publish(order())
    return Delivery(delivery_id(event.id, "billing"), event, "billing", "/t/agent/billing", **options)


def context(app: Pipeline, one: Delivery, attempt: int = 1) -> Context:
    return Context(one.event, "billing", one.id, attempt, "/t/agent/billing", None, ledger=app.ledger)


def billing(app: Pipeline) -> dict[str, Any]:
    (row,) = rows(app, agent="billing")
    return row


def test_lines_about_another_programs_event_name_it_as_the_ledger_does(
    app: Pipeline, inbox: Inbox, caplog: pytest.LogCaptureFixture
) -> None:
    event = Event.decode(json.dumps(foreign()), None)
    one = Delivery(delivery_id(event.key, "billing"), event, "billing", "/t/agent/billing")
    with caplog.at_level("INFO"):
        decided(one, 1, ConnectionError("boom"))
        decided(one, 100, ConnectionError("boom"))
        inbox.done_before(one, Claim(0, Outcome.SUCCEEDED))
    assert len(caplog.messages) == 3
    assert all(event.key in line for line in caplog.messages)


def test_a_process_that_has_parked_a_delivery_before_it_died_does_not_end_what_runs_elsewhere_by_now(
    app: Pipeline, inbox: Inbox
) -> None:
    one = delivery(app)
    app.ledger.workers.heartbeat("another")
    assert app.ledger.claim(one, worker="another").attempt == 1
    with pytest.raises(NotRecordedError):
        inbox.died(one, WorkerDied("boom"), None)
    assert (billing(app)["outcome"], billing(app)["worker"]) == ("running", "another")


def test_a_process_that_has_died_ends_its_own_attempt_and_not_that_of_another_one_of_its_worker(
    app: Pipeline, inbox: Inbox
) -> None:
    one = delivery(app)
    assert inbox.claim(one).attempt == 1
    with pytest.raises(NotRecordedError):
        inbox.died(one, WorkerDied("boom"), os.getpid() + 1)
    assert isinstance(inbox.died(one, WorkerDied("boom"), os.getpid()), Scheduled)


def test_an_event_that_the_database_refuses_goes_to_the_brokers_dead_letters(
    app: Pipeline, inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = delivery(app)

    def refuse(*_: object, **__: object) -> None:
        raise LedgerRefused("the ledger does not take it")

    monkeypatch.setattr(app.ledger, "claim", refuse)
    with pytest.raises(NotAnEventError, match="does not take it"):
        inbox.claim(one)


def test_a_success_that_the_database_refuses_is_a_failed_attempt_and_does_not_come_again(
    app: Pipeline, inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = delivery(app)
    inbox.claim(one)

    def refuse(*_: object, **__: object) -> None:
        raise LedgerRefused("the ledger does not take it")

    monkeypatch.setattr(app.ledger, "succeed", refuse)
    with pytest.raises(LedgerRefused) as caught:
        inbox.succeed(one, 1, NOTHING, None)
    inbox.fail(one, 1, caught.value)
    assert "does not take it" in billing(app)["error"]


def test_a_success_is_recorded_and_what_it_emitted_is_sent(app: Pipeline, inbox: Inbox) -> None:
    one = delivery(app)
    ctx = context(app, one)
    assert inbox.claim(one) == Claim(1, Outcome.RUNNING)
    emitted, later = ctx.publish("order.paid", {}), ctx.publish("order.late", {}, delay=60)
    inbox.send(inbox.succeed(one, 1, ctx.effects(), None))
    assert (billing(app)["outcome"], [event.id for event in logged(app, "order.paid")]) == ("succeeded", [emitted.id])
    assert [row["id"] for row in rows(app, timers)] == [later.id]
    assert rows(app, outbox) == [], "it was sent"


def test_what_was_recorded_and_not_sent_is_sent_when_the_delivery_comes_again(app: Pipeline, inbox: Inbox) -> None:
    one = delivery(app)
    ctx = context(app, one)
    inbox.claim(one)
    ctx.publish("order.paid", {})
    app.bus.outbox._away_until = float("inf")
    inbox.send(inbox.succeed(one, 1, ctx.effects(), None))
    assert len(rows(app, outbox)) == 1
    app.bus.outbox._away_until = 0.0
    claim = inbox.claim(one)
    assert (claim.attempt, claim.outcome, claim.emitted) == (0, Outcome.SUCCEEDED, 1)
    assert inbox.done_before(one, claim) is None
    assert rows(app, outbox) == []


def test_a_second_run_that_ends_later_takes_no_effect(app: Pipeline, inbox: Inbox) -> None:
    one = delivery(app)
    inbox.claim(one)
    inbox.succeed(one, 1, context(app, one).effects(), None)
    late = context(app, one)
    late.publish("order.paid", {})
    inbox.succeed(one, 1, late.effects(), None)
    assert logged(app, "order.paid") == []


@pytest.mark.parametrize("outcome", [Outcome.RUNNING, Outcome.RETRYING])
def test_a_copy_of_a_chords_member_that_is_at_work_says_nothing_to_the_chord(
    app: Pipeline, inbox: Inbox, outcome: Outcome
) -> None:
    one = delivery(app, in_canvas=True)
    inbox.claim(one)
    if outcome is Outcome.RETRYING:
        app.ledger.again(one.id, one.event, 1, delay=60, error="boom", timer=False)
    claim = inbox.claim(one)
    assert (claim.attempt, claim.outcome) == (0, outcome)
    with pytest.raises(Ignore):
        inbox.done_before(one, claim)


def test_a_chords_member_that_is_dead_fails_the_chord_and_one_that_is_done_answers(app: Pipeline, inbox: Inbox) -> None:
    dead, done = delivery(app, in_canvas=True), delivery(app, in_canvas=True)
    for one in (dead, done):
        inbox.claim(one)
    inbox.fail(dead, 1, InvalidEvent("data: wrong"))
    inbox.succeed(done, 1, context(app, done).effects(), {"total": 7})
    with pytest.raises(WorkerDied, match="this delivery is dead"):
        inbox.done_before(dead, inbox.claim(dead))
    assert inbox.done_before(done, inbox.claim(done)) == {"total": 7}


def test_a_chords_member_stands_in_line_until_it_asks_again(app: Pipeline, inbox: Inbox) -> None:
    app.agent(on="order.#", name="limited", limit=Limit(concurrent=1))(lambda data: None)
    found = []
    for in_canvas in (False, True):
        event = app.publish(order())
        one = Delivery(delivery_id(event.id, "limited"), event, "limited", "/t", in_canvas=in_canvas)
        one = one._replace(turns=turns_of(app.agents["limited"], event))
        found.append((one, inbox.claim(one).attempt, inbox.take(one)))
    (running, *_, none), (member, attempt, waits) = found
    assert none is None
    assert isinstance(waits, Paused)
    assert isinstance(inbox.paused(member, attempt, waits), Postponed)
    assert [row["state"] for row in rows(app, turns, delivery=member.id)] == ["waiting"]
    inbox.succeed(running, 1, NOTHING, None)
    assert [row["state"] for row in rows(app, turns, delivery=member.id)] == ["called"]
    inbox.claim(member._replace(expected=1))
    assert inbox.take(member) is None


def test_a_failure_that_may_pass_is_tried_again_by_a_timer(app: Pipeline, inbox: Inbox) -> None:
    one = delivery(app)
    inbox.claim(one)
    assert isinstance(inbox.fail(one, 1, ValueError("boom")), Scheduled)
    assert [row["id"] for row in rows(app, timers)] == [one.id]
    assert (billing(app)["outcome"], billing(app)["error"]) == ("retrying", "ValueError: boom")


def test_a_failure_for_good_is_dead_and_announced_once(app: Pipeline, inbox: Inbox) -> None:
    one = delivery(app)
    inbox.claim(one)
    error = InvalidEvent("data: wrong")
    for _ in range(2):
        assert isinstance(inbox.fail(one, 1, error), Dead)
    (announced,) = logged(app, DeliveryDead.event_type)
    assert (announced.causation_id, announced.data["delivery_id"]) == (one.event.id, one.id)
    assert billing(app)["outcome"] == "dead"


def test_the_death_of_an_announcement_is_not_announced(app: Pipeline, inbox: Inbox) -> None:
    about = delivery(app)
    inbox.claim(about)
    inbox.fail(about, 1, InvalidEvent("data: wrong"))
    (event,) = logged(app, DeliveryDead.event_type)
    one = Delivery(delivery_id(event.id, "billing"), event, "billing", "/t/agent/billing")
    inbox.claim(one)
    inbox.fail(one, 1, InvalidEvent("data: wrong"))
    assert len(logged(app, DeliveryDead.event_type)) == 1


def test_attempts_that_each_kill_their_worker_end_the_delivery(app: Pipeline, inbox: Inbox) -> None:
    one = delivery(app, redelivered=True)
    for attempt in range(1, one.retry.max + 2):
        assert inbox.claim(one).attempt == attempt
    with pytest.raises(WorkerDied, match="its worker died"):
        inbox.claim(one)
    assert billing(app)["outcome"] == "dead"


def test_a_process_that_died_after_its_success_was_recorded_changes_nothing(app: Pipeline, inbox: Inbox) -> None:
    one = delivery(app)
    inbox.claim(one)
    inbox.succeed(one, 1, context(app, one).effects(), None)
    before = billing(app)
    with pytest.raises(NotRecordedError):  # it comes again, and whoever gets it finishes it
        inbox.died(one, WorkerDied("killed"), None)
    assert (billing(app), rows(app, timers)) == (before, [])


def test_a_process_that_died_in_an_attempt_has_failed_it(app: Pipeline, inbox: Inbox) -> None:
    one = delivery(app)
    inbox.claim(one)
    assert isinstance(inbox.died(one, WorkerDied("killed"), None), Scheduled)
    with pytest.raises(NotRecordedError):
        inbox.died(one, WorkerDied("killed"), None)
    assert (billing(app)["outcome"], billing(app)["attempts"]) == ("retrying", 1)


def away(*_: Any, **__: Any) -> Any:
    raise LedgerUnavailable("the ledger is away")


@pytest.mark.parametrize("step", ["claim", "succeed", "fail", "die", "died"])
def test_what_cannot_be_recorded_goes_back_to_the_queue(
    app: Pipeline, inbox: Inbox, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = delivery(app)
    if step != "claim":
        inbox.claim(one)
    before = rows(app)
    with monkeypatch.context() as patch:
        for method in ("claim", "succeed", "again", "die"):
            patch.setattr(app.ledger, method, away)
        call = {
            "claim": lambda: inbox.claim(one),
            "succeed": lambda: inbox.succeed(one, 1, NOTHING, None),
            "fail": lambda: inbox.fail(one, 1, ValueError("boom")),
            "die": lambda: inbox.fail(one, 1, InvalidEvent("wrong")),
            "died": lambda: inbox.died(one, WorkerDied("killed"), None),
        }[step]
        with pytest.raises(NotRecordedError) as caught:
            call()
    assert isinstance(caught.value.__cause__, LedgerUnavailable)
    assert rows(app) == before


def test_a_ledger_that_is_away_while_events_are_encoded_is_no_failed_attempt(
    app: Pipeline, inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = delivery(app)
    inbox.claim(one)
    ctx = context(app, one)
    ctx.publish("order.paid", {})
    monkeypatch.setattr(app.bus.outbox, "encode", away)  # the ledger's id is asked for there
    with pytest.raises(NotRecordedError):
        inbox.succeed(one, 1, ctx.effects(), None)
    assert billing(app)["outcome"] == "running"


def test_a_silent_replay_records_what_it_emits_and_sends_nothing(app: Pipeline, inbox: Inbox) -> None:
    one = delivery(app, replay="r1", broadcast=False)
    inbox.claim(one)
    ctx = context(app, one)
    ctx.publish("order.paid", {})
    ctx.publish("order.late", {}, delay=60)
    inbox.send(inbox.succeed(one, 1, ctx.effects(), None))
    (row,) = rows(app, events, type="order.paid")
    assert (row["replay"], row["delivery"]) == ("r1", one.id)
    assert Event.decode(row["body"]).causation_id == one.event.id
    assert (rows(app, outbox), rows(app, timers)) == ([], [])


# -- groups


def test_a_group_is_claimed_and_recorded_and_what_it_emitted_is_sent(app: Pipeline, inbox: Inbox) -> None:
    group = [delivery(app), delivery(app, replay="r1", broadcast=False), delivery(app)]
    assert inbox.claim_all(group) == [Claim(1, Outcome.RUNNING)] * 3
    inbox.succeed(group[2], 1, NOTHING, None)
    contexts = [context(app, one) for one in group]
    emitted = [ctx.publish("order.paid", {}) for ctx in contexts]
    found = inbox.succeed_all([Ended(one, 1, ctx.effects()) for one, ctx in zip(group, contexts, strict=True)])
    to_send = [[one.event.id for one in each] for each in found if not isinstance(each, BaseException)]
    assert to_send == [[emitted[0].id], [], []], "a silent replay sends nothing, and another run was first"
    assert [row["event_id"] for row in rows(app, outbox)] == to_send[0]
    inbox.send([one for each in found if not isinstance(each, BaseException) for one in each])
    assert rows(app, outbox) == []
    assert {event.id for event in logged(app, "order.paid")} == {emitted[0].id, emitted[1].id}


def test_what_is_wrong_with_one_of_a_group_is_what_it_would_be_alone(
    app: Pipeline, inbox: Inbox, caplog: pytest.LogCaptureFixture
) -> None:
    used_up = delivery(app, redelivered=True)
    for _ in range(used_up.retry.max + 1):
        inbox.claim(used_up)
    done = delivery(app)
    inbox.claim(done)
    inbox.succeed(done, 1, NOTHING, None)
    group = [delivery(app), used_up, delivery(app)._replace(agent="\ud800"), done, delivery(app, in_canvas=True)]
    claims = inbox.claim_all(group)
    assert [type(claim) for claim in claims] == [Claim, WorkerDied, NotAnEventError, Claim, Claim]
    assert [getattr(claim, "attempt", None) for claim in claims] == [1, None, None, 0, 1]
    assert [row["outcome"] for row in rows(app, id=used_up.id)] == ["dead"]
    lost, wrong = delivery(app), {1, 2}  # never claimed; no JSON
    ended = [Ended(group[0], 1, NOTHING), Ended(lost, 1, NOTHING), Ended(group[4], 1, NOTHING, wrong)]
    found = inbox.succeed_all(ended)
    assert [type(one) for one in found] == [list, NotRecordedError, TypeError]
    assert [row["outcome"] for one in (group[0], group[4]) for row in rows(app, id=one.id)] == ["succeeded", "running"]


def test_when_the_ledger_is_away_a_whole_group_goes_back_to_its_queues(
    app: Pipeline, inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = [delivery(app), delivery(app)]
    inbox.claim_all(group)
    before = rows(app)
    with monkeypatch.context() as patch:
        for method in ("claim_all", "succeed_all"):
            patch.setattr(app.ledger, method, away)
        found = [*inbox.claim_all(group), *inbox.succeed_all([Ended(one, 1, NOTHING) for one in group])]
    assert [(type(one), type(getattr(one, "__cause__", None))) for one in found] == [
        (NotRecordedError, LedgerUnavailable)
    ] * 4
    assert rows(app) == before
    assert inbox.claim_all([]) == inbox.succeed_all([]) == []


def test_without_a_ledger_a_group_is_what_its_members_are(tmp_path: Path) -> None:
    app = Pipeline("t", ledger_url="", broker_url=f"sqlite:///{tmp_path / 'broker.db'}", directory=tmp_path)
    plain = Plain(app.bus)
    events = [app.publish(order()) for _ in range(2)]
    group = [Delivery(delivery_id(one.id, "billing"), one, "billing", "/t", retries=n) for n, one in enumerate(events)]
    assert plain.claim_all(group) == [Claim(1, Outcome.RUNNING), Claim(2, Outcome.RUNNING)]
    fine, large = (new_event("order.paid", data, source="/t") for data in ({}, "x" * app.bus.settings.max_event_bytes))
    found = plain.succeed_all(
        [Ended(one, 1, Effects((event,))) for one, event in zip(group, (fine, large), strict=True)]
    )
    assert [[one.event for one in each] if isinstance(each, list) else type(each) for each in found] == [
        [fine],
        EventTooLarge,
    ]
    app.close()
