"""A tree of work that was stopped: what has not ended is cancelled, and nothing of it runs any more."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta

import pytest

from pipeline import Event, InvalidSelection, Pipeline, TreeWasCancelled, UnknownEvent
from pipeline.core.ids import delivery_id, derived_id
from pipeline.core.outcome import Outcome
from pipeline.history.settle import settled
from pipeline.ledger.database.tables import deliveries, outbox, timers
from pipeline.ledger.database.waiting import cancelled, steps, stops, waits
from pipeline.ledger.facts import AlreadyRecordedError, Delivery, Success
from pipeline.ledger.ledger import Claim, Ledger
from pipeline.ledger.waiting.wait import TIME, Parking, Wait
from tests.ledgers import DAY, DAYS, append, claim, new_order, reconcile, record
from tests.records import age, die, logged, lose_outbox, messages, order, rows, run_agents, succeed

pytestmark = pytest.mark.pooled

STOPPED = Claim(0, Outcome.CANCELLED)


def caused(ledger: Ledger, cause: Event, *, by: str | None = "billing", type: str = "order.placed") -> Event:
    """Append an event that an agent has emitted for another one, or that somebody else has published."""
    event = new_order(type, cause=cause)
    emitter = None if by is None else delivery_id(cause.id, by)
    ledger.append([record(event, delivery=emitter)], due_in=0)
    return event


def delivery_of(event: Event) -> Delivery:
    return Delivery(delivery_id(event.id, "billing"), event, "billing")


def park(ledger: Ledger, event: Event) -> None:
    assert claim(ledger, event).attempt == 1
    assert ledger.waiting.waits.park(Parking(delivery_of(event), 1, Wait(TIME, "sleeps", "sleep", due=1)))


def outcomes(app: Pipeline) -> Counter[str]:
    return Counter(row["outcome"] for row in rows(app) if row["agent"] == "billing")


def test_everything_of_a_tree_that_has_not_ended_is_cancelled_and_what_had_happened_is_listed(app: Pipeline) -> None:
    ledger = app.ledger
    run_agents(app, {"billing": "order.#"})
    (top,) = append(ledger)
    done, runs, parked, retrying, queued, dead = (caused(ledger, top) for _ in range(6))
    succeed(app, top, "billing")
    succeed(app, done, "billing")
    assert claim(ledger, runs).attempt == 1
    park(ledger, parked)
    assert claim(ledger, retrying).attempt == 1
    assert ledger.again(delivery_id(retrying.id, "billing"), retrying, 1, delay=60, error="boom", timer=True)
    with ledger.database.transaction() as connection:
        ledger.deliveries.add_queued(connection, [(queued.id, "billing", 0)])
    die(app, dead)
    underway = caused(ledger, top)
    later = app.publish(new_order(cause=top), delay=timedelta(hours=1))
    other = append(ledger)[0]

    found = app.cancel(top, tree=True, by="ada", reason="wrong customer")

    assert found
    assert (found.tree, found.by, found.reason) == (top.id, "ada", "wrong customer")
    assert {(part.event, part.outcome.value) for part in found.stopped} == {
        (parked.id, "parked"), (retrying.id, "retrying"), (queued.id, "queued"), (underway.id, "queued"),
    }  # fmt: skip
    assert [part.event for part in found.running] == [runs.id]
    assert {(part.event, part.outcome.value) for part in found.done} == {
        (top.id, "succeeded"), (done.id, "succeeded"), (dead.id, "dead"),
    }  # fmt: skip
    assert found.delayed == (later.id,)
    assert outcomes(app) == {"cancelled": 5, "succeeded": 2, "dead": 1}
    assert {row["error"] for row in rows(app, outcome="cancelled")} == {"cancelled by ada: wrong customer"}
    assert rows(app, waits) == rows(app, timers) == []
    assert {row["event_id"] for row in rows(app, outbox)} == {other.id, derived_id(top.id, "tree.cancelled")}
    assert settled(ledger, top.id)
    assert "-> billing: cancelled" in str(app.trace(top))
    assert "cancelled by ada: wrong customer" in str(app.trace(top))
    assert claim(ledger, other).attempt == 1


def test_nothing_of_a_cancelled_tree_runs_whatever_comes_to_its_agents_later(app: Pipeline) -> None:
    ledger = app.ledger
    (top,) = append(ledger)
    app.cancel(top, tree=True)
    before = caused(ledger, top)
    outside = caused(ledger, before, by=None)  # another program's, with the correlation
    assert claim(ledger, top) == claim(ledger, before) == claim(ledger, outside) == STOPPED
    assert claim(ledger, outside, redelivered=True) == STOPPED
    assert ledger.claim_all([delivery_of(caused(ledger, top)) for _ in range(3)], worker="w") == [STOPPED] * 3
    assert outcomes(app) == {"cancelled": 6}
    assert {(row["attempts"], row["error"]) for row in rows(app, agent="billing")} == {(0, "cancelled")}
    foreign = new_order(correlation_id=top.correlation_id)
    assert claim(ledger, foreign, logged=False) == STOPPED
    assert not app.cancel(top, tree=True), "there is nothing left"


def test_what_a_running_delivery_comes_to_is_refused_after_the_cancel(app: Pipeline) -> None:
    ledger = app.ledger
    events = append(ledger, 4, correlation_id="c1")
    for event in events:
        assert claim(ledger, event).attempt == 1
    found = app.cancel(correlation="c1")
    assert len(found.running) == 4
    succeeds, fails, parks, dies = events
    with pytest.raises(AlreadyRecordedError):
        ledger.succeed(Success(delivery_id(succeeds.id, "billing"), [record(new_order(cause=succeeds))], due_in=0))
    assert not ledger.again(delivery_id(fails.id, "billing"), fails, 1, delay=1, error="boom", timer=True)
    parking = Parking(
        delivery_of(parks), 1, Wait(TIME, "sleeps", "sleep", due=1), [record(new_order(cause=parks))], due_in=0
    )
    assert not ledger.waiting.waits.park(parking)
    assert not ledger.die(delivery_id(dies.id, "billing"), 1, [], error="x", traceback="x", due_in=0)
    with ledger.database.transaction() as connection:
        assert not ledger.deliveries.filter(connection, delivery_id(dies.id, "billing"), 1)
    assert outcomes(app) == {"cancelled": 4}
    assert [one.event.id for one in app.get_events(type="order.placed")] == [event.id for event in events]
    assert rows(app, timers) == rows(app, waits) == []


def test_a_part_of_a_tree_is_stopped_and_the_rest_goes_on(app: Pipeline) -> None:
    ledger = app.ledger
    (top,) = append(ledger)
    succeed(app, top, "billing")
    left, right = caused(ledger, top), caused(ledger, top)
    assert claim(ledger, left).attempt == claim(ledger, right).attempt == 1
    under = caused(ledger, left)
    found = app.cancel(left, tree=True, by="ada")
    assert (found.tree, [part.event for part in found.running]) == (left.id, [left.id])
    late = caused(ledger, left, by=None)
    assert claim(ledger, under) == claim(ledger, late) == STOPPED
    assert claim(ledger, caused(ledger, late, by=None)) == STOPPED, "the refused one has told of itself"
    ledger.succeed(Success(delivery_id(right.id, "billing"), [record(after := new_order(cause=right))], due_in=0))
    assert claim(ledger, after).attempt == 1


def test_a_delayed_event_is_stopped_as_a_tree_too_and_does_not_run_when_somebody_publishes_it_all_the_same(
    app: Pipeline,
) -> None:
    event = app.publish(order(), delay=60)
    assert app.cancel(event, tree=True).delayed == (event.id,)
    app.publish(event)
    assert claim(app.ledger, event) == STOPPED


def test_the_first_who_stops_a_tree_is_on_record_and_it_is_told_once(app: Pipeline) -> None:
    (top,) = append(app.ledger)
    assert claim(app.ledger, top).attempt == 1
    assert app.cancel(top, tree=True, by="ada", reason="first").by == "ada"
    again = app.cancel(correlation=top.correlation_id, by="eve", reason="second")
    assert (again.by, again.reason, bool(again)) == ("ada", "first", False)
    (told,) = logged(app, "tree.cancelled")
    assert told.data == {"tree": top.id, "by": "ada", "reason": "first", "stopped": 0, "running": 1, "done": 0}
    assert told.correlation_id != top.correlation_id
    assert app.unrouted() == []


def test_reconciliation_sends_nothing_of_a_cancelled_tree(app: Pipeline) -> None:
    run_agents(app, {"billing": "order.#"})
    (top,) = append(app.ledger)
    app.cancel(top, tree=True)
    lose_outbox(app)
    reconcile(app.ledger, 0)
    assert app.ledger.due.at_once() == []
    assert app.ledger.due.lost("billing", 0) == []
    assert messages(app, "billing") == []


def test_a_requeue_of_what_belongs_to_a_cancelled_tree_is_refused_and_a_replay_is_not(
    app: Pipeline, agents: None
) -> None:
    ids = [die(app, app.publish(order(n))) for n in range(2)]
    event = app.dead_letters.get(ids[0]).event
    app.cancel(event, tree=True, by="ada", reason="wrong customer")
    with pytest.raises(TreeWasCancelled, match=r"which was cancelled by ada: wrong customer; publish its event anew"):
        app.dead_letters.requeue(ids)
    assert outcomes(app) == {"dead": 2}
    changed = app.dead_letters.requeue(all=True)
    assert (changed.number, changed.skipped) == (1, 1)
    again = Delivery(derived_id(ids[0], "r1"), event, "billing", replay="r1")
    assert app.ledger.claim(again, worker="w").attempt == 1


def test_a_worker_is_told_once_what_it_should_stop(app: Pipeline) -> None:
    (top,) = append(app.ledger)
    assert claim(app.ledger, top, worker="w1").attempt == 1
    app.cancel(top, tree=True, terminate=True)
    trees = app.ledger.waiting.trees
    assert app.ledger.due.look().stops
    assert trees.take_stops("w2") == []
    assert trees.take_stops("w1") == [(delivery_id(top.id, "billing"), True)]
    assert trees.take_stops("w1") == []
    assert not app.ledger.due.look().stops
    assert rows(app, stops) == []


def test_parts_of_a_tree_are_forgotten_with_their_events_and_the_tree_is_not(app: Pipeline) -> None:
    (top,) = append(app.ledger)
    succeed(app, top, "billing")
    part = caused(app.ledger, top)
    under = caused(app.ledger, part)
    app.cancel(part, tree=True)
    assert {row["key"] for row in rows(app, cancelled)} == {part.id, under.id}
    age(app, [top, part, under], 10 * DAY)
    lose_outbox(app)
    assert app.prune(older_than=DAYS).events == 3
    assert [row["key"] for row in rows(app, cancelled)] == [part.id]


def test_what_there_is_no_tree_for_is_said(app: Pipeline) -> None:
    with pytest.raises(UnknownEvent, match=r"no event and no correlation 'nothing'; nothing was cancelled"):
        app.cancel("nothing", tree=True)
    with pytest.raises(UnknownEvent):
        app.cancel(correlation="nothing")
    for wrong in ({}, {"tree": True}, {"event": "a", "correlation": "b"}):
        with pytest.raises(InvalidSelection, match=r"cancel\(\) takes"):
            app.cancel(**wrong)  # type: ignore[call-overload]
    with pytest.raises(InvalidSelection, match=r"add tree=True"):
        app.cancel("a", by="ada")  # type: ignore[call-overload]
    assert rows(app, cancelled) == rows(app, deliveries) == rows(app, steps) == []
