"""Ledgers in a state that takes long to come about: old events, waiting retries, leases that have ended."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Table, update

from pipeline import Event, Pipeline
from pipeline.event import new_event
from pipeline.ids import delivery_id
from pipeline.ledger import Ledger
from pipeline.ledger.rows import SECOND, Record, now
from tests.records import age

#: Seconds that reconciliation waits for events in these tests.
AFTER = 60.0
LONG_AGO = round((AFTER + 1) * SECOND)


def append(ledger: Ledger, number: int = 1, type: str = "order.placed", **options: Any) -> list[Event]:
    found = [new_event(type, {"n": n}, source="/test", **options) for n in range(number)]
    ledger.append([Record(event, event.encode()) for event in found], due=now())
    return found


def old(app: Pipeline, number: int = 1, type: str = "order.placed", **options: Any) -> list[Event]:
    """Append events, longer ago than reconciliation waits."""
    found = append(app.ledger, number, type, **options)
    age(app, found, LONG_AGO)
    return found


def move(ledger: Ledger, table: Table, seconds: float, column: str = "due") -> None:
    """Let time pass for all rows of a table."""
    with ledger.store.transaction() as connection:
        connection.execute(update(table).values({column: table.c[column] - round(seconds * SECOND)}))


def retrying(ledger: Ledger, number: int = 1) -> list[str]:
    """Let deliveries wait for their second attempt; return their ids."""
    ids = []
    for event in append(ledger, number):
        ids.append(delivery_id(event.id, "billing"))
        assert ledger.claim(ids[-1], event, "billing", worker="w1").attempt == 1
        assert ledger.again(ids[-1], event, 1, delay=60, error="boom", timer=True)
    return ids
