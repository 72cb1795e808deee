"""Leases: who takes a row moves its due time ahead, so that nobody else takes it, and it is due again if he dies."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Select

from ...core.times import SECOND, now

#: Seconds that a taker has for sending, before somebody else does it.
LEASE = 30.0
#: Rows taken at once.
BATCH = 500


def lease_from(at: int) -> int:
    """Return when what is taken at a time (microseconds) is due again."""
    return at + round(LEASE * SECOND)


def in_seconds(seconds: float) -> int:
    """Return the time in some seconds, in microseconds."""
    return now() + round(seconds * SECOND)


def locked(query: Select[Any]) -> Select[Any]:
    """Lock what a query finds, and leave out what others have locked."""
    return query.with_for_update(skip_locked=True)
