"""What went on lately, on every ledger: the right numbers, and only the end of the log is read for them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text, update

from pipeline.core.times import SECOND, now
from pipeline.history import traffic
from pipeline.history.traffic import SLOTS, emitted_lately, events_lately, work_of
from pipeline.ledger.database.tables import deliveries
from pipeline.ledger.ledger import Ledger
from tests.ledgers import plans
from tests.logs import begin, made, put, succeed

HOUR = timedelta(hours=1)


def recent(ago: timedelta, type: str = "order.created", **options: Any) -> Any:
    """Return an event that happened some time ago."""
    return made(type, **options).model_copy(update={"time": datetime.now(UTC) - ago})


def took(ledger: Ledger, id: str, seconds: float) -> None:
    """Let a delivery have been begun some seconds before its end."""
    with ledger.database.transaction() as connection:
        begun = {"started": deliveries.c.ended - round(seconds * SECOND)}
        connection.execute(update(deliveries).where(deliveries.c.id == id).values(begun))


def test_events_are_counted_by_their_time_those_before_and_after_it_are_not(ledger: Ledger) -> None:
    put(ledger, *(recent(timedelta(minutes=ago)) for ago in (1.5, 1.5, 30.5, 59.5, 61, -5)))
    found = events_lately(ledger, HOUR)
    assert (len(found.numbers), found.each) == (SLOTS, timedelta(minutes=1))
    assert {number: count for number, count in enumerate(found.numbers) if count} == {0: 1, 29: 1, 58: 2}


def test_of_too_many_events_the_newest_count(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traffic, "COUNTED", 3)
    put(ledger, *(recent(timedelta(minutes=ago + 0.5)) for ago in range(10)))
    assert list(events_lately(ledger, HOUR).numbers[-5:]) == [0, 0, 1, 1, 1]


def test_agents_emit_what_their_deliveries_did_the_most_first(ledger: Ledger) -> None:
    one, other = made(), made()
    put(ledger, one, other)
    succeed(ledger, one, "billing", made("order.paid"), made("mail.sent"))
    succeed(ledger, other, "billing", made("order.paid"))
    put(ledger, made("order.paid"), replay="r1")
    assert emitted_lately(ledger) == [
        ("order.created", None, 2), ("order.paid", "billing", 2), ("mail.sent", "billing", 1),
    ]  # fmt: skip


def test_only_the_newest_events_are_looked_through(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traffic, "LOOKED_AT", 4)
    put(ledger, made("order.old"), *(made("order.new") for _ in range(4)))
    assert emitted_lately(ledger) == [("order.new", None, 4)]


def test_what_an_agent_did_is_counted_and_timed(ledger: Ledger) -> None:
    orders = [made() for _ in range(21)]
    put(ledger, *orders)
    for seconds, order in enumerate(orders[:20]):
        took(ledger, succeed(ledger, order, "billing"), seconds + 1)
    succeed(ledger, orders[0], "stock")
    dead = begin(ledger, orders[20], "billing")
    assert ledger.die(dead, 1, [], error="boom", traceback="", due_in=0)

    found = work_of(ledger, "billing", ["order.*"], HOUR)

    assert (sum(found.done.numbers), sum(found.failed.numbers)) == (20, 1)
    assert found.took is not None
    assert found.took.median == pytest.approx(10.5, abs=0.01)
    assert found.took.p95 == pytest.approx(19.05, abs=0.01)
    assert found.after is not None
    assert 0 <= found.after.median < 60
    assert found.since == found.done.since, "all of the hour was looked at"
    assert sum(work_of(ledger, "billing", [], HOUR).done.numbers) == 20
    nobody = work_of(ledger, "mailer", ["mail.*"], HOUR)
    assert (sum(nobody.done.numbers), nobody.took, nobody.after) == (0, None, None)


def test_what_ended_before_the_time_does_not_count(ledger: Ledger) -> None:
    order = made()
    put(ledger, order)
    succeed(ledger, order, "billing")
    with ledger.database.transaction() as connection:
        connection.execute(update(deliveries).values(started=now() - 7200 * SECOND, ended=now() - 7000 * SECOND))
    assert sum(work_of(ledger, "billing", ["order.*"], HOUR).done.numbers) == 0


def test_of_a_busy_agent_it_is_said_from_when_on_all_was_looked_at(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(traffic, "LOOKED_AT", 3)
    orders = [made() for _ in range(5)]
    put(ledger, *orders)
    for order in orders:
        succeed(ledger, order, "billing")
    found = work_of(ledger, "billing", ["order.created"], HOUR)
    assert sum(found.done.numbers) == 3
    assert found.since > found.done.since


def test_no_query_reads_a_whole_table(ledger: Ledger) -> None:
    orders = [made(f"order.t{n % 3}") for n in range(3000)]
    put(ledger, *orders)
    with ledger.database.transaction() as connection:
        row = {"event_id": "", "agent": "billing", "outcome": "succeeded", "started": now(), "ended": now()}
        rows = [{**row, "id": f"d{n}", "event_id": order.id} for n, order in enumerate(orders)]
        connection.execute(ledger.database.insert(deliveries), rows)
        connection.execute(text("ANALYZE"))
    with plans(ledger, "pipeline_events") as found, pytest.MonkeyPatch.context() as patch:
        patch.setattr(traffic, "LOOKED_AT", 4)
        patch.setattr(traffic, "COUNTED", 20)
        events_lately(ledger, HOUR)
        emitted_lately(ledger)
        work_of(ledger, "billing", ["order.t1"], HOUR)
        work_of(ledger, "billing", [], HOUR)
    assert len(found) >= 6
    for plan in found:
        assert "Seq Scan" not in plan
        for line in plan.splitlines():
            assert "SCAN pipeline_" not in line or "USING" in line, plan
            assert "SCAN pipeline_deliveries" not in line, plan
