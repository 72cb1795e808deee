"""Reading the log: events, and the state of something at any time, folded from its events."""

from __future__ import annotations

import contextlib
import hashlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, NamedTuple, TypeVar

import orjson
from pydantic import BaseModel
from pydantic.errors import PydanticUserError
from sqlalchemy import Connection, Row, Select, or_, select

from ..core.errors import InvalidSelection, LedgerError, UnknownEvent
from ..core.event import Event, Payload
from ..core.times import micros, moment
from ..core.topics import check_pattern, matches
from ..ledger import log
from ..ledger.database.tables import deliveries, events, snapshots, timers
from ..ledger.ledger import Ledger
from ..ledger.log import COLUMNS, Bounds, Path, in_order, merged, position_of, rows
from ..ledger.reconcile import Position, after, end_of_log

logger = logging.getLogger(__name__)

State = TypeVar("State")


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
    _check_number("batch", batch)
    pattern = None if type is None else pattern_of(type)
    bounds = _bounds(since, up_to)

    def wanted(row: Row[Any]) -> bool:
        return (pattern is None or matches(pattern, row.type)) and agent_id in (None, row.stream)

    def read() -> Iterator[Recorded]:
        with ledger.database.reading() as connection:
            paths = _paths(connection, agent_id, pattern, correlation)
            window = log.window_of(ledger, connection, bounds, narrow=agent_id is correlation is None)
        size = max(batch // max(len(paths), 1), min(batch, log.SMALLEST_PAGE))
        pages = [rows(ledger, path, window, bounds, replayed=replayed, batch=size) for path in paths]
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


def pattern_of(what: str | type[Payload]) -> str:
    """Return the topic pattern that somebody wants; raise InvalidPattern or InvalidSelection when it is none."""
    if isinstance(what, str):
        return check_pattern(what)
    if isinstance(what, type) and issubclass(what, Payload) and what.event_type:
        return what.event_type
    raise InvalidSelection(f"type: {what!r} is neither a topic pattern nor a Payload class with a type")


def recorded(row: Row[Any]) -> Recorded:
    """Return a row of the log with its event decoded."""
    return Recorded(row.seq, moment(row.recorded), Event.decode(row.body), row.tx, row.replay)


def _paths(connection: Connection, agent_id: str | None, pattern: str | None, correlation: str | None) -> list[Path]:
    """Return the indexes to follow: that of the narrowest thing given."""
    if correlation is not None:
        return [Path(events.c.correlation, correlation)]
    if agent_id is not None:
        return [Path(events.c.stream, agent_id)]
    return [Path()] if pattern is None else log.type_paths(connection, pattern)


def _bounds(since: datetime | int | None, up_to: datetime | int | None) -> Bounds:
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


def _check_number(name: str, value: Any) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InvalidSelection(f"{name}: {value!r} is not a whole number of 1 or more")


# -- state


def reconstruct(
    ledger: Ledger,
    agent_id: str,
    state: type[State],
    *,
    up_to: datetime | int | None = None,
    snapshot_every: int = 500,
) -> State:
    """Return the state that an agent's events lead to, from `state()` on, one `apply(event)` after the other.

    `apply` returns the next state, or None when it has changed the state itself. States of a pydantic class that
    survive JSON unchanged are kept as snapshots, from which the next reconstruction starts; a class with other fields,
    or another `snapshot_version`, does not see them.

    Arguments:
        agent_id: whose events: the agent that emitted them, else their subject.
        state: the class of the state.
        up_to: an aware datetime, compared with the events' own time, or a sequence number; it is included.
        snapshot_every: events after which a new snapshot pays.

    Raises InvalidSelection, and what `apply` raises.

    """
    _check_number("snapshot_every", snapshot_every)
    bounds = _bounds(None, up_to)
    if not callable(getattr(state, "apply", None)):
        raise InvalidSelection(
            f"state: {state!r} needs a method apply(self, event) that returns the next state or None"
        )
    key = _key(state)
    path = Path(events.c.stream, agent_id)
    with ledger.database.reading() as connection:
        # Asked for before the events are read: what a transaction commits in between is not before it.
        settled = end_of_log(ledger, connection)
        fold = (key and _read_snapshot(connection, agent_id, key, state, bounds)) or _Fold(state())
        complete = min(settled, _before_first_beyond(ledger, connection, agent_id, fold.position, bounds))
    for row in rows(ledger, path, (fold.position, complete)):
        fold.add(row)
    if key and fold.number >= snapshot_every:
        _write_snapshot(ledger, agent_id, key, fold)
    for row in rows(ledger, path, (max(fold.position, complete), log.END), bounds):
        fold.add(row)
    return fold.state


@dataclass
class _Fold(Generic[State]):
    """A state, and what of the log is in it: everything up to a position."""

    state: State
    position: Position = log.BEGIN
    max_seq: int = -1
    max_time: int = -log.HIGHEST
    number: int = 0

    def add(self, row: Row[Any]) -> None:
        """Apply one event."""
        try:
            following = self.state.apply(Event.decode(row.body))  # type: ignore[attr-defined]  # its class was checked
        except Exception as exc:
            exc.add_note(f"while the event {row.id} ({row.type}, number {row.seq}) was applied")
            raise
        self.state = self.state if following is None else following
        self.position = position_of(row)
        self.max_seq = max(self.max_seq, row.seq)
        self.max_time = max(self.max_time, row.time)
        self.number += 1


def _before_first_beyond(
    ledger: Ledger, connection: Connection, stream: str, start: Position, bounds: Bounds
) -> Position:
    """Return the last position before the first event that is not wanted: up to there nothing is left out."""
    beyond = or_(events.c.seq > bounds.max_seq, events.c.time > bounds.max_time)
    query = select(events.c.tx, events.c.seq).where(events.c.stream == stream, events.c.replay.is_(None), beyond)
    first = connection.execute(in_order(query.where(after(ledger, start))).limit(1)).first()
    return (first.tx, first.seq - 1) if first else log.END


def _key(state: type[Any]) -> str | None:
    """Return what the snapshots of a class are called, or None when it can have none."""
    if not issubclass(state, BaseModel):
        return None
    try:
        fields = orjson.dumps(state.model_json_schema(), option=orjson.OPT_SORT_KEYS)
    except PydanticUserError:
        return None
    version = getattr(state, "snapshot_version", "")
    digest = hashlib.sha256(fields + repr(version).encode()).hexdigest()[:32]
    return f"{state.__module__}.{state.__qualname__}"[-200:] + f":{digest}"


def _read_snapshot(
    connection: Connection, stream: str, key: str, state: type[State], bounds: Bounds
) -> _Fold[State] | None:
    """Return the newest snapshot with nothing in it that is beyond the bounds."""
    known = snapshots.c
    query: Select[Any] = select(known.tx, known.seq, known.max_seq, known.max_time, known.body)
    query = query.where(known.stream == stream, known.state == key)
    query = query.where(known.max_seq <= bounds.max_seq, known.max_time <= bounds.max_time)
    row = connection.execute(query.order_by(known.tx.desc(), known.seq.desc()).limit(1)).first()
    loaded = None if row is None else _load(state, row.body)
    if row is None or loaded is None:
        return None
    return _Fold(loaded, position_of(row), row.max_seq, row.max_time)


def _write_snapshot(ledger: Ledger, stream: str, key: str, fold: _Fold[Any]) -> None:
    body = _dump(fold.state)
    if body is None:
        logger.debug("a state of %s does not survive JSON unchanged; it is not kept", key)
        return
    tx, seq = fold.position
    row = {"stream": stream, "state": key, "tx": tx, "seq": seq, "max_seq": fold.max_seq, "max_time": fold.max_time}
    statement = ledger.database.insert(snapshots)
    statement = statement.on_conflict_do_update(
        index_elements=["stream", "state", "tx", "seq"], set_={"body": statement.excluded.body}
    )
    # A snapshot saves time, and that is all: a ledger that is locked or read-only still tells the state.
    with contextlib.suppress(LedgerError):
        ledger.database.run(lambda connection: connection.execute(statement, {**row, "body": body}))


def _dump(state: Any) -> str | None:
    """Return a state as JSON, or None when what is read back would not be the same."""
    if not isinstance(state, BaseModel):
        return None
    try:
        body = state.model_dump_json(round_trip=True, by_alias=True, warnings=False)
        again = type(state).model_validate_json(body)
        same = again == state and again.model_dump_json(round_trip=True, by_alias=True, warnings=False) == body
    except (ValueError, TypeError):
        return None
    return body if same else None


def _load(state: type[State], body: str) -> State | None:
    try:
        return state.model_validate_json(body)  # type: ignore[attr-defined,no-any-return]  # as above
    except ValueError:
        return None
