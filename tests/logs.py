"""Logs that tests write without a broker: events, and what agents did with them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Connection

from pipeline.event import Event, new_event
from pipeline.ids import delivery_id
from pipeline.ledger import Ledger
from pipeline.ledger.migrate import upgrade
from pipeline.ledger.rows import Record

START = datetime(2026, 1, 1, tzinfo=UTC)


@contextlib.contextmanager
def opened(url: str) -> Iterator[Ledger]:
    """Open a ledger with its tables, and close it afterwards."""
    ledger = Ledger(url)
    if ledger.store.is_sqlite:
        ledger.store.check()
    else:
        upgrade(ledger.store)
    yield ledger
    ledger.close()


def made(type: str = "order.created", data: Any = None, *, at: float = 0, agent: str = "", **options: Any) -> Event:
    """Return an event that happened some seconds after START."""
    source = f"/shop/agent/{agent}" if agent else "/shop"
    return new_event(type, data, source=source, **options).model_copy(update={"time": START + timedelta(seconds=at)})


def put(ledger: Ledger, *written: Event, connection: Connection | None = None, **more: Any) -> list[str]:
    """Append events to the log and return their ids; `more` are fields of Record."""
    ledger.append([Record(event, event.encode(), **more) for event in written], due=None, connection=connection)
    return [event.id for event in written]


def begin(ledger: Ledger, event: Event, agent: str) -> str:
    """Let an agent begin to handle an event; return the delivery's id."""
    id = delivery_id(event.id, agent)
    assert ledger.claim(id, event, agent, worker="w1").attempt
    return id


def succeed(ledger: Ledger, event: Event, agent: str, *emitted: Event, joins: Sequence[dict[str, Any]] = ()) -> str:
    """Let an agent handle an event and emit others; return the delivery's id."""
    id = begin(ledger, event, agent)
    records = [Record(each, each.encode(), delivery=id) for each in emitted]
    ledger.succeed(id, records, [], started_joins=joins, due=None)
    return id
