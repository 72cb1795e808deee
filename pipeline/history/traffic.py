"""What went on lately: how many events, who emitted what, how one agent did; only the end of the log is read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from statistics import quantiles
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, Select, func, select

from ..core.outcome import Outcome
from ..core.times import SECOND, moment, now
from ..ledger.database.tables import deliveries, events
from ..ledger.ledger import Ledger
from ..ledger.log import Index, in_order, type_paths

#: The newest events that are looked through, and the newest whose times are, which stand in an index.
LOOKED_AT, COUNTED = 5_000, 100_000
#: Types of an agent that are named at most: those that were emitted most often.
MOST_KINDS = 500
#: Seconds over which throughput is taken.
MINUTE = 60
#: Parts that a time is shown in.
SLOTS = 60
#: What has failed: for good, or so far.
_FAILED = (Outcome.DEAD.value, Outcome.DROPPED.value, Outcome.RETRYING.value)


@dataclass(frozen=True)
class Counts:
    """How many there were in each part of a time.

    Attributes:
        since: when the first part begins.
        each: how long a part is.
        numbers: by part, the last one until now.

    """

    since: datetime
    each: timedelta
    numbers: Sequence[int]


class Emitted(NamedTuple):
    """How many events of a type an agent has emitted lately; None for whoever is no agent."""

    type: str
    agent: str | None
    number: int


class Took(NamedTuple):
    """Seconds that half of some deliveries took at most, and 95 of 100."""

    median: float
    p95: float


@dataclass(frozen=True)
class Throughput:
    """How much has happened lately, for each second.

    Attributes:
        events: events that the log got.
        done: deliveries that succeeded, by agent.

    """

    events: float
    done: dict[str, float]


@dataclass(frozen=True)
class Work:
    """What an agent has done lately.

    Attributes:
        since: from when on all events were looked at: where there are too many, that is later than asked for.
        done, failed: deliveries that have succeeded, and that are dead or tried again.
        took: the last attempts of those that have succeeded; None where there are none.
        after: from the publication of their events to their end; likewise.

    """

    since: datetime
    done: Counts
    failed: Counts
    took: Took | None
    after: Took | None


def events_lately(ledger: Ledger, period: timedelta) -> Counts:
    """Return how many of the newest COUNTED events there were in each part of the time until now, by their own time."""
    until, since, width = _parts(period)
    time = events.c.time
    some = select(time).where(time >= since, time < until).order_by(time.desc()).limit(COUNTED).subquery()
    part = ((some.c.time - since) // width).label("part")
    with ledger.database.reading() as connection:
        found = dict(map(tuple, connection.execute(select(part, func.count()).group_by(part))))
    return _counts(since, width, [found.get(number, 0) for number in range(SLOTS)])


def throughput(ledger: Ledger) -> Throughput:
    """Return how much has happened in the last minute; in a busy log, since the oldest of the newest events."""
    at, log = now(), select(events.c.id, events.c.recorded).order_by(events.c.seq.desc()).limit(LOOKED_AT).subquery()
    with ledger.database.reading() as connection:
        number, oldest = connection.execute(select(func.count(), func.min(log.c.recorded))).one()
        since = max(at - MINUTE * SECOND, oldest if number == LOOKED_AT else 0)
        came = connection.execute(select(func.count()).where(log.c.recorded > since)).scalar_one()
        ended = (
            select(deliveries.c.agent, func.count())
            .join(log, log.c.id == deliveries.c.event_id)
            .where(deliveries.c.outcome == Outcome.SUCCEEDED.value, deliveries.c.ended > since)
            .group_by(deliveries.c.agent)
        )
        seconds = max((at - since) / SECOND, 1.0)
        return Throughput(came / seconds, {agent: done / seconds for agent, done in connection.execute(ended)})


def emitted_lately(ledger: Ledger) -> list[Emitted]:
    """Return who has emitted which types most, of the newest LOOKED_AT events, without those of replays."""
    columns = (events.c.type, events.c.delivery, events.c.replay)
    newest = in_order(select(*columns), newest=True).limit(LOOKED_AT).subquery()
    kinds = (newest.c.type, deliveries.c.agent)
    query = (
        select(*kinds, func.count())
        .select_from(newest.outerjoin(deliveries, deliveries.c.id == newest.c.delivery))
        .where(newest.c.replay.is_(None))
        .group_by(*kinds)
        .order_by(func.count().desc(), *kinds)
        .limit(MOST_KINDS)
    )
    with ledger.database.reading() as connection:
        return [Emitted(*row) for row in connection.execute(query)]


def work_of(ledger: Ledger, agent: str, patterns: Iterable[str], period: timedelta) -> Work:
    """Return what an agent has done in the time until now, with the newest LOOKED_AT events of the types it listens to.

    Arguments:
        patterns: what it listens to; where the log has no such type, as for a step of a flow, it may be any event.

    """
    _, since, width = _parts(period)
    rows: list[Row[Any]] = []
    looked_at = since
    with ledger.database.reading() as connection:
        paths = {path for pattern in patterns for path in type_paths(connection, pattern)}
        paths = {Index()} if not paths or Index() in paths else paths
        most = LOOKED_AT // len(paths)
        for path in paths:
            some = _newest(path, most)
            rows += _handled(connection, some, agent, since)
            oldest, number = connection.execute(select(func.min(some.c.recorded), func.count()).select_from(some)).one()
            looked_at = max(looked_at, oldest) if number == most else looked_at
    done = [row for row in rows if row.outcome == Outcome.SUCCEEDED.value]
    failed = [row for row in rows if row.outcome in _FAILED]
    return Work(
        moment(looked_at),
        _parted([row.ended for row in done], since, width),
        _parted([row.ended or row.started for row in failed], since, width),
        _took([row.ended - row.started for row in done]),
        _took([row.ended - row.recorded for row in done]),
    )


def _newest(path: Index, most: int) -> Any:
    """Return the newest events along a path; no other row of the log is read."""
    query = select(events.c.id, events.c.recorded)
    if path.column is not None:
        query = query.where(path.column == path.value)
    return in_order(query, newest=True).limit(most).subquery()


def _handled(connection: Connection, some: Any, agent: str, since: int) -> Sequence[Row[Any]]:
    """Return the deliveries of some events to an agent that have ended since, or were begun."""
    row = deliveries.c
    query: Select[Any] = select(row.outcome, row.started, row.ended, some.c.recorded).select_from(
        some.join(deliveries, row.event_id == some.c.id)
    )
    at = func.coalesce(row.ended, row.started)
    mine = query.where(row.agent == agent, row.started.is_not(None), at >= since)
    return connection.execute(mine.where(row.replay.is_(None))).all()  # a replay's events are old ones


def _parts(period: timedelta) -> tuple[int, int, int]:
    """Return when a time ends and begins, and how long each of its parts is (microseconds)."""
    until, width = now(), period // timedelta(microseconds=1) // SLOTS
    return until, until - width * SLOTS, width


def _parted(times: Iterable[int], since: int, width: int) -> Counts:
    parts = Counter(min((time - since) // width, SLOTS - 1) for time in times)
    return _counts(since, width, [parts[number] for number in range(SLOTS)])


def _counts(since: int, width: int, numbers: Sequence[int]) -> Counts:
    return Counts(moment(since), timedelta(microseconds=width), numbers)


def _took(times: Sequence[int]) -> Took | None:
    """Return the median and the 95th percentile of some times (microseconds)."""
    if not times:
        return None
    cut = quantiles(times, n=20, method="inclusive") if len(times) > 1 else [*times] * 19
    return Took(cut[9] / SECOND, cut[18] / SECOND)
