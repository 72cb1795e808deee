"""What operators look at in a ledger: the deliveries of an event, and what is due later."""

from __future__ import annotations

from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Row, Select, literal, null, select, tuple_

from ..core.errors import InvalidSelection
from ..core.event import Encoded
from ..core.times import as_json_time, micros, moment
from ..ledger.aside import read
from ..ledger.database.tables import ACTIVE, deliveries, events, flows, timers
from ..ledger.database.waiting import approvals, waits
from ..ledger.ledger import Ledger
from ..ledger.waiting.approval import PENDING


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
    """One thing that is due later.

    Attributes:
        kind: "publish" for a delayed event, "retry" for a delivery that is tried again, "expires" for an approval,
            "flow" for a flow that is looked at, at the latest when its time or that of a step is over; for a parked
            delivery what it waits for, at most until then (time, event, pause ...).
        id: the id of the event, the delivery, the approval or the flow.
        type: the event's type; empty when the ledger no longer has the event, or it cannot be read.
        agent: whose delivery or approval it is.
        name: the step that waits, the action to be approved, or the flow's name.

    """

    kind: str
    due: datetime
    id: str
    type: str
    agent: str | None
    correlation: str
    name: str | None = None

    @property
    def cursor(self) -> str:
        """Where it stands in the list: `upcoming(after=...)` goes on behind it."""
        return f"{as_json_time(self.due)}/{self.id}"

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
    if (columns["due"] or 0) < 0:  # somebody is sending it
        columns["due"] = None
    times = {name: None if columns[name] is None else moment(columns[name]) for name in ("started", "ended", "due")}
    return Delivered(**{**columns, **times})


_NO = null()
#: What is due later, from each table that has such things, with the same columns.
_DUE: tuple[Select[Any], ...] = (
    select(timers.c.due, timers.c.id, timers.c.kind, timers.c.correlation, timers.c.body)
    .add_columns(deliveries.c.agent, events.c.type, _NO.label("name"))
    .outerjoin(deliveries, deliveries.c.id == timers.c.id)
    .outerjoin(events, events.c.id == deliveries.c.event_id),
    select(waits.c.due, waits.c.delivery.label("id"), waits.c.kind, events.c.correlation, _NO.label("body"))
    .add_columns(deliveries.c.agent, events.c.type, waits.c.name)
    .join(deliveries, deliveries.c.id == waits.c.delivery)
    .join(events, events.c.id == deliveries.c.event_id),
    select(approvals.c.expires.label("due"), approvals.c.id, literal("expires").label("kind"), approvals.c.correlation)
    .add_columns(_NO.label("body"), approvals.c.agent, events.c.type, approvals.c.action.label("name"))
    .outerjoin(events, events.c.id == approvals.c.event_id)
    .where(approvals.c.status == PENDING),
    select(flows.c.due, flows.c.id, literal("flow").label("kind"), flows.c.correlation, _NO.label("body"))
    .add_columns(_NO.label("agent"), events.c.type, flows.c.name)
    .outerjoin(events, events.c.id == flows.c.event_id)
    .where(ACTIVE),
)


def upcoming(ledger: Ledger, *, limit: int = 100, after: str | None = None) -> list[Timer]:
    """Return what is due later, the next first.

    Arguments:
        limit: how many to return at most.
        after: the cursor of the last one of the page before.

    Raises InvalidSelection when `after` is no cursor.

    """
    limit, place = max(limit, 0), _place(after)
    found: list[Row[Any]] = []
    with ledger.database.reading() as connection:
        for query in _DUE:  # each by its own index: together they would be sorted as a whole
            due, id = query.selected_columns.due, query.selected_columns.id
            found += connection.execute(query.where(tuple_(due, id) > place).order_by(due, id).limit(limit))
    return [_timer(row) for row in sorted(found, key=lambda row: (row.due, row.id))[:limit]]


def _place(cursor: str | None) -> tuple[int, str]:
    """Return the time and the id that a cursor stands for; raise InvalidSelection when it is none."""
    when, _, id = (cursor or "").partition("/")
    try:
        return micros(datetime.fromisoformat(when)) if when else 0, id
    except ValueError:
        raise InvalidSelection(f"after: {cursor!r} is not the cursor of something that is due later") from None


def _timer(row: Row[Any]) -> Timer:
    delayed = read(row.id, row.body) if row.body else None
    type = delayed.event.type if isinstance(delayed, Encoded) else row.type
    return Timer(row.kind, moment(row.due), row.id, type or "", row.agent, row.correlation, row.name or None)
