"""What every ledger promises about what is due: timers and the relay's outbox, taken by one of many."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from unittest.mock import ANY

from sqlalchemy import delete, update

from pipeline import Event, Pipeline
from pipeline.core.event import new_event
from pipeline.core.ids import delivery_id
from pipeline.core.times import SECOND, now
from pipeline.ledger.aside import Bad
from pipeline.ledger.database import leases
from pipeline.ledger.database.rows import timer_row
from pipeline.ledger.database.tables import deliveries, events, outbox, timers
from pipeline.ledger.ledger import Ledger
from tests.ledgers import append, move, retrying
from tests.records import logged, rows
from tests.threads import in_threads

GRACE = 10.0


def set_timers(ledger: Ledger, *found: dict[str, Any]) -> None:
    with ledger.database.transaction() as connection:
        ledger.timers.add(list(found), connection)


def later(ledger: Ledger, event: Event, in_: float) -> None:
    """Delay an event; a negative time is over."""
    set_timers(ledger, timer_row(event.id, "publish", now() + round(in_ * SECOND), event.id, event.encode()))


def fired(ledger: Ledger, **options: Any) -> tuple[list[str], list[str], int]:
    found, retries, lease = ledger.timers.take(GRACE, **options)
    return [record.event.id for record in found], [one.id for one in retries], lease


def all_taken(take: Callable[[], list[str]]) -> list[str]:
    """Let several threads take at once until there is nothing left."""

    def work(_: int) -> list[str]:
        return [one for found in iter(take, []) for one in found]

    return [one for found in in_threads(4, work) for one in found]


# -- timers


def test_no_timer_is_taken_early(app: Pipeline, ledger: Ledger) -> None:
    event = new_event("order.placed", source="/test")
    later(ledger, event, 5)
    retrying(ledger)
    assert ledger.timers.take(GRACE)[:2] == ([], [])
    assert len(rows(app, timers)) == 2
    move(ledger, timers, 5)
    assert fired(ledger)[:2] == ([event.id], [])


def test_a_delayed_event_moves_to_the_log_when_it_is_due(app: Pipeline, ledger: Ledger) -> None:
    at = datetime.now(UTC) - timedelta(seconds=1)
    event = new_event("order.placed", source="/test").evolve(time=at)
    later(ledger, event, -1)
    before = now()
    (record,), _, _ = ledger.timers.take(GRACE)
    assert (record.event, record.body) == (event, event.encode())
    assert rows(app, timers) == []
    (row,) = rows(app, events)
    assert row["time"] == round(at.timestamp() * SECOND)
    (unsent,) = rows(app, outbox)
    assert before + GRACE * SECOND <= unsent["due"] <= now() + GRACE * SECOND, "the taker's time to send it itself"


def test_a_delayed_event_that_is_set_anew_is_the_new_one(app: Pipeline, ledger: Ledger) -> None:
    event = new_event("order.placed", {"n": 1}, source="/test")
    later(ledger, event, -1)
    later(ledger, event.evolve(data={"n": 2}), 60)
    assert fired(ledger)[0] == []
    move(ledger, timers, 60)
    assert fired(ledger)[0] == [event.id]
    assert Event.decode(rows(app, events)[0]["body"]).data == {"n": 2}


def test_a_delayed_event_is_taken_back_until_it_has_moved(ledger: Ledger) -> None:
    event = new_event("order.placed", source="/test")
    later(ledger, event, -1)
    assert ledger.timers.cancel(event.id)
    assert not ledger.timers.cancel(event.id)
    assert fired(ledger)[0] == []
    later(ledger, event, -1)
    assert fired(ledger)[0] == [event.id]
    assert not ledger.timers.cancel(event.id)


def test_a_retry_cannot_be_cancelled_like_a_delayed_event(app: Pipeline, ledger: Ledger) -> None:
    (id,) = retrying(ledger)
    assert not ledger.timers.cancel(id)
    assert len(rows(app, timers)) == 1


def test_a_retry_is_sent_for_its_next_attempt(ledger: Ledger) -> None:
    (id,) = retrying(ledger)
    move(ledger, timers, 60)
    (found,) = ledger.timers.take(GRACE)[1]
    assert (found.id, found.encoded.agent) == (id, "billing")
    marks = {"ledger": ledger.id, "direct": True, "attempt": 2, "begun": True}
    assert found.encoded.bus == {**marks, "message": ANY}
    assert Event.decode(found.encoded.body) == found.encoded.event


def test_what_a_taker_leaves_behind_is_taken_by_another_after_the_lease(ledger: Ledger) -> None:
    ids = retrying(ledger, 3)
    move(ledger, timers, 60)
    assert sorted(fired(ledger)[1]) == sorted(ids)
    assert fired(ledger)[1] == [], "they are his until the lease ends"
    move(ledger, timers, leases.LEASE - 5)
    assert fired(ledger)[1] == []
    move(ledger, timers, 5)
    assert sorted(fired(ledger)[1]) == sorted(ids)


def test_finishing_keeps_a_timer_that_was_set_anew_meanwhile(app: Pipeline, ledger: Ledger) -> None:
    first, second = retrying(ledger, 2)
    move(ledger, timers, 60)
    _, ids, lease = fired(ledger)
    set_timers(ledger, timer_row(first, "retry", now() + 60 * SECOND, "c"))
    ledger.timers.finish(ids, lease)
    assert [row["id"] for row in rows(app, timers)] == [first]
    ledger.timers.release([first, second], lease, 0)
    assert rows(app, timers)[0]["due"] > now(), "nor is it released"


def test_timers_that_could_not_be_sent_are_soon_due_again(ledger: Ledger) -> None:
    ids = retrying(ledger, 2)
    move(ledger, timers, 60)
    _, taken, lease = fired(ledger)
    ledger.timers.release(taken, lease, 0)
    assert sorted(fired(ledger)[1]) == sorted(ids)


def test_the_timer_of_a_delivery_that_has_ended_is_deleted(app: Pipeline, ledger: Ledger) -> None:
    retrying(ledger)
    with ledger.database.transaction() as connection:
        connection.execute(update(deliveries).values(outcome="succeeded"))
    move(ledger, timers, 60)
    assert ledger.timers.take(GRACE)[:2] == ([], [])
    assert rows(app, timers) == []


def test_no_two_takers_take_the_same_timer(ledger: Ledger) -> None:
    ids = retrying(ledger, 20)
    delayed = [new_event("order.placed", {"n": n}, source="/test") for n in range(60)]
    for event in delayed:
        later(ledger, event, -1)
    move(ledger, timers, 60)

    def take_some() -> list[str]:
        events, retries, _ = fired(ledger, limit=7)
        return events + retries

    taken = all_taken(take_some)
    assert sorted(taken) == sorted([*ids, *(event.id for event in delayed)])


# -- the outbox


def take(ledger: Ledger, **options: Any) -> list[str]:
    return [record.event.id for record in ledger.events.take(**options)]


def test_no_two_relays_take_the_same_event(ledger: Ledger) -> None:
    wanted = append(ledger, 150)
    taken = all_taken(lambda: take(ledger, limit=7))
    assert sorted(taken) == sorted(event.id for event in wanted)


def test_what_a_relay_has_taken_and_not_sent_is_taken_by_another_after_the_lease(ledger: Ledger) -> None:
    ids = [event.id for event in append(ledger, 3)]
    assert take(ledger) == ids, "in the order of the log"
    move(ledger, outbox, leases.LEASE - 5)
    assert take(ledger) == []
    move(ledger, outbox, 5)
    assert take(ledger) == ids
    ledger.events.postpone(ids[:1], 0)
    assert take(ledger) == ids[:1]
    ledger.events.postpone(ids[:1], 60)
    ledger.mark_sent(ids[1:])
    move(ledger, outbox, leases.LEASE)
    assert take(ledger) == []


def test_an_event_that_is_no_longer_in_the_log_leaves_the_outbox(app: Pipeline, ledger: Ledger) -> None:
    gone, kept = append(ledger, 2)
    with ledger.database.transaction() as connection:
        connection.execute(delete(events).where(events.c.id == gone.id))
    assert take(ledger) == [kept.id]
    assert [row["event_id"] for row in rows(app, outbox)] == [kept.id]


def test_an_announced_death_has_the_metadata_of_its_event_as_far_as_that_can_be_read(
    app: Pipeline, ledger: Ledger
) -> None:
    good = append(ledger, 1, metadata={"tenant": "acme"}, priority=7)[0]
    bad = append(ledger, 1, metadata={"tenant": "acme"})[0]
    with ledger.database.transaction() as connection:
        ledger.deliveries.add_queued(connection, [(event.id, "billing", 0) for event in (good, bad)])
        connection.execute(update(events).where(events.c.id == bad.id).values(body="no JSON"))
    ledger.due.refuse([Bad(delivery_id(event.id, "billing"), "no way") for event in (good, bad)])
    announced = {event.data["event_id"]: event for event in logged(app, "delivery.dead")}
    known = announced[good.id]
    assert (known.metadata, known.correlation_id, known.causation_id, known.priority) == (
        {"tenant": "acme"}, good.correlation_id, good.id, 7,
    )  # fmt: skip
    assert (announced[bad.id].metadata, announced[bad.id].correlation_id) == ({}, bad.correlation_id)


def test_no_death_is_announced_in_a_replay_nor_that_of_an_announcement(app: Pipeline, ledger: Ledger) -> None:
    ordinary, replayed = append(ledger, 2)
    (announcement,) = append(ledger, 1, "delivery.dead")
    ids = {event.id: delivery_id(event.id, "billing") for event in (ordinary, replayed, announcement)}
    with ledger.database.transaction() as connection:
        ledger.deliveries.add_queued(connection, [(id, "billing", 0) for id in ids])
        connection.execute(update(deliveries).where(deliveries.c.id == ids[replayed.id]).values(replay="r1"))
    ledger.due.refuse([Bad(id, "the broker does not take it") for id in ids.values()])
    assert {row["outcome"] for row in rows(app, agent="billing")} == {"dead"}
    announced = [event.data["delivery_id"] for event in logged(app, "delivery.dead") if event.source == "/ledger"]
    assert announced == [ids[ordinary.id]]
