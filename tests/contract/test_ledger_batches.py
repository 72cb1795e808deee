"""Batches in the ledger: each delivery is in one batch, none is too long, and all of one end together."""

from __future__ import annotations

import random
from collections import Counter
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import Connection, select

from pipeline import Event, Pipeline
from pipeline.core.ids import delivery_id
from pipeline.core.outcome import Outcome
from pipeline.core.times import SECOND, now
from pipeline.ledger.database.tables import deliveries
from pipeline.ledger.database.waiting import batches, steps, waits
from pipeline.ledger.facts import AlreadyRecordedError, Delivery, Success
from pipeline.ledger.ledger import Ledger
from pipeline.ledger.waiting.wait import GATHERS, Parking, Wait
from tests.harness import Broker, Worker
from tests.ledgers import append, claim, move
from tests.records import publish_to, rows
from tests.servers import wait_for
from tests.threads import in_threads

pytestmark = [pytest.mark.usefixtures("living_worker"), pytest.mark.pooled]

AGENT, DEAD, LONG = "billing", "delivery.dead", 3600


def gather(ledger: Ledger, event: Event, most: int = 3, key: str = "billing:", wait: float = LONG) -> None:
    delivery = Delivery(delivery_id(event.id, AGENT), event, AGENT)
    assert ledger.claim(delivery, worker="w1").attempt
    wait_ = Wait(GATHERS, "waits", due=now() + round(wait * SECOND), key=key, most=most)
    assert ledger.waiting.waits.park(Parking(delivery, 1, wait_))


def deliver(ledger: Ledger, event: Event, recorded: list[list[str]], most: int) -> None:
    """Do what a worker does with a message: park the delivery, or handle the batch that it leads."""
    delivery = Delivery(delivery_id(event.id, AGENT), event, AGENT, redelivered=True)
    if not ledger.claim(delivery, worker="w1").attempt:
        return
    batch = ledger.waiting.batches
    if batch.members(delivery.id) is None:
        wait = Wait(GATHERS, "waits", due=now() + SECOND // 50, key="billing:", most=most)
        ledger.waiting.waits.park(Parking(delivery, 1, wait))
        return

    def record(connection: Connection) -> list[str]:
        found = batch.lock(connection, delivery.id)
        ledger.succeed(Success(delivery.id), connection)
        batch.succeed(connection, found, 1)
        return [delivery.id, *found]

    with suppress(AlreadyRecordedError):  # it was stopped while it ran
        recorded.append(ledger.database.run(record))


def released(ledger: Ledger) -> list[str]:
    return [message.id for message in ledger.due.at_once()]


def sweep(ledger: Ledger) -> list[Event]:
    ledger.waiting.batches.form()
    ledger.waiting.batches.mend()
    return [message.encoded.event for message in ledger.due.at_once()]


def members(ledger: Ledger, leader: str) -> list[str]:
    found = ledger.waiting.batches.members(leader)
    assert found is not None
    return [id for id, _ in found]


def ids(events: list[Event]) -> list[str]:
    return [delivery_id(event.id, AGENT) for event in events]


def outcomes(ledger: Ledger) -> dict[str, str]:
    with ledger.database.reading() as connection:
        return {
            row.id: row.outcome for row in connection.execute(select(deliveries).where(deliveries.c.agent == AGENT))
        }


def number(ledger: Ledger, table: object) -> int:
    with ledger.database.reading() as connection:
        return len(connection.execute(select(table)).all())  # type: ignore[call-overload]


def formed(ledger: Ledger, size: int = 3) -> tuple[list[Event], list[str]]:
    events = append(ledger, size)
    for event in events:
        gather(ledger, event, most=size)
    assert ledger.waiting.batches.form() == 1
    assert released(ledger) == ids(events)[:1]
    return events, ids(events)


def test_what_is_enough_is_a_batch_led_by_the_oldest(ledger: Ledger) -> None:
    events = append(ledger, 5)
    for event in reversed(events[:2]):
        gather(ledger, event)
    assert ledger.waiting.batches.form() == 0
    assert not ledger.due.look().batches
    for event in (events[2], *events[3:]):
        gather(ledger, event)
    assert ledger.due.look().batches
    assert ledger.waiting.batches.form() == 1
    first, *others = ids(events)
    assert released(ledger) == [first]
    assert members(ledger, first) == others[:2]
    assert ledger.waiting.batches.members(others[0]) is None
    assert ledger.waiting.batches.form() == 0  # two are left, which have time
    assert not ledger.due.look().batches


def test_what_has_waited_long_enough_is_a_batch_and_each_key_has_its_own(ledger: Ledger) -> None:
    one, two, three = append(ledger, 3)
    gather(ledger, one)
    gather(ledger, two, key="billing:other", wait=0)
    gather(ledger, three)
    assert ledger.waiting.waits.release_due() == 0
    assert ledger.waiting.batches.form() == 1
    assert released(ledger) == ids([two])
    assert members(ledger, ids([two])[0]) == []
    move(ledger, batches, LONG)
    assert ledger.waiting.batches.form() == 0  # what each waits for says its own row
    move(ledger, waits, LONG + 1)
    move(ledger, batches, LONG + 1)
    assert ledger.waiting.batches.form() == 1
    assert released(ledger) == ids([one])
    assert members(ledger, ids([one])[0]) == ids([three])
    assert number(ledger, batches) == 0


def test_those_who_park_at_the_same_time_are_each_in_one_batch_and_none_is_too_long(ledger: Ledger) -> None:
    events, most = append(ledger, 40), 7

    def work(n: int) -> None:
        for event in events[n::4]:
            gather(ledger, event, most=most)
            if n % 2:
                ledger.waiting.batches.form()

    in_threads(4, work)
    move(ledger, waits, LONG + 1)
    move(ledger, batches, LONG + 1)
    ledger.waiting.batches.form()
    led = {leader: members(ledger, leader) for leader in released(ledger)}
    assert Counter(id for leader, others in led.items() for id in (leader, *others)) == dict.fromkeys(ids(events), 1)
    assert max(1 + len(others) for others in led.values()) == most
    assert len(led) == 6


def test_whatever_is_stopped_meanwhile_each_ends_once_and_nobody_waits_for_ever(ledger: Ledger) -> None:
    events, most = append(ledger, 60), 5
    recorded: list[list[str]] = []
    chance = random.Random(3)
    stopped = chance.sample(events, 15)

    def work(n: int) -> None:
        if n == 3:
            for event in stopped:
                ledger.waiting.trees.cancel(event.id)
            return
        for event in events[n::3]:
            deliver(ledger, event, recorded, most)
            for message in sweep(ledger):
                deliver(ledger, message, recorded, most)

    in_threads(4, work)

    def is_over() -> bool:
        for event in sweep(ledger):
            deliver(ledger, event, recorded, most)
        return set(outcomes(ledger).values()) <= {"succeeded", "cancelled"}

    wait_for(is_over, "all to end", 60)
    counted = Counter(id for one in recorded for id in one)
    found = outcomes(ledger)
    assert counted == dict.fromkeys((id for id, outcome in found.items() if outcome == "succeeded"), 1)
    assert {id for id, outcome in found.items() if outcome == "cancelled"} <= set(ids(stopped))
    assert max(map(len, recorded)) <= most
    assert number(ledger, waits) == 0


def test_workers_on_each_ledger_handle_each_event_once_though_one_is_killed(
    app: Pipeline, tmp_path: Path, ledger_url: str
) -> None:
    broker = Broker("embedded", app.settings.broker_url, tmp_path, ledger=ledger_url)
    with ExitStack() as running:
        workers = [Worker(broker, app="batches_app", pool="prefork", name=f"w{n}") for n in range(3)]
        for one in workers:
            one.start(wait=False)
            running.callback(one.kill)
        wait_for(lambda: all("ready." in one.output() for one in workers), "the workers", 90)
        publish_to(app, "pool", "page.seen", [{"n": n} for n in range(350)])
        broker.journal.wait(1, agent="pool")
        workers[0].kill()
        wait_for(lambda: len(rows(app, agent="pool", outcome="succeeded")) == 350, "all to succeed", 150, 0.5)
    pages = [record.event.data["pages"] for record in app.get_events(type="pages.embedded")]
    assert sorted(n for some in pages for n in some) == list(range(350))
    assert max(map(len, pages)) <= 100
    assert number(app.ledger, waits) == 0


def test_all_of_a_batch_succeed_together_and_nothing_is_left_of_their_waits(ledger: Ledger) -> None:
    events, (leader, *_) = formed(ledger)
    assert claim(ledger, events[0]).attempt == 1
    batch = ledger.waiting.batches

    def work(connection: object) -> None:
        found = batch.lock(connection, leader)  # type: ignore[arg-type]
        ledger.succeed(Success(leader), connection)  # type: ignore[arg-type]
        batch.succeed(connection, found, 1)  # type: ignore[arg-type]

    ledger.database.run(work)
    assert set(outcomes(ledger).values()) == {"succeeded"}
    assert number(ledger, waits) == 0


def test_all_of_a_batch_are_dead_together_with_the_same_error_and_each_is_announced(ledger: Ledger) -> None:
    events, (leader, *others) = formed(ledger)
    assert claim(ledger, events[0]).attempt == 1
    run = partial(ledger.waiting.batches.dying, ledger.database.run, leader, 1, "boom", "trace")
    how = {"error": "boom", "traceback": "trace", "due_in": 0}
    assert ledger.die(leader, 1, [], **how, run=run)  # type: ignore[arg-type]
    assert not ledger.die(leader, 1, [], **how, run=run)  # type: ignore[arg-type]
    with ledger.database.reading() as connection:
        found = connection.execute(select(deliveries).where(deliveries.c.agent == AGENT)).all()
    assert {(row.outcome, row.error, row.traceback, row.attempts) for row in found} == {("dead", "boom", "trace", 1)}
    announced = [record.event.data["delivery_id"] for record in ledger.events.take() if record.event.type == DEAD]
    assert sorted(announced) == sorted(others)
    assert number(ledger, waits) == 0


def test_one_that_is_stopped_is_in_no_batch_any_more(ledger: Ledger) -> None:
    events, (leader, *others) = formed(ledger)
    ledger.waiting.trees.cancel(events[1].id)
    assert members(ledger, leader) == others[1:]
    assert outcomes(ledger)[others[0]] == "cancelled"


def test_one_that_is_stopped_before_its_batch_is_complete_neither_leads_nor_counts(ledger: Ledger) -> None:
    events = append(ledger, 4)
    for event in events[:2]:
        gather(ledger, event)
    ledger.waiting.trees.cancel(events[0].id)
    gather(ledger, events[2])
    assert ledger.waiting.batches.form() == 0
    gather(ledger, events[3])
    assert ledger.waiting.batches.form() == 1
    assert members(ledger, ids(events)[1]) == ids(events)[2:]


def test_members_of_a_leader_that_was_stopped_go_on_without_it(ledger: Ledger) -> None:
    events, (_, *others) = formed(ledger)
    assert ledger.waiting.batches.mend() == 0
    ledger.waiting.trees.cancel(events[0].id)
    assert ledger.waiting.batches.mend() == 2
    assert sorted(released(ledger)) == sorted(others)
    for event in events[1:]:
        gather(ledger, event, most=2)  # as what has come for the first time
    assert ledger.waiting.batches.form() == 1
    assert members(ledger, others[0]) == others[1:]


def test_a_dead_letter_that_is_requeued_leads_nobody(ledger: Ledger) -> None:
    events, (leader, *others) = formed(ledger)
    assert claim(ledger, events[0]).attempt == 1
    how = {"error": "boom", "traceback": "", "due_in": 0}
    assert ledger.die(leader, 1, [], **how)  # type: ignore[arg-type]
    ledger.database.run(lambda connection: ledger.deliveries.requeue(connection, [leader]))
    assert ledger.waiting.batches.mend() == 2
    assert set(released(ledger)) == {*others}


def test_one_is_expelled_and_another_let_go_and_the_batch_is_without_them(ledger: Ledger) -> None:
    events, (leader, *others) = formed(ledger, 4)
    assert claim(ledger, events[0]).attempt == 1
    ledger.waiting.batches.expel(leader, others[0], error="invalid")
    ledger.waiting.batches.release(leader, others[1])
    assert members(ledger, leader) == others[2:]
    found = outcomes(ledger)
    assert [found[id] for id in others] == ["dead", "queued", "parked"]
    assert ledger.deliveries.state(leader)[0] is Outcome.RUNNING
    assert number(ledger, steps) == 1
