"""Reading the log: events as the ledger has them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, select

from ..core.errors import InvalidSelection, UnknownEvent
from ..core.event import Event, Payload
from ..core.routing import pattern_of
from ..core.times import micros, moment
from ..core.topics import matches
from ..ledger import log
from ..ledger.database.tables import deliveries, events, timers
from ..ledger.ledger import Ledger
from ..ledger.log import COLUMNS, Bounds, Index, Position, merged, rows


class Recorded(NamedTuple):
    """An event as the ledger has it.

    Attributes:
        seq: its sequence number.
        recorded: when the ledger got it (UTC); `event.time` is when it happened.
        tx: the transaction that wrote it, where the order of the log goes by that; else 0.
        replay: the replay that emitted it.

    """

    seq: int
    recorded: datetime
    event: Event
    tx: int = 0
    replay: str | None = None

    @property
    def position(self) -> Position:
        """Its place in the order of the log."""
        return self.tx, self.seq


def get_events(
    ledger: Ledger,
    *,
    agent_id: str | None = None,
    type: str | type[Payload] | None = None,
    correlation: str | None = None,
    since: datetime | int | None = None,
    up_to: datetime | int | None = None,
    replayed: bool = False,
    batch: int = 1000,
) -> Iterator[Recorded]:
    """Return the events of the log that match everything given, in order, read page by page as the caller goes on.

    What is appended after the first one was read is left out. Nothing is held open between two pages.

    Arguments:
        agent_id: whose history: the agent that emitted the events, else their subject.
        type: a topic pattern or a Payload class.
        correlation: a correlation id.
        since, up_to: aware datetimes, compared with the events' own time, or sequence numbers; both are included.
        replayed: also return events that a replay emitted.
        batch: rows in a page.

    Raises InvalidSelection or InvalidPattern.

    """
    check_number("batch", batch)
    pattern = None if type is None else pattern_of(type)
    bounds = bounds_of(since, up_to)

    def wanted(row: Row[Any]) -> bool:
        return (pattern is None or matches(pattern, row.type)) and agent_id in (None, row.stream)

    def read() -> Iterator[Recorded]:
        with ledger.database.reading() as connection:
            paths = _paths(connection, agent_id, pattern, correlation)
            window = log.window_of(ledger.database, connection, bounds, narrow=agent_id is correlation is None)
        size = max(batch // max(len(paths), 1), min(batch, log.SMALLEST_PAGE))
        pages = [rows(ledger.database, path, window, bounds, replayed=replayed, batch=size) for path in paths]
        yield from map(recorded, filter(wanted, merged(pages)))

    return read()


def get_event(ledger: Ledger, id: str) -> Recorded:
    """Return one event by its id; raise UnknownEvent when the ledger does not have it."""
    with ledger.database.reading() as connection:
        row = connection.execute(select(*COLUMNS).where(events.c.id == id)).first()
        if row is None:
            raise unknown_event(ledger, connection, id)
    return recorded(row)


def unknown_event(ledger: Ledger, connection: Connection, id: str) -> UnknownEvent:
    """Return the error that says what an id is when it is not an event's."""
    event = connection.execute(select(deliveries.c.event_id).where(deliveries.c.id == id)).scalar()
    if event is not None:
        return UnknownEvent(f"{id!r} is a delivery of the event {event!r}; use that id")
    due = connection.execute(select(timers.c.due).where(timers.c.id == id)).scalar()
    if due is not None:
        return UnknownEvent(f"the event {id!r} is not published yet; it is due at {moment(due).isoformat()}")
    return UnknownEvent(
        f"no event {id!r} is in the ledger {ledger}: it was published without a ledger or to another one, "
        "or it has been pruned"
    )


def recorded(row: Row[Any]) -> Recorded:
    """Return a row of the log with its event decoded."""
    return Recorded(row.seq, moment(row.recorded), Event.decode(row.body), row.tx, row.replay)


def _paths(connection: Connection, agent_id: str | None, pattern: str | None, correlation: str | None) -> list[Index]:
    """Return the indexes to follow: that of the narrowest thing given."""
    if correlation is not None:
        return [Index(events.c.correlation, correlation)]
    if agent_id is not None:
        return [Index(events.c.stream, agent_id)]
    return [Index()] if pattern is None else log.type_paths(connection, pattern)


def bounds_of(since: datetime | int | None, up_to: datetime | int | None) -> Bounds:
    """Return what the caller's words mean; raise InvalidSelection for what is no time and no number."""
    found: dict[str, int] = {}
    for name, side, value in (("since", "min", since), ("up_to", "max", up_to)):
        if isinstance(value, datetime):
            if value.utcoffset() is None:
                raise InvalidSelection(f"{name}: {value.isoformat()} has no time zone; use datetime(..., tzinfo=UTC)")
            found[f"{side}_time"] = micros(value)
        elif isinstance(value, int) and not isinstance(value, bool):
            found[f"{side}_seq"] = max(-1, min(value, log.HIGHEST))
        elif value is not None:
            raise InvalidSelection(f"{name}: {value!r} is neither an aware datetime nor a sequence number")
    return Bounds(**found)


def check_number(name: str, value: Any) -> None:
    """Raise InvalidSelection for what is no whole number of 1 or more."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InvalidSelection(f"{name}: {value!r} is not a whole number of 1 or more")
