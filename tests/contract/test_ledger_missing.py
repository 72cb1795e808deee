"""What every ledger promises about reconciliation: which deliveries are missing or lost, and are found again."""

from __future__ import annotations

import threading
from unittest.mock import ANY

import pytest
from sqlalchemy import delete, select, update

from pipeline import Pipeline
from pipeline.core.event import Encoded, new_event
from pipeline.core.ids import delivery_id
from pipeline.core.outcome import Outcome
from pipeline.core.times import SECOND, now
from pipeline.ledger import reconcile as reconciliation
from pipeline.ledger.database.rows import DEAD_AFTER
from pipeline.ledger.database.tables import agents, deliveries, events, timers, workers
from pipeline.ledger.due import SENDING
from pipeline.ledger.facts import Delivery
from pipeline.ledger.ledger import Ledger
from pipeline.publishing.outbox import PAUSE
from tests.ledgers import AFTER, DAY, LONG_AGO, ON_POSTGRESQL, append, move, old, reconcile, retrying
from tests.records import age, rows, run_agents


def waiting(app: Pipeline, agent: str = "billing") -> set[str]:
    return {row["event_id"] for row in rows(app, agent=agent, outcome="queued")}


def unrouted(app: Pipeline) -> set[str]:
    return {row["event_id"] for row in rows(app, outcome="unrouted")}


def test_an_event_that_never_reached_an_agent_is_found_and_waits(app: Pipeline, ledger: Ledger) -> None:
    run_agents(app, {"billing": "order.#", "mail": "user.#"})
    move(ledger, agents, 3600, "registered")
    (lost,) = old(app)
    append(ledger)
    reconcile(ledger)
    assert waiting(app) == {lost.id}, "the younger one may still be on its way"
    assert waiting(app, "mail") == set()
    assert unrouted(app) == set()
    assert ledger.due.at_once() == []
    assert ledger.due.lost("billing", AFTER) == []
    move(ledger, deliveries, AFTER + 1)
    (found,) = ledger.due.lost("billing", AFTER)
    assert (found.encoded.event, found.encoded.bus) == (
        lost,
        {"ledger": ledger.id, "direct": True, "message": ANY},
    )
    assert ledger.claim(Delivery(found.id, lost, "billing"), worker="w1").attempt == 1


def test_an_event_that_reached_its_agent_is_not_missing(app: Pipeline, ledger: Ledger) -> None:
    run_agents(app, {"billing": "order.#"})
    (event,) = old(app)
    ledger.claim(Delivery(delivery_id(event.id, "billing"), event, "billing"), worker="w1")
    reconcile(ledger)
    assert [row["outcome"] for row in rows(app)] == ["running"]


def test_events_that_a_replay_emitted_reach_nobody(app: Pipeline, ledger: Ledger) -> None:
    run_agents(app, {"billing": "order.#"})
    for type in ("order.placed", "user.left"):
        event = new_event(type, source="/test")
        ledger.append([Encoded(event, event.encode(), replay="r1")], due_in=None)
        age(app, [event], LONG_AGO)
    reconcile(ledger)
    assert rows(app) == []


def test_an_event_with_targets_is_missed_only_by_them(app: Pipeline, ledger: Ledger) -> None:
    run_agents(app, {"billing": "order.#", "stock": "order.#", "mail": "user.#"})
    (event,) = old(app, targets=("stock",))
    reconcile(ledger)
    assert (waiting(app), waiting(app, "stock"), unrouted(app)) == (set(), {event.id}, set())


def test_an_event_that_nobody_wants_is_unrouted_until_somebody_does(app: Pipeline, ledger: Ledger) -> None:
    run_agents(app, {"mail": "user.#"})
    (event,) = old(app)
    reconcile(ledger)
    assert unrouted(app) == {event.id}
    ledger.subscribers.register({"billing": (("order.#",), 0)})
    reconcile(ledger)
    assert (unrouted(app), waiting(app)) == (set(), {event.id})


def test_an_event_that_became_unwanted_meanwhile_is_marked_as_unrouted(app: Pipeline, ledger: Ledger) -> None:
    run_agents(app, {"billing": "order.#", "mail": "user.#"})
    (event,) = old(app)
    assert unrouted(app) == set()
    assert ledger.subscribers.forget("billing")
    assert not ledger.subscribers.forget("billing")
    reconcile(ledger)
    assert (unrouted(app), waiting(app)) == ({event.id}, set())


def test_a_new_agent_begins_now(app: Pipeline, ledger: Ledger) -> None:
    old(app)
    run_agents(app, {"billing": "order.#"})
    (second,) = old(app)
    reconcile(ledger)
    assert waiting(app) == {second.id}


@pytest.mark.parametrize("how", ["everything", "sequence", "time"])
def test_a_new_agent_gets_the_past_that_it_asks_for_at_once(app: Pipeline, ledger: Ledger, how: str) -> None:
    first, second, third = append(ledger, 3)
    numbers = {row["id"]: row["seq"] for row in rows(app, events)}
    since = {"everything": 0, "sequence": numbers[second.id], "time": second.time}[how]
    ledger.subscribers.register({"billing": (("order.#",), since)})
    reconcile(ledger)
    wanted = [first, second, third][how != "everything" :]
    assert sorted(one.encoded.event.id for one in ledger.due.at_once()) == sorted(event.id for event in wanted)
    assert ledger.due.at_once() == [], "they were taken"
    ledger.subscribers.register({"billing": (("order.#",), 0)})
    reconcile(ledger)
    assert ledger.due.at_once() == [], "it is no longer new"


def test_what_was_taken_and_not_sent_is_sent_by_another_one_in_moments(app: Pipeline, ledger: Ledger) -> None:
    append(ledger, 2)
    ledger.subscribers.register({"billing": (("order.#",), 0)})
    reconcile(ledger)
    first, second = sorted(one.id for one in ledger.due.at_once())
    assert not ledger.due.look().at_once
    ledger.due.sent([first])  # and then its worker died
    with ledger.database.transaction() as connection:
        later = update(deliveries).where(deliveries.c.due < 0)
        connection.execute(later.values(due=deliveries.c.due + round(SENDING * SECOND)))
    assert ledger.due.look().at_once
    assert [one.id for one in ledger.due.at_once()] == [second]
    ledger.due.sent([second])
    assert [row["due"] > 0 for row in rows(app, deliveries)] == [True, True]


def test_an_agents_changed_pattern_counts_from_where_it_was_checked(app: Pipeline, ledger: Ledger) -> None:
    run_agents(app, {"billing": "order.#"})
    old(app, type="user.left")
    reconcile(ledger)
    run_agents(app, {"billing": "user.#"})
    (left,) = old(app, type="user.left")
    old(app)
    reconcile(ledger)
    assert waiting(app) == {left.id}


def test_many_events_are_checked_in_steps(app: Pipeline, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconciliation, "BATCH", 10)
    run_agents(app, {"billing": "order.#", "stock": "order.placed"})
    wanted = {event.id for event in old(app, 35)}
    ledger.reconciliation.check(AFTER)
    assert len(waiting(app)) == 10
    reconcile(ledger)
    assert waiting(app) == waiting(app, "stock") == wanted


def test_a_clock_that_was_ahead_keeps_nobody_elses_events_from_being_found(app: Pipeline, ledger: Ledger) -> None:
    run_agents(app, {"billing": "order.#"})
    move(ledger, agents, 3600, "registered")
    wrong = append(ledger)
    age(app, wrong, -400 * DAY)
    found = old(app, 2)
    reconcile(ledger)
    assert waiting(app) == {event.id for event in [*wrong, *found]}


def test_what_a_clock_that_was_ahead_has_left_in_the_outbox_is_sent(app: Pipeline, ledger: Ledger) -> None:
    wrong, later = append(ledger, 2)
    ledger.events.postpone([wrong.id], 400 * DAY / SECOND)
    ledger.events.postpone([later.id], PAUSE)
    assert ledger.due.look().outbox
    assert [record.event for record in ledger.events.take()] == [wrong]
    assert not ledger.due.look().outbox


@ON_POSTGRESQL
def test_what_is_committed_late_does_not_escape(app: Pipeline, ledger: Ledger) -> None:
    run_agents(app, {"billing": "order.#"})
    slow = new_event("order.placed", source="/test")
    with ledger.database.session() as session:
        ledger.append([Encoded(slow, slow.encode())], due_in=0, connection=session.connection())
        quick = old(app, 3)
        reconcile(ledger)
        assert waiting(app) == set(), "an earlier one may still come"
        session.commit()
    age(app, [slow], LONG_AGO)
    numbers = {row["id"]: row["seq"] for row in rows(app, events)}
    assert numbers[slow.id] < numbers[quick[0].id]
    reconcile(ledger)
    assert waiting(app) == {slow.id, *(event.id for event in quick)}


@ON_POSTGRESQL
def test_an_agent_that_another_worker_looks_after_still_wants_its_events(app: Pipeline, ledger: Ledger) -> None:
    run_agents(app, {"billing": "order.#", "mail": "user.#"})
    (event,) = old(app)
    with ledger.database.transaction() as connection:
        connection.execute(select(agents).where(agents.c.name == "billing").with_for_update())
        reconcile(ledger)
    assert unrouted(app) == set()
    reconcile(ledger)
    assert waiting(app) == {event.id}


@ON_POSTGRESQL
def test_a_delivery_that_begins_while_it_is_looked_for_is_no_trouble(app: Pipeline, ledger: Ledger) -> None:
    run_agents(app, {"billing": "order.#"})
    begun, lost = old(app, 2)
    id = delivery_id(begun.id, "billing")
    checker = threading.Thread(target=reconcile, args=(ledger,))
    row = {"id": id, "event_id": begun.id, "agent": "billing", "outcome": "running", "attempts": 1}
    with ledger.database.session() as session:
        session.execute(deliveries.insert(), row)
        checker.start()
        checker.join(0.5)  # it waits for this transaction, or has not got there yet: both end well
        session.commit()
    checker.join()
    assert (waiting(app), ledger.deliveries.state(id)) == ({lost.id}, (Outcome.RUNNING, 1))


# -- lost deliveries, living workers


def test_a_delivery_is_lost_when_its_worker_is_dead_or_its_timer_is_gone(app: Pipeline, ledger: Ledger) -> None:
    held, abandoned = append(ledger, 2)
    for event, worker in ((held, "alive"), (abandoned, "dead")):
        ledger.workers.heartbeat(worker)
        ledger.claim(Delivery(delivery_id(event.id, "billing"), event, "billing"), worker=worker)
    _, forgotten = retrying(ledger, 2)
    with ledger.database.transaction() as connection:
        connection.execute(delete(timers).where(timers.c.id == forgotten))
    ledger.workers.leave("dead")
    assert ledger.due.agents_with_lost(AFTER) == []
    move(ledger, deliveries, 60 + AFTER + 1)
    move(ledger, deliveries, AFTER + 1, "started")
    assert ledger.due.agents_with_lost(AFTER) == ["billing"]
    assert ledger.due.lost("stock", AFTER) == []
    found = {one.id: one.encoded.bus.get("attempt") for one in ledger.due.lost("billing", AFTER)}
    assert found == {delivery_id(abandoned.id, "billing"): None, forgotten: 2}
    assert ledger.due.lost("billing", AFTER) == [], "they are on their way"
    assert (
        ledger.claim(Delivery(delivery_id(abandoned.id, "billing"), abandoned, "billing"), worker="alive").attempt == 2
    )


def test_a_delivery_that_could_not_be_sent_is_asked_for_again(app: Pipeline, ledger: Ledger) -> None:
    ledger.subscribers.register({"billing": (("order.#",), 0)})
    append(ledger)
    reconcile(ledger, 0)
    move(ledger, deliveries, 1)
    (found,) = ledger.due.lost("billing", 0)
    assert ledger.due.at_once() == []
    ledger.due.ask_again([found.id])
    assert [one.id for one in ledger.due.at_once()] == [found.id]


def test_a_delivery_whose_event_was_deleted_is_dropped_and_says_why(app: Pipeline, ledger: Ledger) -> None:
    append(ledger)
    ledger.subscribers.register({"billing": (("order.#",), 0)})
    reconcile(ledger)
    with ledger.database.transaction() as connection:
        connection.execute(delete(events))
    assert ledger.due.at_once() == []
    (row,) = rows(app, agent="billing")
    assert (row["outcome"], row["error"]) == ("dropped", "the ledger no longer has the event")


def test_workers_come_live_and_leave(app: Pipeline, ledger: Ledger) -> None:
    for name in ("w1", "w2", "forgotten"):
        ledger.workers.heartbeat(name)
    move(ledger, workers, 2 * 86400, "seen")
    ledger.workers.heartbeat("w1")
    ledger.workers.heartbeat("w1")
    (row,) = rows(app, workers)
    assert row["id"] == "w1"
    assert now() - row["seen"] < DEAD_AFTER * SECOND
    ledger.workers.leave("w1")
    (left,) = rows(app, workers)
    assert now() - left["seen"] >= DEAD_AFTER * SECOND
    ledger.workers.leave("w1")
    assert rows(app, workers) == [left]
