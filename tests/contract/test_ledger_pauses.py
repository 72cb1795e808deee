"""What every ledger promises about pauses: who waits for a scope, when it goes on, and how many at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from sqlalchemy import update

from pipeline import Event, Pipeline
from pipeline.core.ids import delivery_id
from pipeline.core.times import SECOND, micros, now
from pipeline.ledger.database.tables import deliveries
from pipeline.ledger.database.waiting import pauses, waits
from pipeline.ledger.facts import Delivery, Success
from pipeline.ledger.ledger import Ledger
from pipeline.ledger.waiting.pauses import AGENT, BEGUN_WITHIN, SCOPE, WIDEST, Pause
from pipeline.ledger.waiting.wait import PAUSE, Parking, Wait
from tests.ledgers import append, move
from tests.records import rows
from tests.threads import in_threads

GPT = "openai:gpt-5"


def hit(ledger: Ledger, seconds: float = 60.0, scope: str = GPT) -> Pause:
    return ledger.waiting.pauses.hit(scope, "429", lambda times: seconds * (times + 1))


def held(event: Event) -> Delivery:
    return Delivery(delivery_id(event.id, "billing"), event, "billing")


def park(ledger: Ledger, events: Sequence[Event], scope: str = GPT) -> list[str]:
    """Let deliveries wait for a scope; return their ids in the order in which they go on."""
    found = []
    for event in events:
        claim = ledger.claim(held(event), worker="w1")
        wait = Wait(PAUSE, f"waits for {scope}", key=scope, due=now() + 3600 * SECOND)
        assert ledger.waiting.waits.park(Parking(held(event), claim.attempt, wait))
        found.append(held(event).id)
    return found


def queued(app: Pipeline) -> set[str]:
    return {row["id"] for row in rows(app, outcome="queued")}


def over(ledger: Ledger) -> None:
    """Let all pauses be over."""
    move(ledger, pauses, 7200, "until")


def handle(ledger: Ledger, ids: set[str], found: Sequence[Event]) -> None:
    """Let workers take released deliveries and end them."""
    for event in found:
        if held(event).id in ids:
            assert ledger.claim(held(event), worker="w1").attempt == 1  # waiting has spent none
            ledger.succeed(Success(held(event).id, [], [], due_in=None))


def test_a_paused_agent_stays_paused_until_it_is_resumed_and_keeps_its_time(app: Pipeline, ledger: Ledger) -> None:
    table = ledger.waiting.pauses
    assert table.pause("billing", "maintenance")
    (first,) = table.all()
    assert not table.pause("billing", "a new disk")
    (second,) = table.all()
    assert (second.kind, second.name, second.reason, second.until) == (AGENT, "billing", "a new disk", None)
    assert second.since == first.since
    assert table.agents() == {"billing"}
    assert ledger.due.look().pauses is False  # nothing of it is for the chores
    assert table.end(AGENT, "billing")
    assert not table.end(AGENT, "billing")
    assert table.agents() == frozenset()


def test_what_waits_for_a_scope_stays_parked_as_long_as_that_is_paused(app: Pipeline, ledger: Ledger) -> None:
    hit(ledger)
    park(ledger, append(ledger, 3))
    assert ledger.due.look().pauses
    assert ledger.waiting.pauses.release() == 0
    assert queued(app) == set()
    assert {(row["outcome"], row["attempts"]) for row in rows(app, agent="billing")} == {("parked", 0)}
    (pause,) = ledger.waiting.pauses.all()
    assert (pause.waiting, pause.is_on, pause.times) == (3, True, 0)


def test_after_a_pause_one_goes_on_and_then_twice_as_many_each_time_that_so_many_have_ended(
    app: Pipeline, ledger: Ledger
) -> None:
    hit(ledger)
    events = append(ledger, 15)
    ids = park(ledger, events)
    over(ledger)
    waves = []
    while ledger.due.look().pauses:
        ledger.waiting.pauses.release()
        wave = queued(app)
        assert ledger.waiting.pauses.release() == 0  # the others wait until these have ended
        waves.append(wave)
        handle(ledger, wave, events)
    assert [len(wave) for wave in waves] == [1, 2, 4, 8, 0]
    assert set.union(*waves) == set(ids)
    assert waves[0] == {ids[0]}
    assert rows(app, pauses) == []
    assert rows(app, waits) == []


def test_a_scope_that_is_hit_again_while_it_starts_waits_longer_and_starts_with_one(
    app: Pipeline, ledger: Ledger
) -> None:
    hit(ledger, 10)
    events = append(ledger, 8)
    park(ledger, events)
    over(ledger)
    ledger.waiting.pauses.release()
    handle(ledger, queued(app), events)
    ledger.waiting.pauses.release()
    assert len(queued(app)) == 2
    at = now()
    again = hit(ledger, 10)
    assert (again.times, again.width, again.admitted) == (1, 1, frozenset())
    assert again.until is not None
    assert 20 * SECOND <= micros(again.until) - at < 25 * SECOND
    assert ledger.waiting.pauses.release() == 0


def test_those_that_run_beside_each_other_pause_a_scope_once_for_the_longest_time(ledger: Ledger) -> None:
    hit(ledger, 10)
    at = now()
    assert hit(ledger, 30).times == 0
    pause = hit(ledger, 5)
    assert pause.times == 0
    assert pause.until is not None
    assert 29 * SECOND <= micros(pause.until) - at < 35 * SECOND


def test_of_many_that_pause_a_scope_at_once_none_fails(app: Pipeline, ledger: Ledger) -> None:
    found = in_threads(8, lambda n: hit(ledger, 10 + n))
    assert {pause.times for pause in found} == {0}
    (row,) = rows(app, pauses)
    assert row["until"] == max(micros(pause.until) for pause in found if pause.until)


def test_many_workers_together_let_no_more_go_on_than_one(app: Pipeline, ledger: Ledger) -> None:
    hit(ledger)
    park(ledger, append(ledger, 8))
    over(ledger)
    assert sum(in_threads(6, lambda _: ledger.waiting.pauses.release())) == 1
    assert len(queued(app)) == 1


def test_a_delivery_that_waits_for_a_scope_which_is_not_paused_goes_on(app: Pipeline, ledger: Ledger) -> None:
    ids = park(ledger, append(ledger, 3))  # the pause has ended between the look and this
    assert ledger.due.look().pauses
    assert ledger.waiting.pauses.release() == 3
    assert queued(app) == set(ids)
    assert not ledger.due.look().pauses


def test_a_cleared_scope_lets_all_go_on_and_another_one_stays(app: Pipeline, ledger: Ledger) -> None:
    hit(ledger)
    hit(ledger, scope="anthropic")
    ids = park(ledger, append(ledger, 3))
    park(ledger, append(ledger, 2), "anthropic")
    assert ledger.waiting.pauses.end(SCOPE, GPT)
    assert ledger.waiting.pauses.release() == 3
    assert queued(app) == set(ids)
    assert len(rows(app, waits)) == 2


def test_a_released_delivery_that_nobody_begins_does_not_hold_up_the_others(app: Pipeline, ledger: Ledger) -> None:
    hit(ledger)
    ids = park(ledger, append(ledger, 3))
    over(ledger)
    assert ledger.waiting.pauses.release() == 1
    ledger.due.sent([one.id for one in ledger.due.at_once()])  # to an agent whose workers are down
    assert ledger.waiting.pauses.release() == 0
    move(ledger, deliveries, BEGUN_WITHIN + 1)
    assert ledger.waiting.pauses.release() == 2
    assert queued(app) == set(ids)


def test_a_scope_that_has_started_well_holds_nothing_back_any_more(app: Pipeline, ledger: Ledger) -> None:
    hit(ledger)
    park(ledger, append(ledger, 3))
    over(ledger)
    with ledger.database.transaction() as connection:
        connection.execute(update(pauses).values(width=WIDEST, ended=WIDEST))
    assert ledger.waiting.pauses.release() == 3
    assert rows(app, pauses) == []


def test_a_pause_that_nobody_has_waited_for_is_gone_when_it_is_over(app: Pipeline, ledger: Ledger) -> None:
    hit(ledger)
    assert not ledger.due.look().pauses
    over(ledger)
    assert ledger.due.look().pauses
    assert ledger.waiting.pauses.release() == 0
    assert rows(app, pauses) == []
    assert not ledger.due.look().pauses


def test_what_waits_longer_than_any_pause_goes_on_in_any_case(app: Pipeline, ledger: Ledger) -> None:
    hit(ledger)
    ids = park(ledger, append(ledger, 2))
    move(ledger, waits, 3601)
    assert ledger.waiting.waits.release_due() == 2
    assert queued(app) == set(ids)


@pytest.mark.parametrize(("minutes", "expected"), [(0, (3, 3)), (4, (3, 3)), (5, (1, 1))])
def test_failed_attempts_count_for_some_minutes(
    app: Pipeline, ledger: Ledger, monkeypatch: pytest.MonkeyPatch, minutes: int, expected: Any
) -> None:
    attempts = ledger.waiting.attempts
    assert attempts.fail("billing", 300) == (1, 1)
    assert attempts.fail("billing", 300) == (2, 2)
    assert attempts.fail("stock", 300) == (1, 1)
    later = now() // SECOND // 60 + minutes
    monkeypatch.setattr("pipeline.ledger.waiting.pauses.minute", lambda: later)
    assert attempts.fail("billing", 300) == expected
    attempts.forget("billing")
    assert attempts.fail("billing", 300) == (1, 1)
