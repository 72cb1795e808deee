"""What the ledger writes: the rows of its tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from ...core.ids import derived_id
from ...core.outcome import Outcome
from ...core.times import SECOND, now

#: Seconds after its last heartbeat when a worker counts as dead.
DEAD_AFTER = 30.0
#: Seconds after its last heartbeat for which a worker's version may come back: until then somebody listens.
GONE_AFTER = 300.0
#: Rows in one statement: below SQLite's limit of variables, and small enough to be interrupted between two.
CHUNK = 500
#: Columns of a delivery that is a step of a flow.
MEMBER = ("id", "event_id", "agent", "flow", "pos", "body", "outcome", "due", "started", "ended", "result", "error")


class Write(NamedTuple):
    """A row that is written together with something else: by which statement of Statements, and its values."""

    statement: str
    row: dict[str, Any]


def timer_row(id: str, kind: str, due: int, correlation: str, body: bytes | None = None) -> dict[str, Any]:
    """Return a row for the timers' table."""
    return {"id": id, "kind": kind, "due": due, "correlation": correlation, "body": body and body.decode()}


def attempt_made(agent: str) -> Write:
    """Return what counts an attempt of an agent with a breaker that has succeeded."""
    return Write("attempt", {"agent": agent, "minute": minute(), "made": 1, "failed": 0})


def minute() -> int:
    """Return the time in minutes since 1970."""
    return now() // SECOND // 60


def unrouted_row(event_id: str, at: int) -> dict[str, Any]:
    """Return the row that says that no agent listens to an event."""
    return {
        "id": unrouted_id(event_id),
        "event_id": event_id,
        "agent": "",
        "outcome": Outcome.UNROUTED.value,
        "started": at,
        "ended": at,
    }


def unrouted_id(event_id: str) -> str:
    """Return the id of the row that says that no agent listens to an event."""
    return derived_id(event_id, "unrouted")


def chunks(items: Sequence[Any], size: int = CHUNK) -> Iterable[Sequence[Any]]:
    """Cut a sequence into pieces of at most `size`."""
    return (items[start : start + size] for start in range(0, len(items), size))
