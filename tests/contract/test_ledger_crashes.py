"""One at a time, and the last of a series, when workers die between any two transactions: nobody waits for ever."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any, NamedTuple

import pytest

from pipeline import Event
from pipeline.core.limits.single import Debounce, When
from pipeline.core.outcome import Outcome
from pipeline.ledger.database.tables import timers
from pipeline.ledger.database.waiting import waits
from pipeline.ledger.facts import Delivery
from pipeline.ledger.ledger import Ledger
from tests.contract.test_ledger_singles import Hands, all_turns, outcomes, park_series
from tests.ledgers import append, move

pytestmark = pytest.mark.usefixtures("living_worker")

SEEDS = range(12)
#: Steps after which a schedule is thought to go round for ever.
MOST = 3000
#: How often a worker dies after a transaction, and a handler fails.
DIES, FAILS = 0.15, 0.2


class Message(NamedTuple):
    """A message of an event, as a worker has it: what it does with it next."""

    event: Event
    number: int = 0
    expected: int | None = None
    step: str = "claim"
    attempt: int = 0


class Schedule:
    """Lets workers take turns at random, each transaction at a time; a message whose worker dies comes again."""

    def __init__(self, ledger: Ledger, seed: int) -> None:
        self.ledger = ledger
        self.chance = random.Random(seed)
        self.messages: list[Message] = []
        self.most = 0

    def run(self, events: list[Event]) -> None:
        coming = [Message(event) for event in events]
        for _ in range(MOST):
            if coming and (not self.messages or self.chance.random() < 0.3):
                self.messages.append(coming.pop(self.chance.randrange(min(2, len(coming)))))
            if not self.messages and not coming and not self.sent():
                return
            if self.messages:
                message = self.messages.pop(self.chance.randrange(len(self.messages)))
                after = self.advance(message)
                if after is not None:
                    again = message._replace(step="claim") if self.chance.random() < DIES else after
                    self.messages.append(again)
            running = Counter(one.step == "end" for one in self.messages)
            self.most = max(self.most, running[True])
        raise AssertionError(f"it goes round for ever, with {self.messages}")

    def sent(self) -> bool:
        """Send what is due, as the sweeper does; say whether there was anything."""
        move(self.ledger, timers, 3600)
        move(self.ledger, waits, 3600)
        self.ledger.waiting.waits.release_due()
        found = [*self.ledger.timers.take(0)[1], *self.ledger.due.at_once()]
        for one in found:
            bus: Any = one.encoded.bus
            number = self.chance.getrandbits(40)
            self.messages.append(Message(one.encoded.event, number, bus.get("attempt")))
        with self.ledger.database.transaction() as connection:
            connection.execute(timers.delete())
        return bool(found)

    def advance(self, message: Message) -> Message | None:
        """Do the next transaction; return None when the message is acknowledged."""
        if message.step == "claim":
            if self.chance.random() < 0.3:
                self.sent()
            delivery = self.delivery(message)
            claim = self.ledger.claim(delivery, worker="w1")
            if claim.attempt:
                return message._replace(step="begin", attempt=claim.attempt)
            if claim.outcome is Outcome.CANCELLED:
                self.ledger.limits.lines.give_back(delivery.id, delivery.turns)
            return None
        return self.go_on(message)

    def delivery(self, message: Message) -> Delivery:
        raise NotImplementedError

    def go_on(self, message: Message) -> Message | None:
        raise NotImplementedError


class Singles(Schedule):
    def __init__(self, ledger: Ledger, seed: int, when: When) -> None:
        super().__init__(ledger, seed)
        self.hands = Hands(ledger, when)

    def delivery(self, message: Message) -> Delivery:
        return self.hands.delivery(message.event)._replace(message=message.number, expected=message.expected)

    def go_on(self, message: Message) -> Message | None:
        event, id = message.event, self.hands.delivery(message.event).id
        if message.step == "begin":
            taken = self.hands.take(event)
            if taken.instead is not None:
                filter = self.ledger.deliveries.filter
                end = self.hands.run(event, over=True)
                end(lambda own: filter(own, id, message.attempt, taken.instead))
                return None
            return message._replace(step="park" if taken.line else "end")
        if message.step == "park":
            self.hands.park(event, message.attempt)
        elif message.attempt < 3 and self.chance.random() < FAILS:
            how = {"delay": 60.0, "error": "boom", "timer": True}
            self.ledger.again(id, event, message.attempt, **how, run=self.hands.run(event))  # type: ignore[arg-type]
        else:
            self.hands.succeed(event)
        return None


class Series(Schedule):
    def delivery(self, message: Message) -> Delivery:
        return (
            Hands(self.ledger)
            .delivery(message.event)
            ._replace(turns=(), message=message.number, expected=message.expected)
        )

    def go_on(self, message: Message) -> Message | None:
        delivery = self.delivery(message)
        if message.step == "begin":
            if self.ledger.waiting.series.is_over(delivery.id):
                return message._replace(step="end")
            park_series(self.ledger, message.event, Debounce("30s"), attempt=message.attempt)
            return None
        Hands(self.ledger).succeed(message.event)
        return None


@pytest.mark.parametrize("when", ["skip", "queue", "cancel"])
def test_never_two_run_and_all_come_to_an_end(ledger: Ledger, when: When) -> None:
    for seed in SEEDS:
        events = append(ledger, 8)
        schedule = Singles(ledger, seed, when)
        schedule.run(events)
        assert schedule.most == 1, seed
        assert all_turns(ledger) == [], seed
        found = outcomes(ledger, events)
        ends = {"skip": {"succeeded", "filtered"}, "queue": {"succeeded"}}
        assert set(found) <= ends.get(when, {"succeeded", "filtered", "cancelled"}), seed
        assert "succeeded" in found, seed
        if when == "cancel":
            assert found[-1] == "succeeded", seed


def test_of_each_series_the_last_is_handled_and_nothing_stays_parked(ledger: Ledger) -> None:
    for seed in SEEDS:
        events = append(ledger, 8)
        Series(ledger, seed).run(events)
        found = outcomes(ledger, events)
        assert set(found) <= {"succeeded", "filtered"}, seed
        assert found[-1] == "succeeded", seed
