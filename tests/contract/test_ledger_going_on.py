"""Deliveries that go on: what comes in time ends a wait, what is done again is asked again, and nothing gets lost."""

from __future__ import annotations

import gc
import json
import weakref
from typing import Any

import pytest
from sqlalchemy import delete, update

from pipeline import Context, Event, InvalidStep, OverBudget, Pipeline, WaitTimeout
from pipeline.agents.pausing.ask import asked
from pipeline.agents.pausing.results import reader
from pipeline.agents.waiting import Parked, Waiting
from pipeline.core.errors import CannotPark
from pipeline.core.ids import delivery_id
from pipeline.core.outcome import Outcome
from pipeline.core.retry import Dead, Retry, decide
from pipeline.core.times import SECOND, now
from pipeline.delivery.filtered import ASKED
from pipeline.ledger.database.tables import deliveries, events
from pipeline.ledger.database.waiting import stops, waits
from pipeline.ledger.facts import Delivery
from pipeline.ledger.ledger import Ledger
from pipeline.ledger.waiting.wait import EVENT, Parking, Wait
from pipeline.operations.keeping.retention import prune
from pipeline.workers.chores import meets
from tests.ledgers import DAY, DAYS, append, claim
from tests.records import age, event_ids, lose_outbox, order, rows, succeed


def all_match(condition: str, event: Event) -> bool:
    return True


def waiting_for(app: Pipeline, type: str, event: Event | None = None, **more: Any) -> str:
    """Let billing wait for an event of a type from now on; return the delivery's id."""
    event = event or append(app.ledger)[0]
    id, claimed = delivery_id(event.id, "billing"), claim(app.ledger, event)
    wait = Wait(EVENT, f"waits for {type}", f"wait for {type}", key=type, **more)
    assert app.ledger.waiting.waits.park(Parking(Delivery(id, event, "billing"), claimed.attempt, wait))
    return id


def outcome(app: Pipeline, id: str) -> str:
    return str(rows(app, id=id)[0]["outcome"])


def results(app: Pipeline, id: str) -> list[dict[str, Any]]:
    return [json.loads(step.result) for step in app.ledger.waiting.steps.of(id)]


# -- events that are waited for


def test_what_came_in_time_ends_a_wait_however_late_somebody_looks(app: Pipeline) -> None:
    id, late = waiting_for(app, "order.paid", due=now() + DAY), waiting_for(app, "order.sent", due=now() + DAY)
    (paid,) = append(app.ledger, type="order.paid")
    with app.ledger.database.transaction() as connection:
        connection.execute(update(waits).values(due=now() - SECOND))
    assert app.ledger.waiting.waits.release_due() == 0
    assert app.ledger.waiting.arrivals.release(all_match) == 2
    assert results(app, id)[0]["event"] == paid.id
    assert "timeout" in results(app, late)[0]


def test_a_condition_of_a_newer_version_stops_nobody_and_is_tried_by_one_that_knows_it(app: Pipeline) -> None:
    known = json.dumps({"payload.n": {"$gte": 0}})
    newer = waiting_for(app, "order.paid", condition=json.dumps({"payload.n": {"$between": [0, 9]}}))
    same, other = waiting_for(app, "order.paid", condition=known), waiting_for(app, "order.sent", condition=known)

    def matches(condition: str, event: Event) -> bool | None:
        return meets(condition, event.attributes())

    append(app.ledger, type="order.paid")
    append(app.ledger, type="order.sent")
    assert app.ledger.waiting.arrivals.release(matches) == 2
    assert [outcome(app, id) for id in (newer, same, other)] == ["parked", "queued", "queued"]
    append(app.ledger, 3, type="order.paid")
    assert app.ledger.waiting.arrivals.release(matches) == 0
    assert app.ledger.waiting.arrivals.release(all_match) == 1, "from where this one could not go on"
    assert outcome(app, newer) == "queued"


def test_a_condition_of_a_newer_version_times_out_as_others_do(app: Pipeline) -> None:
    id = waiting_for(app, "order.paid", condition='{"payload.n": {"$between": [0, 9]}}', due=now())
    append(app.ledger, type="order.paid")
    assert app.ledger.waiting.arrivals.release(lambda condition, event: None) == 1
    assert "timeout" in results(app, id)[0]


def test_what_nobody_waited_for_is_not_read_when_somebody_waits_again(app: Pipeline) -> None:
    asked_about: list[str] = []

    def matches(condition: str, event: Event) -> bool:
        asked_about.append(event.id)
        return True

    waiting_for(app, "order.paid", condition="{}", back=0)
    append(app.ledger, type="order.paid")
    assert app.ledger.waiting.arrivals.release(matches) == 1
    append(app.ledger, 20, type="order.paid")
    id = waiting_for(app, "order.paid", condition="{}", back=0)
    (paid,) = append(app.ledger, type="order.paid")
    asked_about.clear()
    app.ledger.waiting.arrivals.release(matches)
    app.ledger.waiting.arrivals.release(matches)
    assert (asked_about, outcome(app, id)) == ([paid.id], "queued")


def test_many_events_are_read_in_one_look(app: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.ledger.waiting.arrivals.SOME", 3)
    waiting_for(app, "order.paid", condition="{}", back=0)
    app.ledger.waiting.arrivals.release(lambda condition, event: False)
    append(app.ledger, 20, type="order.paid")
    seen: list[str] = []

    def is_the_last(condition: str, event: Event) -> bool:
        seen.append(event.id)
        return len(seen) == 20

    assert app.ledger.waiting.arrivals.release(is_the_last) == 1


def test_what_cannot_be_read_ends_no_wait(app: Pipeline) -> None:
    id = waiting_for(app, "order.paid")
    (bad,) = append(app.ledger, type="order.paid")
    with app.ledger.database.transaction() as connection:
        connection.execute(update(events).where(events.c.id == bad.id).values(body="{"))
    assert app.ledger.waiting.arrivals.release(all_match) == 0
    append(app.ledger, type="order.paid")
    assert app.ledger.waiting.arrivals.release(all_match) == 1
    assert outcome(app, id) == "queued"


def test_what_a_delivery_has_waited_for_stays_as_long_as_that_goes_on(app: Pipeline) -> None:
    first = app.publish(order())
    succeed(app, first, "stock")
    waiting_for(app, "order.seen", first)
    (seen,) = append(app.ledger, type="order.seen")
    lose_outbox(app)
    assert app.ledger.waiting.arrivals.release(all_match) == 1
    age(app, [seen], 10 * DAY)
    prune(app.ledger, older_than=DAYS)
    assert seen.id in event_ids(app)
    succeed(app, first, "billing")
    prune(app.ledger, older_than=DAYS)
    assert seen.id not in event_ids(app)


@pytest.mark.parametrize("error", [WaitTimeout("none came"), CannotPark("in a canvas")])
def test_what_waiting_has_come_to_is_no_reason_to_try_again(error: Exception) -> None:
    assert isinstance(decide(0, error, Retry(max=3), 0.5), Dead)


# -- what is done again


def proposal_of(ledger: Ledger, event: Event) -> str:
    """Return the id of what billing asks when it gets an event."""
    waiting = Waiting(ledger, event, delivery_id(event.id, "billing"), "billing", lambda proposal: True)
    what = asked("refund", {}, schema=None, message=None, expires=None, n_of=1, who=(), veto="raise")
    with pytest.raises(Parked) as parked:
        waiting.ask(what)
    return str(parked.value.wait.key)


def test_who_forgets_steps_asks_again_and_publishes_again(ledger: Ledger) -> None:
    (event,) = append(ledger)
    id = delivery_id(event.id, "billing")
    assert claim(ledger, event).attempt == 1
    before = proposal_of(ledger, event)
    assert proposal_of(ledger, event) == before
    with ledger.database.transaction() as connection:
        connection.execute(update(deliveries).where(deliveries.c.id == id).values(emitted=1))
        ledger.waiting.steps.forget(connection, id)
    again = proposal_of(ledger, event)
    assert again != before

    def published(emitted: int) -> list[Event]:
        context = Context(event, "billing", id, 1, "/agent/billing", None, ledger=ledger, emitted=emitted)
        context.publish("refund.noted", {})
        return list(context.published)

    (noted,) = published(1)
    ledger.append([record_of(noted)], due_in=0)
    assert published(2) == [], "it is out"
    with ledger.database.transaction() as connection:
        ledger.waiting.steps.forget(connection, id)
    assert proposal_of(ledger, event) not in (before, again)


def record_of(event: Event) -> Any:
    return event.encoded(10**6)


def test_who_publishes_something_else_on_the_way_back_is_told_instead_of_losing_it(ledger: Ledger) -> None:
    (event,) = append(ledger)
    id = delivery_id(event.id, "billing")

    def context(emitted: int) -> Context:
        return Context(event, "billing", id, 1, "/agent/billing", None, ledger=ledger, emitted=emitted)

    first = context(0).publish("cache.missed", {})
    ledger.append([record_of(first)], due_in=0)
    assert context(1).publish("cache.missed", {}).id == first.id
    with pytest.raises(InvalidStep, match=r"published cache\.missed here, and now report\.sent"):
        context(1).publish("report.sent", {})


def test_what_has_begun_goes_on_whatever_its_agent_wants_by_now(app: Pipeline) -> None:
    begun, untouched = append(app.ledger, 2)
    for event in (begun, untouched):
        claim(app.ledger, event)
    app.ledger.waiting.steps.keep(delivery_id(begun.id, "billing"), ("charge", 0), now(), "1")
    with app.ledger.database.transaction() as connection:
        mine = update(deliveries).where(deliveries.c.agent == "billing")
        connection.execute(mine.values(outcome=Outcome.QUEUED.value, due=0))
    marks = {message.id: message.encoded.bus or {} for message in app.ledger.due.at_once()}
    found = ["goes_on" in marks[delivery_id(event.id, "billing")] for event in (begun, untouched)]
    assert found == [True, False]
    assert "goes_on" in ASKED, "no worker's loop filters it"


def test_step_functions_that_are_made_anew_are_not_kept() -> None:
    gone = weakref.WeakSet[Any]()

    def handle() -> None:
        def step() -> int:
            return 1

        gone.add(step)
        assert reader(step, "step", None).dump(1) == "1"

    handle()
    gc.collect()
    assert len(gone) == 0


def test_what_a_step_reserves_counts_also_when_the_steps_before_it_are_kept(app: Pipeline) -> None:
    event = app.publish(order(), budget={"tokens": 100})
    id = delivery_id(event.id, "billing")
    claim(app.ledger, event)

    def run(name: str) -> None:
        """Run as an attempt that is made again after a wait, with the same number."""
        waiting = Waiting(app.ledger, event, id, "billing", lambda proposal: True)
        spending = waiting.spending("billing", 1)
        for each in ("draft", name):
            waiting.step(each, lambda: bool(spending.reserve(tokens=40)))

    run("draft")
    with pytest.raises(OverBudget):
        run("review")
    assert [step.name for step in app.ledger.waiting.steps.of(id)] == ["draft", "draft"]
    (account,) = [one for one in app.budgets.list() if one.key == event.correlation_id]
    assert account.used.tokens == 80


# -- trees that are stopped


def test_terminate_is_told_to_those_who_were_stopped_before(app: Pipeline) -> None:
    (event,) = append(app.ledger)
    claim(app.ledger, event)
    assert len(app.cancel(event, tree=True).running) == 1
    assert [row["terminate"] for row in rows(app, stops)] == [False]
    app.cancel(event, tree=True, terminate=True)
    assert [row["terminate"] for row in rows(app, stops)] == [True]


def test_who_was_refused_and_has_died_is_noted_by_the_next_one(app: Pipeline) -> None:
    (event,) = append(app.ledger)
    app.cancel(event, tree=True, by="ada")
    with app.ledger.database.transaction() as connection:  # as a claim leaves it, before it says why
        connection.execute(delete(deliveries))
        row = {"id": delivery_id(event.id, "billing"), "event_id": event.id, "agent": "billing", "attempts": 1}
        connection.execute(deliveries.insert().values(**row, outcome=Outcome.CANCELLED.value))
    assert claim(app.ledger, event, redelivered=True).outcome is Outcome.CANCELLED
    (row,) = rows(app, agent="billing")
    assert (row["attempts"], row["error"], row["ended"] is not None) == (0, "cancelled by ada", True)


def test_a_replay_that_was_asked_for_is_not_stopped_with_its_tree(app: Pipeline) -> None:
    (event,) = append(app.ledger)
    assert claim(app.ledger, event, replay="r1").attempt == 1
    assert not app.cancel(event, tree=True).running
    assert {row["outcome"] for row in rows(app, agent="billing", replay="r1")} <= {"running"}


@pytest.mark.usefixtures("agents")
def test_a_broadcast_replay_leaves_out_what_was_stopped(app: Pipeline) -> None:
    (event,) = append(app.ledger)
    app.cancel(event, tree=True)
    assert app.replay(to="billing", ids=[event.id], broadcast=True, dry_run=False).number == 0
