"""The state of something at any time, folded from its events."""

from __future__ import annotations

import contextlib
import hashlib
import logging
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import orjson
from pydantic import BaseModel
from pydantic.errors import PydanticUserError
from sqlalchemy import Connection, Row, Select, or_, select

from ..core.errors import InvalidEvent, InvalidSelection, LedgerError
from ..core.observe import Log
from ..ledger import log
from ..ledger.aside import Bad, read
from ..ledger.database.tables import events, snapshots
from ..ledger.ledger import Ledger
from ..ledger.log import Bounds, Index, Position, after, end_of_log, in_order, position_of, rows
from .events import Moment, bounds_of, check_number

logger = Log(logging.getLogger(__name__))


State = TypeVar("State")


def reconstruct(
    ledger: Ledger,
    agent_id: str,
    state: type[State],
    *,
    up_to: Moment = None,
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

    Raises InvalidSelection, InvalidEvent that names an event which cannot be read, and what `apply` raises.

    """
    check_number("snapshot_every", snapshot_every)
    bounds = bounds_of(None, up_to)
    if not callable(getattr(state, "apply", None)):
        raise InvalidSelection(
            f"state: {state!r} needs a method apply(self, event) that returns the next state or None"
        )
    key = _key(state)
    path = Index(events.c.stream, agent_id)
    with ledger.database.reading() as connection:
        # Asked for before the events are read: what a transaction commits in between is not before it.
        settled = end_of_log(ledger.database, connection)
        fold = (key and _read_snapshot(connection, agent_id, key, state, bounds)) or _Fold(state())
        complete = min(settled, _before_first_beyond(ledger, connection, agent_id, fold.position, bounds))
    for row in rows(ledger.database, path, (fold.position, complete)):
        fold.add(row)
    if key and fold.number >= snapshot_every:
        _write_snapshot(ledger, agent_id, key, fold)
    for row in rows(ledger.database, path, (max(fold.position, complete), log.END), bounds):
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
        found = read(row.id, row.body)
        if isinstance(found, Bad):
            raise InvalidEvent(f"event {row.id} ({row.type}, number {row.seq}): {found.reason}; no state is without it")
        try:
            following = self.state.apply(found.event)  # type: ignore[attr-defined]  # its class was checked
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
    first = connection.execute(in_order(query.where(after(ledger.database, start))).limit(1)).first()
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


# -- snapshots


def _read_snapshot(
    connection: Connection, stream: str, key: str, state: type[State], bounds: Bounds
) -> _Fold[State] | None:
    """Return the newest snapshot with nothing in it that is beyond the bounds."""
    kept = snapshots.c
    query: Select[Any] = select(kept.tx, kept.seq, kept.max_seq, kept.max_time, kept.body)
    query = query.where(kept.stream == stream, kept.state == key)
    query = query.where(kept.max_seq <= bounds.max_seq, kept.max_time <= bounds.max_time)
    row = connection.execute(query.order_by(kept.tx.desc(), kept.seq.desc()).limit(1)).first()
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
