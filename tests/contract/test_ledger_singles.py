"""One at a time, and only the last of a series, in the ledger: whoever asks first, and however many ask at once."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import delete, update
from sqlalchemy.event import listen

from pipeline import Event, Singleton
from pipeline.core.ids import delivery_id
from pipeline.core.limits.limit import SLOT, Turn
from pipeline.core.limits.single import BEFORE_ALL, DEBOUNCE, QUIET, Debounce, When
from pipeline.core.outcome import Outcome
from pipeline.core.times import SECOND, micros
from pipeline.ledger.database.tables import deliveries, workers
from pipeline.ledger.database.waiting import lines, turns, waits
from pipeline.ledger.facts import AlreadyRecordedError, Delivery, Success
from pipeline.ledger.ledger import Ledger
from pipeline.ledger.limits.lines import Ending
from pipeline.ledger.waiting.wait import Parking, Wait
from tests.ledgers import ON_POSTGRESQL, append, move
from tests.threads import in_threads

pytestmark = [pytest.mark.usefixtures("living_worker"), pytest.mark.pooled]

AGENT = "billing"
LINE = Singleton.limit_of(AGENT)


class Hands:
    """What a worker does with the deliveries of a singleton, without the worker."""

    def __init__(self, ledger: Ledger, when: When = "skip") -> None:
        self.ledger = ledger
        self.when = when

    def delivery(self, event: Event) -> Delivery:
        tenant = str(event.metadata.get("tenant", ""))
        turn = Turn(LINE, tenant, "", Singleton().rule, event.priority, micros(event.time))
        return Delivery(delivery_id(event.id, AGENT), event, AGENT, turns=(turn,), redelivered=True)

    def run(self, event: Event, **how: Any) -> Any:
        delivery = self.delivery(event)
        lines, ending = self.ledger.limits.lines, Ending(delivery.id, delivery.turns, **how)
        return lambda work: self.ledger.database.run(lambda own: lines.ending(own, ending, work))

    def take(self, event: Event) -> Any:
        delivery = self.delivery(event)
        return self.ledger.limits.singles.take(delivery, delivery.turns, self.when)

    def claim(self, event: Event) -> int:
        return self.ledger.claim(self.delivery(event), worker="w1").attempt

    def begin(self, event: Event) -> str:
        """Claim a delivery and take its turn; return "runs", "waits", or why it is left out."""
        attempt = self.claim(event)
        assert attempt
        taken = self.take(event)
        if taken.instead is not None:
            filter = self.ledger.deliveries.filter
            self.run(event, over=True)(lambda own: filter(own, delivery_id(event.id, AGENT), attempt, taken.instead))
            return str(taken.instead)
        if taken.line is None:
            return "runs"
        self.park(event, attempt)
        return "waits"

    def park(self, event: Event, attempt: int = 1) -> bool:
        wait = Wait(SLOT, "waits", key=self.delivery(event).turns[0].line)
        return self.ledger.waiting.waits.park(
            Parking(self.delivery(event), attempt, wait), self.run(event, line=wait.key)
        )

    def succeed(self, event: Event) -> bool:
        success = Success(delivery_id(event.id, AGENT), due_in=None)
        try:
            self.run(event, over=True)(lambda own: self.ledger.succeed(success, own))
        except AlreadyRecordedError:
            self.ledger.limits.lines.give_back(success.delivery, self.delivery(event).turns)
            return False
        return True

    def fail(self, event: Event) -> bool:
        id = delivery_id(event.id, AGENT)
        return self.ledger.again(id, event, 1, delay=60, error="boom", timer=True, run=self.run(event))

    def called(self) -> list[str]:
        return [message.encoded.event.id for message in self.ledger.due.at_once()]


def row(ledger: Ledger, event: Event) -> Any:
    with ledger.database.reading() as connection:
        query = deliveries.select().where(deliveries.c.id == delivery_id(event.id, AGENT))
        return connection.execute(query).one()


def outcomes(ledger: Ledger, events: list[Event]) -> list[str]:
    return [row(ledger, event).outcome for event in events]


def all_turns(ledger: Ledger) -> list[tuple[str, str]]:
    with ledger.database.reading() as connection:
        return sorted((turn.delivery, turn.state) for turn in connection.execute(turns.select()))


# -- singletons


def test_who_comes_while_one_runs_is_left_out_and_told_which(ledger: Ledger) -> None:
    hands = Hands(ledger)
    first, second, third = append(ledger, 3)
    (other,) = append(ledger, 1, metadata={"tenant": "acme"})
    assert hands.begin(first) == "runs"
    told = f"one runs already: delivery {delivery_id(first.id, AGENT)} of event {first.id}"
    assert hands.begin(second) == told
    assert hands.begin(other) == "runs"
    assert (row(ledger, second).outcome, row(ledger, second).error, row(ledger, second).attempts) == (
        "filtered", told, 0,
    )  # fmt: skip
    assert hands.succeed(first)
    assert hands.begin(third) == "runs"


def test_who_is_tried_again_keeps_its_slot_and_does_not_skip_itself(ledger: Ledger) -> None:
    hands = Hands(ledger)
    first, second = append(ledger, 2)
    assert hands.begin(first) == "runs"
    assert hands.fail(first)
    assert hands.begin(second).startswith("one runs already")
    move(ledger, turns, 60, "since")
    assert ledger.limits.calling.mend() == 0, "what is tried again has not ended"
    again = hands.delivery(first)._replace(expected=2)
    assert ledger.claim(again, worker="w1").attempt == 2
    assert hands.take(first).line is None
    assert hands.succeed(first)
    assert all_turns(ledger) == []


def test_a_handler_that_was_stopped_is_no_reason_to_leave_another_one_out(ledger: Ledger) -> None:
    hands = Hands(ledger)
    first, second = append(ledger, 2)
    hands.begin(first)
    ledger.waiting.trees.cancel(first.id)
    assert hands.begin(second) == "waits"
    assert not hands.succeed(first)
    assert hands.called() == [second.id]


def test_who_comes_waits_in_line_or_takes_the_place_of_all_before_it(ledger: Ledger) -> None:
    queued = Hands(ledger, "queue")
    hands = Hands(ledger, "cancel")
    first, second, third, fourth = append(ledger, 4)
    assert [queued.begin(event) for event in (first, second)] == ["runs", "waits"]
    assert hands.begin(third) == "waits"
    assert outcomes(ledger, [first, second, third]) == ["cancelled", "filtered", "parked"]
    assert {row(ledger, event).error for event in (first, second)} == {f"event {third.id} took its place"}
    assert [stop.delivery for stop in ledger.waiting.trees.take_stops("w1")] == [delivery_id(first.id, AGENT)]
    assert hands.begin(fourth) == "waits"
    assert outcomes(ledger, [third, fourth]) == ["filtered", "parked"]
    assert hands.called() == [], "the first one has not ended"
    assert not hands.succeed(first)
    assert hands.called() == [fourth.id]
    assert hands.claim(fourth)
    assert hands.take(fourth).line is None
    assert hands.succeed(fourth)
    assert all_turns(ledger) == []


def test_an_event_that_comes_late_does_not_stop_a_later_one(ledger: Ledger) -> None:
    hands = Hands(ledger, "cancel")
    first, second, third = append(ledger, 3)
    assert hands.begin(second) == "runs"
    assert hands.begin(first) == f"event {second.id} took its place"
    assert hands.begin(third) == "waits"
    assert outcomes(ledger, [first, second, third]) == ["filtered", "cancelled", "parked"]


def test_what_is_tried_again_or_sleeps_makes_room_at_once(ledger: Ledger) -> None:
    hands = Hands(ledger, "cancel")
    first, second = append(ledger, 2)
    hands.begin(first)
    hands.fail(first)
    assert hands.begin(second) == "runs"
    assert outcomes(ledger, [first, second]) == ["cancelled", "running"]
    assert ledger.timers.take(0) == ([], [], pytest.approx(0, abs=2**62))


def on_its_way(ledger: Ledger) -> tuple[Hands, list[Event]]:
    """Let the first of three events run, and the second be called for a place in line, but not be parked there yet."""
    hands, found = Hands(ledger, "cancel"), append(ledger, 3)
    hands.begin(found[0])
    assert hands.claim(found[1])
    assert hands.take(found[1]).line
    return hands, found


def test_one_on_its_way_into_the_line_is_found_by_the_next(ledger: Ledger) -> None:
    hands, (first, second, third) = on_its_way(ledger)
    assert hands.begin(third) == "waits"
    assert not hands.park(second), "it is over"
    assert outcomes(ledger, [first, second, third]) == ["cancelled", "filtered", "parked"]
    assert not hands.succeed(first)
    assert hands.called() == [third.id]


def test_one_on_its_way_into_the_line_is_found_even_when_it_has_been_called_meanwhile(ledger: Ledger) -> None:
    hands, (first, second, third) = on_its_way(ledger)
    assert not hands.succeed(first)
    assert hands.begin(third) == "runs"
    assert not hands.park(second), "it is over"
    assert outcomes(ledger, [first, second, third]) == ["cancelled", "filtered", "running"]


def test_one_that_is_parked_after_it_has_been_called_goes_on(ledger: Ledger) -> None:
    hands, (first, second, third) = on_its_way(ledger)
    assert not hands.succeed(first)
    assert hands.park(second)
    assert hands.called() == [second.id]
    assert hands.begin(third) == "runs"
    assert outcomes(ledger, [first, second, third]) == ["cancelled", "filtered", "running"]


def test_the_slot_of_a_stopped_handler_is_free_when_its_worker_is_dead(ledger: Ledger) -> None:
    hands = Hands(ledger, "cancel")
    first, second = append(ledger, 2)
    hands.begin(first)
    assert hands.begin(second) == "waits"
    move(ledger, turns, 60, "since")
    assert ledger.limits.calling.mend() == 0, "its handler may still run"
    with ledger.database.transaction() as connection:
        connection.execute(update(workers).values(seen=0))
    assert ledger.limits.calling.mend() == 1
    assert hands.called() == [second.id]


@pytest.mark.parametrize("when", ["skip", "queue", "cancel"])
def test_of_many_who_ask_at_once_one_runs(ledger: Ledger, when: When) -> None:
    hands = Hands(ledger, when)
    events = append(ledger, 12)
    found = in_threads(4, lambda n: [hands.begin(event) for event in events[n::4]])
    said = [one for some in found for one in some]
    assert said.count("runs") == 1
    running = next(event for event in events if (event.id, "x") and _keeps(ledger, event))
    if when == "skip":
        assert len([one for one in said if one.startswith("one runs already")]) == 11
    if when == "queue":
        assert said.count("waits") == 11
    if when == "cancel":
        hands.succeed(running)
        assert hands.called() == ([] if running is events[-1] else [events[-1].id])
        assert set(outcomes(ledger, events[:-1])) <= {"filtered", "cancelled"}


def _keeps(ledger: Ledger, event: Event) -> bool:
    return (delivery_id(event.id, AGENT), "kept") in all_turns(ledger)


# -- series


def park(ledger: Ledger, event: Event, debounce: Debounce) -> int:
    delivery = Delivery(delivery_id(event.id, AGENT), event, AGENT)
    assert ledger.claim(delivery, worker="w1").attempt
    return park_series(ledger, event, debounce)


def park_series(ledger: Ledger, event: Event, debounce: Debounce, attempt: int = 1) -> int:
    delivery = Delivery(delivery_id(event.id, AGENT), event, AGENT)
    key = f"{AGENT}#{DEBOUNCE}:{event.metadata.get('tenant', '')}"
    wait = Wait(QUIET, "waits", DEBOUNCE, BEFORE_ALL, key=key)
    return ledger.waiting.series.park(Parking(delivery, attempt, wait), debounce, ledger.database.run)


def test_the_last_event_of_a_series_is_parked_and_the_others_say_which(ledger: Ledger) -> None:
    debounce = Debounce("30s", "10m")
    events = append(ledger, 3)
    (other,) = append(ledger, 1, metadata={"tenant": "acme"})
    dues = [park(ledger, event, debounce) for event in (*events, other)]
    assert dues == sorted(dues)
    assert outcomes(ledger, [*events, other]) == ["filtered", "filtered", "parked", "parked"]
    assert [row(ledger, event).error for event in events[:2]] == [
        f"event {later.id} took its place" for later in events[1:]
    ]
    assert [row(ledger, event).attempts for event in events] == [0, 0, 0]
    id = delivery_id(events[2].id, AGENT)
    assert ledger.waiting.waits.release_due() == 0
    assert not ledger.waiting.series.is_over(id)
    move(ledger, waits, 31)
    assert ledger.waiting.waits.release_due() == 2
    assert ledger.waiting.series.is_over(id)
    assert outcomes(ledger, [events[2]]) == ["queued"]


def test_the_log_says_which_is_the_last_whoever_comes_first(ledger: Ledger) -> None:
    debounce = Debounce("30s")
    first, second, third = append(ledger, 3)
    for event in (second, first, third):
        park(ledger, event, debounce)
    assert outcomes(ledger, [first, second, third]) == ["filtered", "filtered", "parked"]
    assert row(ledger, first).error == f"event {second.id} took its place"


def test_a_series_ends_in_time_and_what_comes_then_begins_another(ledger: Ledger) -> None:
    debounce = Debounce("30s", "1m")
    first, second, third = append(ledger, 3)
    begun = park(ledger, first, debounce) - 30 * SECOND
    move(ledger, lines, 50, "tat")  # nearly a minute ago
    assert park(ledger, second, debounce) <= begun + 11 * SECOND
    move(ledger, waits, 30)
    assert ledger.waiting.waits.release_due() == 1
    assert park(ledger, third, debounce) >= begun + 30 * SECOND
    assert outcomes(ledger, [first, second, third]) == ["filtered", "queued", "parked"]


def test_what_was_stopped_on_its_way_takes_nobodys_place(ledger: Ledger) -> None:
    debounce = Debounce("30s")
    first, second = append(ledger, 2)
    park(ledger, first, debounce)
    assert ledger.claim(Delivery(delivery_id(second.id, AGENT), second, AGENT), worker="w1").attempt
    ledger.waiting.trees.cancel(second.id)
    park_series(ledger, second, debounce)
    assert outcomes(ledger, [first, second]) == ["parked", "cancelled"]


def test_of_many_who_come_at_once_the_last_in_the_log_is_parked(ledger: Ledger) -> None:
    debounce = Debounce("30s")
    events = append(ledger, 24)
    in_threads(4, lambda n: [park(ledger, event, debounce) for event in events[n::4]])
    assert outcomes(ledger, events) == ["filtered"] * 23 + ["parked"]
    with ledger.database.reading() as connection:
        assert [wait.delivery for wait in connection.execute(waits.select())] == [delivery_id(events[-1].id, AGENT)]
    assert Outcome.PARKED.value == row(ledger, events[-1]).outcome


@ON_POSTGRESQL
def test_a_key_that_is_forgotten_at_this_moment_is_made_anew(ledger: Ledger) -> None:
    debounce, forgotten = Debounce("30s"), list[int]()
    first, second = append(ledger, 2)
    due = park(ledger, first, debounce)
    move(ledger, waits, 31)
    assert ledger.waiting.waits.release_due() == 1

    def forget(_: Any, __: Any, statement: str, *___: Any) -> None:
        if "FOR UPDATE" in statement and "FROM pipeline_lines" in statement and len(forgotten) < 2:
            with ledger.database.transaction() as somebody:
                forgotten.append(somebody.execute(delete(lines)).rowcount)

    listen(ledger.database.engine, "before_cursor_execute", forget)
    assert park(ledger, second, debounce) >= due
    assert len(forgotten) == 2
    assert outcomes(ledger, [first, second]) == ["queued", "parked"]
