"""What the ledger writes: outcomes, times, and the rows of its tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from ...core.event import Event
from ...core.ids import derived_id
from ...core.outcome import Outcome
from ...core.times import micros, now
from ...core.topics import matches

#: Seconds after its last heartbeat when a worker counts as dead.
DEAD_AFTER = 30.0
#: Rows in one statement: below SQLite's limit of variables, and small enough to be interrupted between two.
CHUNK = 500


class Record(NamedTuple):
    """An event as the ledger keeps it, with its encoded body."""

    event: Event
    body: bytes
    delivery: str | None = None
    replay: str | None = None


def event_row(record: Record, at: int) -> dict[str, Any]:
    """Return the row of an event that is appended at a time (microseconds)."""
    event = record.event
    emitter = event.source.partition("/agent/")[2]
    return {
        "id": event.id,
        "type": event.type,
        "stream": emitter or event.subject,
        "correlation": event.correlation_id,
        "causation": event.causation_id,
        "delivery": record.delivery,
        "targets": ",".join(event.targets) or None,
        "time": micros(event.time),
        "recorded": at,
        "replay": record.replay,
        "body": record.body.decode(),
    }


def timer_row(id: str, kind: str, due: int, correlation: str, body: bytes | None = None) -> dict[str, Any]:
    """Return a row for the timers' table."""
    return {"id": id, "kind": kind, "due": due, "correlation": correlation, "body": body and body.decode()}


def join_row(id: str, name: str, event_id: str, correlation: str) -> dict[str, Any]:
    """Return the row of a join that has started."""
    return {"id": id, "name": name, "event_id": event_id, "correlation": correlation, "started": now()}


def unrouted_row(event_id: str, at: int) -> dict[str, Any]:
    """Return the row that says that no agent listens to an event."""
    return {
        "id": derived_id(event_id, "unrouted"),
        "event_id": event_id,
        "agent": "",
        "outcome": Outcome.UNROUTED.value,
        "started": at,
        "ended": at,
    }


def wants(patterns: Iterable[str], event_type: str) -> bool:
    """Say whether one of the patterns matches."""
    return any(matches(pattern, event_type) for pattern in patterns)


def chunks(items: Sequence[Any], size: int = CHUNK) -> Iterable[Sequence[Any]]:
    """Cut a sequence into pieces of at most `size`."""
    return (items[start : start + size] for start in range(0, len(items), size))
