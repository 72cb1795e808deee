"""What operators look at in a ledger: the deliveries of an event, and what is due later."""

from __future__ import annotations

from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Row, select

from ..core.event import Encoded
from ..core.times import as_json_time, moment
from ..ledger.aside import read
from ..ledger.database.tables import deliveries, events, timers
from ..ledger.ledger import Ledger


class Delivered(NamedTuple):
    """One delivery of an event, as it stands.

    Attributes:
        agent: empty where no agent listens to the event.
        emitted: how many events it emitted.
        due: when a queued or retrying delivery is to be in its queue, and a parked one goes on at the latest.
        replay: the replay that it belongs to.

    """

    id: str
    agent: str
    outcome: str
    attempts: int
    emitted: int
    started: datetime | None
    ended: datetime | None
    due: datetime | None
    worker: str | None
    error: str | None
    replay: str | None

    def as_data(self) -> dict[str, Any]:
        """Return it as JSON data."""
        times = {name: as_json_time(getattr(self, name)) for name in ("started", "ended", "due")}
        return {**self._asdict(), **times}


class Timer(NamedTuple):
    """One thing that is due later: an event to be published, or a delivery to be tried again.

    Attributes:
        kind: "publish" or "retry".
        id: the event's id, or the delivery's.
        type: the event's type; empty when the ledger no longer has the event of a retry, or it cannot be read.
        agent: whose delivery is tried again.

    """

    kind: str
    due: datetime
    id: str
    type: str
    agent: str | None
    correlation: str

    def as_data(self) -> dict[str, Any]:
        """Return it as JSON data."""
        return {**self._asdict(), "due": as_json_time(self.due)}


def deliveries_of(ledger: Ledger, event_id: str) -> list[Delivered]:
    """Return the deliveries of an event, the first first."""
    columns = [deliveries.c[name] for name in Delivered._fields]
    query = select(*columns).where(deliveries.c.event_id == event_id)
    with ledger.database.reading() as connection:
        rows = connection.execute(query.order_by(deliveries.c.started, deliveries.c.agent, deliveries.c.id)).all()
    return [_delivered(row) for row in rows]


def _delivered(row: Row[Any]) -> Delivered:
    columns: dict[str, Any] = dict(row._mapping)
    times = {name: None if columns[name] is None else moment(columns[name]) for name in ("started", "ended", "due")}
    return Delivered(**{**columns, **times})


def upcoming(ledger: Ledger, *, limit: int = 100) -> list[Timer]:
    """Return what is due later, the next first.

    Arguments:
        limit: how many to return at most.

    """
    query = (
        select(timers, deliveries.c.agent, events.c.type)
        .outerjoin(deliveries, deliveries.c.id == timers.c.id)
        .outerjoin(events, events.c.id == deliveries.c.event_id)
        .order_by(timers.c.due, timers.c.id)
        .limit(max(limit, 0))
    )
    with ledger.database.reading() as connection:
        return [_timer(row) for row in connection.execute(query)]


def _timer(row: Row[Any]) -> Timer:
    delayed = read(row.id, row.body) if row.body else None
    type = delayed.event.type if isinstance(delayed, Encoded) else row.type
    return Timer(row.kind, moment(row.due), row.id, type or "", row.agent, row.correlation)
