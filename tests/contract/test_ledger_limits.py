"""Limits in the ledger: one owner for each slot, turns at their times, fair lines, and the order of events."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from sqlalchemy import update

from pipeline import Event, Limit
from pipeline.core.errors import InvalidAgent, UnknownEvent
from pipeline.core.ids import delivery_id
from pipeline.core.limits.limit import SLOT, Turn, order_of
from pipeline.core.outcome import Outcome
from pipeline.core.times import micros
from pipeline.ledger.database.tables import deliveries
from pipeline.ledger.database.waiting import lines, turns
from pipeline.ledger.facts import AlreadyRecordedError, Delivery, Success
from pipeline.ledger.ledger import Ledger
from pipeline.ledger.limits.lines import Ending
from pipeline.ledger.waiting.wait import TIME, Parking, Wait
from tests.ledgers import append, move
from tests.threads import in_threads

pytestmark = [pytest.mark.usefixtures("living_worker"), pytest.mark.pooled]

AGENT = "billing"


class Hands:
    """What a worker does with deliveries, without the worker."""

    def __init__(
        self,
        ledger: Ledger,
        limit: Limit | None = None,
        order: bool = False,
        skips: bool = False,
        agent: str = AGENT,
    ) -> None:
        self.ledger = ledger
        self.agent = agent
        self.limit = limit
        self.order = order
        self.skips = skips

    def turns(self, event: Event) -> tuple[Turn, ...]:
        found = []
        if self.limit is not None:
            tenant = str(event.metadata.get("tenant", ""))
            key, share = (tenant if self.limit.key else ""), (tenant if self.limit.fair_by else "")
            found.append(
                Turn(self.limit.name or self.agent, key, share, self.limit.rule, event.priority, micros(event.time))
            )
        if self.order:
            found.append(self.in_order(event))
        return tuple(found)

    def in_order(self, event: Event) -> Turn:
        return Turn(order_of(self.agent), str(event.metadata.get("tenant", "")), skips=self.skips)

    def begin(self, event: Event) -> bool | float:
        """Claim a delivery and take its turns; return seconds until it may begin, or False when it is parked."""
        delivery = self.delivery(event)
        assert self.ledger.claim(delivery, worker="w1").attempt
        wanted = list(delivery.turns)
        if self.order:
            place = self.ledger.limits.orders.place(self.agent, event.id, self.in_order)
            while place is None:  # what other threads write at this moment may be older
                place = self.ledger.limits.orders.place(self.agent, event.id, self.in_order)
            wanted[-1] = wanted[-1]._replace(first=place[0], second=place[1])
        seconds, line = self.ledger.limits.lines.take(delivery.id, wanted)
        if line is None:
            return seconds if seconds else True
        parking = Parking(delivery, 1, Wait(SLOT, "waits", key=line))
        assert self.ledger.waiting.waits.park(parking, self.run(event, line=line))
        return False

    def delivery(self, event: Event) -> Delivery:
        return Delivery(delivery_id(event.id, self.agent), event, self.agent, turns=self.turns(event), redelivered=True)

    def run(self, event: Event, **how: Any) -> Callable[..., Any]:
        delivery = self.delivery(event)
        lines, ending = self.ledger.limits.lines, Ending(delivery.id, delivery.turns, **how)
        return lambda work: self.ledger.database.run(lambda own: lines.ending(own, ending, work))

    def succeed(self, event: Event) -> None:
        id = delivery_id(event.id, self.agent)
        self.run(event, over=True)(lambda own: self.ledger.succeed(Success(id, due_in=None), own))

    def fail(self, event: Event) -> bool:
        id = delivery_id(event.id, self.agent)
        return self.ledger.again(id, event, 1, delay=60, error="boom", timer=True, run=self.run(event))

    def die(self, event: Event, error: str = "boom") -> bool:
        id, how = delivery_id(event.id, self.agent), {"error": error, "traceback": "", "due_in": None}
        return self.ledger.die(id, 1, [], **how, run=self.run(event, dead=True))  # type: ignore[arg-type]

    def called(self) -> list[str]:
        """Take what has been released, as the sweeper does that sends it."""
        return [message.encoded.event.id for message in self.ledger.due.at_once()]

    def states(self) -> Counter[str]:
        with self.ledger.database.reading() as connection:
            return Counter(row.state for row in connection.execute(turns.select()))


def of(ledger: Ledger, tenant: str, number: int) -> list[Event]:
    return append(ledger, number, metadata={"tenant": tenant})


def work_off(hands: Hands, queue: Sequence[Event], threads: int, run: Callable[[Event], None]) -> set[str]:
    """Let each thread be a worker, which takes a message, or sends what was released; return what has succeeded."""
    events, left, done = {event.id: event for event in queue}, list(queue), set[str]()
    stop_at = time.monotonic() + 60

    def work(_: int) -> None:
        while len(done) < len(events) and time.monotonic() < stop_at:
            try:
                event = left.pop(0)
            except IndexError:
                left.extend(events[id] for id in hands.called())
                continue
            if hands.begin(event) is False:
                continue
            run(event)
            hands.succeed(event)
            done.add(event.id)

    in_threads(threads, work)
    return done


def test_so_many_run_at_once_and_who_ends_hands_the_slot_to_the_next_in_line(ledger: Ledger) -> None:
    hands = Hands(ledger, Limit(concurrent=2))
    events = append(ledger, 5)
    assert [hands.begin(event) for event in events] == [True, True, False, False, False]
    assert hands.called() == []
    hands.succeed(events[0])
    assert hands.called() == [events[2].id]
    assert hands.states() == {"runs": 1, "called": 1, "waiting": 2}
    assert hands.begin(events[2])
    hands.fail(events[1])
    assert hands.called() == [events[3].id]
    hands.begin(events[3])
    hands.die(events[2])
    assert hands.called() == [events[4].id]
    hands.begin(events[4])
    for event in events[3:]:
        hands.succeed(event)
    assert hands.states() == {}


def test_who_is_new_does_not_overtake_those_in_line(ledger: Ledger) -> None:
    hands = Hands(ledger, Limit(concurrent=1))
    first, second, third = append(ledger, 3)
    assert hands.begin(first)
    assert hands.begin(second) is False
    hands.succeed(first)
    assert hands.begin(third) is False  # the slot is the second one's, which is on its way
    assert hands.called() == [second.id]
    assert hands.begin(second)
    hands.succeed(second)
    assert hands.called() == [third.id]


def test_the_most_urgent_comes_first_and_then_the_oldest(ledger: Ledger) -> None:
    hands = Hands(ledger, Limit(concurrent=1))
    (running,) = append(ledger, 1)
    assert hands.begin(running)
    low, later = append(ledger, 2, priority=9)
    (high,) = append(ledger, 1, priority=1)
    for event in (later, low, high):
        assert hands.begin(event) is False
    order = []
    for _ in range(3):
        hands.succeed(running)
        (id,) = hands.called()
        running = next(event for event in (low, later, high) if event.id == id)
        order.append(running)
        assert hands.begin(running)
    assert order == [high, low, later]


def test_each_key_has_the_limit_for_itself(ledger: Ledger) -> None:
    hands = Hands(ledger, Limit(concurrent=1, key="metadata.tenant"))
    acme, other = of(ledger, "acme", 2), of(ledger, "other", 2)
    assert [hands.begin(event) for event in (*acme, *other)] == [True, False, True, False]
    hands.succeed(other[0])
    assert hands.called() == [other[1].id]


def test_turns_of_a_rate_come_at_their_times(ledger: Ledger) -> None:
    hands = Hands(ledger, Limit(rate="1/m", burst=2))
    events = append(ledger, 5)
    assert [hands.begin(event) for event in events] == [True, True, False, False, False]
    assert ledger.limits.calling.call_due() == 0
    move(ledger, lines, 60)
    move(ledger, lines, 60, "tat")
    assert ledger.limits.calling.call_due() == 1
    assert hands.called() == [events[2].id]
    assert hands.begin(events[2])
    move(ledger, lines, 3600)
    move(ledger, lines, 3600, "tat")  # nobody has called for an hour: the burst is all that there is
    assert ledger.limits.calling.call_due() == 2
    assert sorted(hands.called()) == sorted(event.id for event in events[3:])


def test_a_change_is_in_force_at_once_and_can_be_taken_back(ledger: Ledger) -> None:
    hands = Hands(ledger, Limit(concurrent=1))
    events = append(ledger, 4)
    for event in events:
        hands.begin(event)
    assert ledger.limits.rules.change(AGENT, {"concurrent": 3}).concurrent == 3
    assert ledger.limits.calling.call_due() == 2
    assert sorted(hands.called()) == sorted(event.id for event in events[1:3])
    (stated,) = ledger.limits.rules.all()
    assert (stated.name, stated.rule.concurrent, stated.declared.concurrent, stated.changed) == (AGENT, 3, 1, True)
    assert (stated.running, stated.waiting, stated.keys) == (3, 1, 1)
    assert ledger.limits.rules.change(AGENT, None).concurrent == 1
    with pytest.raises(UnknownEvent, match="did you mean 'billing'"):
        ledger.limits.rules.change("bilking", {"concurrent": 3})
    with pytest.raises(InvalidAgent, match="a rate"):
        ledger.limits.rules.change(AGENT, {"burst": 3})


def test_who_stands_in_line_goes_on_when_a_new_version_declares_more(ledger: Ledger) -> None:
    hands = Hands(ledger, Limit(concurrent=1))
    events = append(ledger, 4)
    for event in events:
        hands.begin(event)
    ledger.limits.rules.declare({AGENT: Limit(concurrent=3).rule})
    assert ledger.limits.calling.call_due() == 2
    assert sorted(hands.called()) == sorted(event.id for event in events[1:3])


def test_a_slot_of_what_will_not_come_back_is_given_to_the_next(ledger: Ledger) -> None:
    hands = Hands(ledger, Limit(concurrent=1))
    first, second, third = append(ledger, 3)
    for event in (first, second, third):
        hands.begin(event)

    stop(ledger, first, second)
    move(ledger, turns, 10, "since")
    assert ledger.limits.calling.mend() == 0  # its handler still runs
    ledger.workers.leave("w1")
    assert ledger.limits.calling.mend() == 1
    assert hands.called() == [third.id]
    assert hands.states() == {"called": 1}


def stop(ledger: Ledger, *events: Event) -> None:
    with ledger.database.transaction() as connection:
        ledger.deliveries.cancel(connection, [delivery_id(event.id, AGENT) for event in events], "told so")


@pytest.mark.parametrize("order", [False, True])
@pytest.mark.parametrize("end", ["succeeds", "fails", "dies", "waits"])
def test_a_handler_that_is_stopped_has_its_turn_until_it_ends_whatever_its_end_is(
    ledger: Ledger, end: str, order: bool
) -> None:
    hands = Hands(ledger, None if order else Limit(concurrent=1), order)
    ledger.subscribers.register({AGENT: (("order.placed",), None)})
    first, second, third = append(ledger, 3)
    assert [hands.begin(event) for event in (first, second, third)] == [True, False, False]
    stop(ledger, first, second)
    move(ledger, lines, 10)
    assert ledger.limits.calling.call_due() == 0
    assert hands.called() == []
    match end:
        case "succeeds":
            with pytest.raises(AlreadyRecordedError):
                hands.succeed(first)
            hands.run(first)(lambda _: False)
        case "fails":
            assert not hands.fail(first)
        case "dies":
            assert not hands.die(first)
        case "waits":
            parking = Parking(hands.delivery(first), 1, Wait(TIME, "sleeps", "sleep", due=1))
            assert not ledger.waiting.waits.park(parking, hands.run(first))
    assert hands.called() == [third.id]
    assert hands.states() == {"called": 1}


def test_the_message_of_what_was_stopped_gives_its_turn_back_unless_its_handler_runs(ledger: Ledger) -> None:
    hands = Hands(ledger, Limit(concurrent=1))
    first, second, third = append(ledger, 3)
    assert [hands.begin(event) for event in (first, second, third)] == [True, False, False]
    stop(ledger, first)

    def comes(event: Event, message: int | None) -> None:
        delivery = hands.delivery(event)
        assert ledger.claim(delivery, worker="w1").outcome is Outcome.CANCELLED
        ledger.limits.lines.come_back(delivery.id, delivery.turns, message)

    comes(first, None)  # a second copy
    comes(first, 7)  # of another attempt
    assert hands.called() == []
    comes(first, 0)  # its worker has died
    assert hands.called() == [second.id]
    stop(ledger, second)
    comes(second, None)  # it was on its way
    assert hands.called() == [third.id]
    assert hands.states() == {"called": 1}


def test_a_delivery_that_comes_again_after_its_worker_died_still_has_its_slot(ledger: Ledger) -> None:
    hands = Hands(ledger, Limit(concurrent=1))
    first, second = append(ledger, 2)
    assert hands.begin(first)
    assert hands.begin(second) is False
    assert hands.begin(first)  # the broker gives it to another worker
    hands.succeed(first)
    assert hands.called() == [second.id]


def test_one_with_many_waiting_does_not_delay_others_and_weights_count(ledger: Ledger) -> None:
    hands = Hands(ledger, Limit(concurrent=1, fair_by="metadata.tenant", weight={"gold": 3}))
    big, gold, small = of(ledger, "big", 40), of(ledger, "gold", 9), of(ledger, "small", 3)
    running = big[0]
    events = {event.id: event for event in (*big, *gold, *small)}
    for event in (*big, *gold, *small):
        hands.begin(event)
    order = []
    for _ in range(15):
        hands.succeed(running)
        (id,) = hands.called()
        running = events[id]
        order.append(running.metadata["tenant"])
        assert hands.begin(running)
    assert Counter(order) == {"gold": 9, "big": 3, "small": 3}


# -- several at once


def test_however_many_ask_at_once_never_more_run_and_all_come_to_their_end(ledger: Ledger) -> None:
    hands, chance, running, most = Hands(ledger, Limit(concurrent=3)), random.Random(13), set[str](), 0
    events = append(ledger, 40)

    def run(event: Event) -> None:
        nonlocal most
        running.add(event.id)
        most = max(most, len(running))
        time.sleep(chance.random() / 200)
        running.discard(event.id)

    done = work_off(hands, events, 6, run)
    assert done == {event.id for event in events}
    assert most <= 3
    assert hands.states() == {}


# -- order by key


def test_events_of_a_key_run_one_at_a_time_in_their_order_whoever_comes_first(ledger: Ledger) -> None:
    hands = Hands(ledger, order=True)
    ledger.subscribers.register({AGENT: (("order.placed",), None)})
    one, two, three = of(ledger, "a", 3)
    (other,) = of(ledger, "b", 1)
    assert hands.begin(three) is False
    assert hands.begin(two) is False
    assert hands.begin(other)
    assert hands.begin(one)
    hands.fail(one)
    assert hands.called() == []  # it is tried again before the others
    with ledger.database.transaction() as connection:
        mine = deliveries.c.id == delivery_id(one.id, AGENT)
        connection.execute(update(deliveries).where(mine).values(outcome="queued"))
    assert hands.begin(one)
    hands.succeed(one)
    assert hands.called() == [two.id]
    assert hands.begin(two)
    hands.succeed(two)
    assert hands.called() == [three.id]


@pytest.mark.parametrize("skips", [False, True])
def test_a_dead_letter_holds_its_key_or_lets_it_go_on(ledger: Ledger, skips: bool) -> None:
    hands = Hands(ledger, order=True, skips=skips)
    ledger.subscribers.register({AGENT: (("order.placed",), None)})
    one, two = of(ledger, "a", 2)
    assert hands.begin(one)
    assert hands.begin(two) is False
    hands.die(one)
    if skips:
        assert hands.called() == [two.id]
        return
    assert hands.called() == []
    with ledger.database.transaction() as connection:
        ledger.deliveries.drop(connection, [delivery_id(one.id, AGENT)])
    move(ledger, lines, 10)
    assert ledger.limits.calling.call_due() == 1
    assert hands.called() == [two.id]
