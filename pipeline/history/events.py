"""Reading the log: events as the ledger has them."""

from __future__ import annotations

import builtins
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, select

from ..core.door.attributes import MAX_TAG, tag_of
from ..core.errors import InvalidEvent, InvalidSelection, UnknownEvent
from ..core.event import Event, Payload
from ..core.observe import Log
from ..core.routing import pattern_of
from ..core.times import as_json_time, micros, moment
from ..core.topics import matches
from ..ledger import log
from ..ledger.aside import Bad, printable, read, read_all
from ..ledger.database.tables import deliveries, events, timers
from ..ledger.ledger import Ledger
from ..ledger.log import COLUMNS, Bounds, Index, Position, merged, rows

logger = Log(logging.getLogger(__name__))

#: Events that are looked through for one that another program has given an id.
LOOKED_AT = 10_000
#: Events of the log between two beats of who reads them.
BEAT = 1000
#: A place in the log: an aware datetime, or a sequence number.
Moment = datetime | int | None


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

    def as_data(self) -> dict[str, Any]:
        """Return it as JSON data: a CloudEvent with its sequence number, and the replay that emitted it."""
        data = {**self.event.attributes(), "seq": self.seq}
        if self.event.key != self.event.id:
            data["key"] = self.event.key
        return data if self.replay is None else {**data, "replay": self.replay}

    def as_answer(self) -> dict[str, Any]:
        """Return it as JSON data for other programs: with when the ledger got it, and times as everybody reads them."""
        # What another program has left out or written otherwise.
        times = {"time": as_json_time(self.event.time), "recorded": as_json_time(self.recorded)}
        return {**self.as_data(), **times}


def place_of(position: Position) -> str:
    """Return a place in the log as a text."""
    tx, seq = position
    return f"{tx}-{seq}"


def read_place(text: str) -> Position:
    """Return the place in the log that a text stands for, its beginning for none; raise InvalidSelection."""
    if not text:
        return log.BEGIN
    tx, dash, seq = text.partition("-")
    if not (dash and tx.isdecimal() and seq.isdecimal() and len(text) < 40):
        raise InvalidSelection(f"after: {text!r} is no place in the log; take it from `next`")
    return min(int(tx), log.HIGHEST), min(int(seq), log.HIGHEST)


@dataclass(frozen=True)
class EventQuery:
    """Which events of the log: those that match everything given. It is checked when it is made, and by nobody again.

    Attributes:
        agent_id: whose history: the agent that emitted the events, else their subject.
        type: a topic pattern or a Payload class.
        correlation: a correlation id.
        since, up_to: aware datetimes, compared with the events' own time, or sequence numbers; both are included.
        replayed: also events that a replay emitted.
        batch: rows that are read at once.
        metadata: names in the events' metadata, each with its value; values are compared as texts.
        after: a place in the log's order, such as a Recorded's position: only what comes after it.
        pattern: the type as a topic pattern.
        bounds: since and up_to as the ledger has them.

    Making one raises InvalidSelection or InvalidPattern.

    """

    agent_id: str | None = None
    type: str | builtins.type[Payload] | None = None
    correlation: str | None = None
    since: Moment = None
    up_to: Moment = None
    replayed: bool = False
    batch: int = 1000
    metadata: Mapping[str, Any] | None = None
    after: Position = log.BEGIN
    pattern: str | None = field(init=False, repr=False, compare=False)
    bounds: Bounds = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_number("batch", self.batch)
        object.__setattr__(self, "pattern", None if self.type is None else pattern_of(self.type))
        object.__setattr__(self, "bounds", bounds_of(self.since, self.up_to))
        for name, value in (self.metadata or {}).items():
            if len(name) > MAX_TAG or tag_of(value) is None:
                raise InvalidSelection(
                    f"metadata: events are found by texts of at most {MAX_TAG} characters, numbers and truth values, "
                    f"not by {name}={value!r}"
                )

    @property
    def narrows(self) -> bool:
        """Whether it says which events at all."""
        said = (self.agent_id, self.type, self.correlation, self.since, self.up_to, self.metadata or None)
        return any(value is not None for value in said)

    def accepts(self, row: Row[Any]) -> bool:
        """Say whether an event is of that type and history; the rest is for the database."""
        return (self.pattern is None or matches(self.pattern, row.type)) and self.agent_id in (None, row.stream)

    def is_about(self, record: Recorded) -> bool:
        """Say whether an event's metadata has all that is wanted in it."""
        metadata = record.event.metadata
        return all(tag_of(metadata.get(name)) == tag_of(value) for name, value in (self.metadata or {}).items())


def get_events(
    ledger: Ledger,
    query: EventQuery,
    bad: Callable[[Bad], None] | None = None,
    beat: Callable[[], object] | None = None,
) -> Iterator[Recorded]:
    """Return the events of the log that a query wants, in order, read page by page as the caller goes on.

    What is appended after the first one was read is left out. Nothing is held open between two pages.

    Arguments:
        bad: is told of each event that cannot be read, and is left out; default a line in the log of this program.
        beat: is called now and then, also while nothing is found; what it raises ends the reading.

    """
    with ledger.database.reading() as connection:
        paths = _paths(connection, query)
        narrow = query.agent_id is query.correlation is None and not query.metadata
        begin, end = log.window_of(ledger.database, connection, query.bounds, narrow=narrow)
        window = max(begin, query.after), end
    size = max(query.batch // max(len(paths), 1), min(query.batch, log.SMALLEST_PAGE))
    pages = [rows(ledger.database, path, window, query.bounds, replayed=query.replayed, batch=size) for path in paths]
    read = merged(pages) if beat is None else _beating(merged(pages), beat)
    found = readable(filter(query.accepts, read), bad)
    yield from found if query.metadata is None else filter(query.is_about, found)


def _beating(rows: Iterator[Row[Any]], beat: Callable[[], object]) -> Iterator[Row[Any]]:
    for number, row in enumerate(rows):
        if number % BEAT == 0:
            beat()
        yield row


class Wanted(NamedTuple):
    """Which events somebody who follows the log wants: those that match everything given.

    Attributes:
        pattern: a topic pattern.
        correlation: a correlation id.
        matches: what a filter says of an event's attributes.

    """

    pattern: str | None = None
    correlation: str | None = None
    matches: Callable[[Mapping[str, Any]], bool] | None = None

    def takes(self, event: Event, attributes: Mapping[str, Any]) -> bool:
        """Say whether an event is one of them."""
        return (
            self.correlation in (None, event.correlation_id)
            and (self.pattern is None or matches(self.pattern, event.type))
            and (self.matches is None or self.matches(attributes))
        )


class Page(NamedTuple):
    """Events that come next in the log.

    Attributes:
        records: those that can be read; those of replays are not among them.
        end: the position up to which the log was looked through.
        more: whether there may be more behind it now.

    """

    records: list[Recorded]
    end: Position
    more: bool


def next_events(ledger: Ledger, after: Position, limit: int) -> Page:
    """Return the events that come next in the log, for somebody who follows it: no other one will appear before them.

    Arguments:
        after: the end of the page before, or what end_of_log() returned.
        limit: how many at most.

    """
    query = select(*COLUMNS).where(log.after(ledger.database, after), events.c.replay.is_(None)).limit(limit)
    with ledger.database.reading() as connection:
        found = connection.execute(log.in_order(log.stable(ledger.database, query))).all()
    end = log.position_of(found[-1]) if found else after
    return Page(list(readable(found)), end, len(found) == limit)


def end_of_log(ledger: Ledger) -> Position:
    """Return the position after all events whose order is settled."""
    return ledger.database.read(lambda connection: log.end_of_log(ledger.database, connection))


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
    if keys := _keys_of(connection, id):
        one = f"another program has given {id!r} to an event; the ledger knows that by"
        return UnknownEvent(f"{one} its key: use {', or '.join(map(repr, keys))}")
    return UnknownEvent(
        f"no event {id!r} is in the ledger {ledger}: it was published without a ledger or to another one, "
        "or it has been pruned"
    )


def _keys_of(connection: Connection, id: str) -> list[str]:
    """Return the keys of other programs' events that have an id, of the newest ones of the log."""
    newest = select(events.c.id, events.c.body).order_by(events.c.seq.desc()).limit(LOOKED_AT).subquery()
    with_it = select(newest.c.id, newest.c.body).where(newest.c.body.contains(id, autoescape=True))
    return [one.event.key for one in read_all(connection.execute(with_it))[0] if one.event.id == id]


def recorded(row: Row[Any]) -> Recorded:
    """Return a row of the log with its event decoded; raise InvalidEvent when that cannot be read."""
    found = read(row.id, row.body)
    if isinstance(found, Bad):
        raise InvalidEvent(f"{row.id} ({row.type}, number {row.seq}): {found.reason}")
    return Recorded(row.seq, moment(row.recorded), found.event, row.tx, row.replay)


def readable(rows: Iterable[Row[Any]], bad: Callable[[Bad], None] | None = None) -> Iterator[Recorded]:
    """Return rows of the log with their events decoded, without those that cannot be read."""
    for row in rows:
        try:
            yield recorded(row)
        except InvalidEvent as exc:
            (bad or _warn)(Bad(row.id, str(exc)))


def _warn(bad: Bad) -> None:
    logger.warning("left out: %s", printable(bad.reason))


def _paths(connection: Connection, query: EventQuery) -> list[Index]:
    """Return the indexes to follow: that of the narrowest thing given."""
    if query.correlation is not None:
        return [Index(events.c.correlation, query.correlation)]
    if query.agent_id is not None:
        return [Index(events.c.stream, query.agent_id)]
    if query.metadata:
        name, value = next(iter(query.metadata.items()))  # of the others the events found are asked
        return [Index(value=tag_of(value), tag=name)]
    return [Index()] if query.pattern is None else log.type_paths(connection, query.pattern)


def bounds_of(since: Moment, up_to: Moment) -> Bounds:
    """Return what the caller's words mean; raise InvalidSelection for what is no time and no number."""
    bounds: dict[str, int] = {}
    for name, side, value in (("since", "min", since), ("up_to", "max", up_to)):
        if isinstance(value, datetime):
            if value.utcoffset() is None:
                raise InvalidSelection(f"{name}: {value.isoformat()} has no time zone; use datetime(..., tzinfo=UTC)")
            bounds[f"{side}_time"] = micros(value)
        elif isinstance(value, int) and not isinstance(value, bool):
            bounds[f"{side}_seq"] = max(-1, min(value, log.HIGHEST))
        elif value is not None:
            raise InvalidSelection(f"{name}: {value!r} is neither an aware datetime nor a sequence number")
    return Bounds(**bounds)


def check_number(name: str, value: Any) -> None:
    """Raise InvalidSelection for what is no whole number of 1 or more."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InvalidSelection(f"{name}: {value!r} is not a whole number of 1 or more")
