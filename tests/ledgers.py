"""Ledgers in a state that takes long to come about: old events, waiting retries, leases that have ended."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, Table, create_engine, select, text, update
from sqlalchemy import event as sqlalchemy_event

from pipeline import Event, Pipeline
from pipeline.core.errors import PipelineError
from pipeline.core.event import Encoded, new_event
from pipeline.core.ids import delivery_id
from pipeline.core.outcome import Outcome
from pipeline.core.times import SECOND, now
from pipeline.ledger.database.tables import flows
from pipeline.ledger.database.waiting import waits
from pipeline.ledger.facts import Delivery
from pipeline.ledger.ledger import Claim, Ledger
from pipeline.workers.sweeper import Sweeper
from tests.records import age, order, rows, settle

ON_POSTGRESQL = pytest.mark.parametrize("ledger_url", ["postgresql"], indirect=True)
ON_SQLITE = pytest.mark.parametrize("ledger_url", ["sqlite"], indirect=True)

#: Seconds that reconciliation waits for events in these tests.
AFTER = 60.0
LONG_AGO = round((AFTER + 1) * SECOND)
DAY = 86_400 * SECOND
DAYS = timedelta(days=1)


@contextmanager
def engine_on(url: str, **options: Any) -> Iterator[Engine]:
    """Somebody else's way to the ledger's database."""
    engine = create_engine(url, **options)
    yield engine
    engine.dispose()


@contextmanager
def locked(url: str) -> Iterator[None]:
    """Let somebody else hold the whole ledger."""
    with engine_on(url) as engine, engine.connect() as connection:
        if url.startswith("sqlite"):
            connection.connection.dbapi_connection.isolation_level = None  # type: ignore[union-attr]
            connection.execute(text("BEGIN IMMEDIATE"))
        else:
            connection.execute(text("LOCK TABLE pipeline_events, pipeline_deliveries, pipeline_outbox"))
        yield
        connection.rollback()


@contextmanager
def plans(ledger: Ledger, word: str) -> Iterator[list[str]]:
    """Collect how the database goes about each statement with a word in it."""
    found: list[str] = []
    prefix = "EXPLAIN QUERY PLAN " if ledger.database.is_sqlite else "EXPLAIN "

    def explain(_: Any, cursor: Any, statement: str, parameters: Any, *__: Any) -> None:
        if word in statement:
            cursor.execute(prefix + statement, parameters)
            found.append("\n".join(str(line) for line in cursor.fetchall()))

    sqlalchemy_event.listen(ledger.database.engine, "before_cursor_execute", explain)
    try:
        yield found
    finally:
        sqlalchemy_event.remove(ledger.database.engine, "before_cursor_execute", explain)


def refused(app: Pipeline, kind: type[PipelineError], *words: str) -> str:
    """Publish in vain; return what the error says, which is one line with these words."""
    with pytest.raises(kind) as caught:
        app.publish(order())
    message = str(caught.value)
    assert type(caught.value) is kind
    assert "\n" not in message
    for word in words:
        assert word in message
    return message


# -- events


def new_order(type: str = "order.placed", **options: Any) -> Event:
    return new_event(type, {"n": 1}, source="/test", **options)


def record(event: Event, **options: Any) -> Encoded:
    return Encoded(event, event.encode(), **options)


def append(ledger: Ledger, number: int = 1, type: str = "order.placed", **options: Any) -> list[Event]:
    found = [new_event(type, {"n": n}, source="/test", **options) for n in range(number)]
    ledger.append([record(event) for event in found], due_in=0)
    return found


def old(app: Pipeline, number: int = 1, type: str = "order.placed", **options: Any) -> list[Event]:
    """Append events, longer ago than reconciliation waits."""
    found = append(app.ledger, number, type, **options)
    age(app, found, LONG_AGO)
    return found


def long_settled(app: Pipeline, number: int, days: int = 10) -> list[Event]:
    """Publish orders that were settled days ago."""
    found = app.publish_many([order(n) for n in range(number)])
    settle(app, found)
    age(app, found, days * DAY)
    return found


# -- deliveries to billing


def claim(ledger: Ledger, event: Event, worker: str = "w1", **options: Any) -> Claim:
    return ledger.claim(Delivery(delivery_id(event.id, "billing"), event, "billing", **options), worker=worker)


def again(ledger: Ledger, event: Event, attempt: int) -> bool:
    id = delivery_id(event.id, "billing")
    return ledger.again(id, event, attempt, delay=60, error="boom", timer=True)


def die(ledger: Ledger, event: Event, attempt: int | None, *announced: Encoded) -> bool:
    id = delivery_id(event.id, "billing")
    return ledger.die(id, attempt, announced, error="boom", traceback="Traceback", due_in=0)


def running(ledger: Ledger) -> tuple[Event, str]:
    """Return an event whose delivery runs, and the delivery's id."""
    event = new_order()
    assert claim(ledger, event) == Claim(1, Outcome.RUNNING)
    return event, delivery_id(event.id, "billing")


def retrying(ledger: Ledger, number: int = 1) -> list[str]:
    """Let deliveries wait for their second attempt; return their ids."""
    found = append(ledger, number)
    for event in found:
        assert claim(ledger, event).attempt == 1
        assert again(ledger, event, 1)
    return [delivery_id(event.id, "billing") for event in found]


def delivery(app: Pipeline) -> dict[str, Any]:
    """Return the row of the only delivery."""
    (row,) = rows(app, agent="billing")
    return row


# -- what time and sweepers do


def move(ledger: Ledger, table: Table, seconds: float, column: str = "due") -> None:
    """Let time pass for all rows of a table."""
    with ledger.database.transaction() as connection:
        connection.execute(update(table).values({column: table.c[column] - round(seconds * SECOND)}))


def end_times(ledger: Ledger) -> None:
    """Let the time be over that flows, and the steps that have begun, are given."""
    with ledger.database.transaction() as connection:
        of_flows = select(flows.c.id, flows.c.clocks).where(flows.c.ended.is_(None), flows.c.due.is_not(None))
        for id, clocks in connection.execute(of_flows.with_for_update()).all():
            over = clocks and json.dumps(dict.fromkeys(json.loads(clocks), now()))
            connection.execute(update(flows).where(flows.c.id == id).values(due=now(), clocks=over))


def release(ledger: Ledger) -> int:
    """Let the time pass for which deliveries are parked, and those go on; return how many."""
    move(ledger, waits, 1000 * DAY / SECOND)
    return ledger.waiting.waits.release_due()


def reconcile(ledger: Ledger, after: float = AFTER) -> None:
    """Let the ledger look for missing deliveries until there are none."""
    while ledger.reconciliation.check(after):
        pass


def sweep(app: Pipeline) -> None:
    """Let a sweeper do all that is due."""
    sweeper = Sweeper(app.bus)
    try:
        while sweeper.sweep():
            pass
    finally:
        sweeper.leave()
