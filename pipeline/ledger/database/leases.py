"""Leases: who takes a row moves its due time ahead, so that nobody else takes it, and it is due again if he dies.

Workers' leases are measured on the database's clock, which is the same for all of them, whatever their machines say.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger, ColumnElement, Select, and_, exists, literal, literal_column, or_, select
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from ...core.outcome import STOPPED
from ...core.times import SECOND, now
from .rows import DEAD_AFTER
from .tables import deliveries, workers

#: Seconds that a taker has for sending, before somebody else does it.
LEASE = 30.0
#: Seconds after which nothing in the outbox is due: what is due later was written by a clock that was ahead.
FAR = 3600.0
#: Rows taken at once.
BATCH = 500


def lease_from(at: int) -> int:
    """Return when what is taken at a time (microseconds) is due again."""
    return at + round(LEASE * SECOND)


def in_seconds(seconds: float) -> int:
    """Return the time in some seconds, in microseconds."""
    return now() + round(seconds * SECOND)


class clock(FunctionElement[int]):  # noqa: N801  # an SQL function
    """The database's time now, in microseconds since 1970."""

    type = BigInteger()
    inherit_cache = True


@compiles(clock, "postgresql")
def _on_postgresql(element: clock, compiler: Any, **options: Any) -> str:
    return "CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000000 AS BIGINT)"


@compiles(clock, "sqlite")
def _on_sqlite(element: clock, compiler: Any, **options: Any) -> str:
    return "CAST((julianday('now') - 2440587.5) * 86400000000 AS INTEGER)"  # the Julian day of 1970-01-01


def ago(seconds: float) -> ColumnElement[int]:
    """Return the database's time some seconds ago, for its own statements."""
    return clock() - literal_column(str(round(seconds * SECOND)), BigInteger())


def too_far(due: ColumnElement[int]) -> ColumnElement[bool]:
    """Return the condition that something in the outbox is due later than anything there can be."""
    return due > ago(-FAR)


def lives() -> ColumnElement[bool]:
    """Return the condition that a worker has been heard of lately."""
    return workers.c.seen > ago(DEAD_AFTER)


def is_run(agent: Any) -> ColumnElement[bool]:
    """Return the condition that somebody runs an agent, and does not stop.

    Arguments:
        agent: its name, or a column with that.

    """
    mark = literal('"').concat(agent).concat('":')  # as the keys of the JSON that a worker says are written
    says = or_(workers.c.agents.contains(mark), workers.c.about.contains(mark.concat("{")))
    return exists(select(workers.c.id).where(lives(), workers.c.leaves.is_(None), says))


def runs_on() -> Any:
    """Return the condition that a delivery was stopped, and that its handler has not ended: it keeps its turns."""
    row, stopped = deliveries.c, [outcome.value for outcome in STOPPED]
    alive = row.worker.in_(select(workers.c.id).where(lives()))
    return and_(row.id.is_not(None), row.outcome.in_(stopped), row.process.is_not(None), alive)


def locked(query: Select[Any]) -> Select[Any]:
    """Lock what a query finds, and leave out what others have locked."""
    return query.with_for_update(skip_locked=True)
