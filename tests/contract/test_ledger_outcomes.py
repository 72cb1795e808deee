"""What every ledger promises about how deliveries end: each outcome is recorded once, with all that goes with it."""

from __future__ import annotations

import pytest

from pipeline import Pipeline
from pipeline.core.errors import LedgerError
from pipeline.core.outcome import Outcome
from pipeline.core.times import now
from pipeline.ledger.database.rows import timer_row
from pipeline.ledger.database.tables import deliveries, events, flows, outbox, timers
from pipeline.ledger.facts import Success
from pipeline.ledger.ledger import AlreadyRecordedError, Ledger
from tests.ledgers import again, claim, delivery, die, new_order, record, running
from tests.logs import started_join
from tests.records import rows
from tests.threads import in_threads

pytestmark = [pytest.mark.usefixtures("living_worker"), pytest.mark.pooled]


def test_a_success_is_recorded_with_everything_that_it_emitted(app: Pipeline, ledger: Ledger) -> None:
    event, id = running(ledger)
    emitted = record(new_order(), delivery=id)
    later = timer_row("later", "publish", now(), event.correlation_id, new_order().encode())
    join = started_join(event, id)
    ledger.succeed(Success(id, [emitted], [later], join, due_in=0, result="1"))
    row = delivery(app)
    assert (row["outcome"], row["emitted"], row["result"]) == ("succeeded", 1, "1")
    assert row["ended"] >= row["started"]
    assert [row["delivery"] for row in rows(app, events, id=emitted.event.id)] == [id]
    assert [row["event_id"] for row in rows(app, outbox)] == [emitted.event.id]
    assert [row["id"] for row in rows(app, timers)] == ["later"]
    assert [row["id"] for row in rows(app, flows)] == [id]


def test_the_second_success_of_a_delivery_writes_nothing(app: Pipeline, ledger: Ledger) -> None:
    event, id = running(ledger)
    ledger.succeed(Success(id, [record(new_order())], [], due_in=0))
    before = {table.name: rows(app, table) for table in (deliveries, events, outbox, timers, flows)}
    late = timer_row("late", "publish", now(), event.correlation_id, new_order().encode())
    join = started_join(event, id)
    with pytest.raises(AlreadyRecordedError):
        ledger.succeed(Success(id, [record(new_order())], [late], join, due_in=0))
    assert {table.name: rows(app, table) for table in (deliveries, events, outbox, timers, flows)} == before


def test_of_two_runs_that_succeed_at_once_one_takes_effect(app: Pipeline, ledger: Ledger) -> None:
    def succeed(_: int) -> int:
        try:
            ledger.succeed(Success(id, [record(new_order())], [], due_in=0))
        except AlreadyRecordedError:
            return 0
        return 1

    _, id = running(ledger)
    assert sum(in_threads(4, succeed)) == 1
    assert len(rows(app, events)) == 1


def test_a_success_in_the_handlers_own_transaction_shares_its_fate(app: Pipeline, ledger: Ledger) -> None:
    _, id = running(ledger)
    with ledger.database.session() as session:
        ledger.succeed(Success(id, [record(new_order())], [], due_in=0), session.connection())
    assert (delivery(app)["outcome"], rows(app, events)) == ("running", [])
    with ledger.database.session() as session:
        ledger.succeed(Success(id, [record(new_order())], [], due_in=0), session.connection())
        session.commit()
    assert (delivery(app)["outcome"], len(rows(app, events))) == ("succeeded", 1)


def test_a_success_clears_away_the_retrys_timer(app: Pipeline, ledger: Ledger) -> None:
    event, id = running(ledger)
    assert again(ledger, event, 1)
    assert [row["id"] for row in rows(app, timers)] == [id]
    assert claim(ledger, event, expected=2).attempt == 2
    ledger.succeed(Success(id, [], [], due_in=None))
    assert rows(app, timers) == []
    assert (delivery(app)["outcome"], delivery(app)["error"]) == ("succeeded", None)


def test_only_the_running_attempt_can_ask_for_another_one(app: Pipeline, ledger: Ledger) -> None:
    event, id = running(ledger)
    assert not again(ledger, event, 2)
    assert rows(app, timers) == []
    assert again(ledger, event, 1)
    assert not again(ledger, event, 1), "it no longer runs"
    assert claim(ledger, event, expected=2).attempt == 2
    assert not again(ledger, event, 1), "a late word of the first attempt"
    ledger.succeed(Success(id, [], [], due_in=None))
    assert not again(ledger, event, 2)
    assert ledger.deliveries.state(id) == (Outcome.SUCCEEDED, 2)


def test_only_the_running_attempt_can_end_a_delivery_as_dead(app: Pipeline, ledger: Ledger) -> None:
    event, _ = running(ledger)
    announced = record(new_order("pipeline.delivery.dead"))
    assert not die(ledger, event, 2, announced)
    assert rows(app, events) == []
    assert die(ledger, event, 1, announced)
    assert not die(ledger, event, 1, record(new_order("pipeline.delivery.dead")))
    assert not die(ledger, event, None, record(new_order("pipeline.delivery.dead")))
    assert [row["id"] for row in rows(app, events)] == [announced.event.id]
    row = delivery(app)
    assert (row["outcome"], row["error"], row["traceback"]) == ("dead", "boom", "Traceback")


def test_nothing_is_recorded_of_an_attempt_whose_claim_a_crash_has_undone(app: Pipeline, ledger: Ledger) -> None:
    event, id = running(ledger)
    with ledger.database.transaction() as connection:
        connection.execute(deliveries.delete())
    for record_it in (
        lambda: ledger.succeed(Success(id, [record(new_order())], [], due_in=0)),
        lambda: again(ledger, event, 1),
        lambda: die(ledger, event, 1, record(new_order())),
    ):
        with pytest.raises(LedgerError, match="has lost the claim"):
            record_it()
    assert (rows(app, events), rows(app, timers)) == ([], [])
