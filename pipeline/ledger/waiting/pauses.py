"""What is paused: agents by somebody, and scopes because a provider, or a breaker, has asked for it.

A paused agent's events wait in its queue. Deliveries of a paused scope are parked by whoever gets them; when its time
has come they go on again, one at first, and twice as many at once each time that so many have ended. What waits for a
scope that is not paused goes on: so whoever parks need not know whether the pause has ended meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson
from sqlalchemy import Connection, Row, and_, delete, func, or_, select, update

from ...core.outcome import Outcome
from ...core.times import SECOND, as_json_time, moment, now, utc_now
from ..database.leases import BATCH, in_seconds, locked
from ..database.rows import minute
from ..database.tables import deliveries
from ..database.waiting import attempts, pauses, waits
from .wait import PAUSE
from .waits import keys_of

if TYPE_CHECKING:
    from ..database.database import Database
    from ..database.statements import Statements
    from .waits import Waits

#: Kinds of pauses: somebody has paused an agent, and a provider or a breaker a scope.
AGENT, SCOPE = "agent", "scope"
#: Deliveries at once beyond which a scope has started.
WIDEST = 256
#: Seconds that a delivery which goes on has to be begun, before another one goes on in its place.
BEGUN_WITHIN = 60.0
_PAUSED = select(pauses.c.name).where(pauses.c.kind == AGENT)


class Pause(NamedTuple):
    """A pause.

    Attributes:
        name: the agent's or the scope's.
        until: when a scope goes on; None for an agent, which waits for somebody.
        times: how often the scope was paused again before it had started well.
        width: how many of its deliveries run at once when it has begun to start.
        admitted: the ids of those.
        waiting: how many deliveries are parked for it.

    """

    kind: str
    name: str
    reason: str
    since: datetime
    until: datetime | None = None
    times: int = 0
    width: int = 1
    admitted: frozenset[str] = frozenset()
    waiting: int = 0

    @property
    def is_on(self) -> bool:
        """Whether nothing goes on yet."""
        return self.until is None or self.until > utc_now()

    @property
    def left(self) -> float:
        """The seconds until it is over."""
        return 0.0 if self.until is None else max(0.0, (self.until - utc_now()).total_seconds())

    def as_data(self) -> dict[str, Any]:
        """Return it as JSON data."""
        times = {"since": as_json_time(self.since), "until": as_json_time(self.until)}
        about = {name: getattr(self, name) for name in ("kind", "name", "reason")}
        return {**about, **times, "times": self.times, "width": self.width, "waiting": self.waiting}


class Pauses:
    """The pauses' table."""

    def __init__(self, database: Database, waits: Waits) -> None:
        self._database = database
        self._waits = waits

    # -- agents

    def pause(self, agent: str, reason: str) -> bool:
        """Pause an agent until somebody resumes it; say whether it was not paused before."""
        insert = self._database.insert(pauses).on_conflict_do_nothing().returning(pauses.c.name)
        row = {"kind": AGENT, "name": agent, "reason": reason, "since": now()}

        def work(connection: Connection) -> bool:
            is_new = connection.execute(insert, row).first() is not None
            if not is_new:
                connection.execute(update(pauses).where(_is(AGENT, agent)).values(reason=reason))
            return is_new

        return self._database.run(work)

    def end(self, kind: str, name: str) -> bool:
        """End a pause; say whether there was one. What waits for a scope goes on then, all at once."""
        return bool(self._database.run(lambda own: own.execute(delete(pauses).where(_is(kind, name))).rowcount))

    def agents(self) -> frozenset[str]:
        """Return the agents that somebody has paused."""
        rows = self._database.read(lambda connection: self._database.fast.on(connection).execute(_PAUSED).fetchall())
        return frozenset(name for (name,) in rows)

    # -- scopes

    def scopes(self) -> dict[str, Pause]:
        """Return the scopes that are paused, or start slowly, without how many deliveries wait for them."""
        query = select(pauses).where(pauses.c.kind == SCOPE)
        rows = self._database.read(lambda connection: connection.execute(query).all())
        return {row.name: _pause(row) for row in rows}

    def all(self) -> list[Pause]:
        """Return all pauses, the oldest first."""
        number = select(waits.c.key, func.count().label("number")).where(waits.c.kind == PAUSE).group_by(waits.c.key)
        with self._database.reading() as connection:
            rows = connection.execute(select(pauses).order_by(pauses.c.since, pauses.c.kind, pauses.c.name)).all()
            waiting = {row.key: row.number for row in connection.execute(number)}
        return [_pause(row)._replace(waiting=waiting.get(row.name, 0) if row.kind == SCOPE else 0) for row in rows]

    def hit(self, scope: str, reason: str, lasts: Callable[[int], float]) -> Pause:
        """Pause a scope, as a provider has asked for; while it is paused already, for no shorter time.

        Arguments:
            lasts: the seconds of the pause, by how often the scope was paused before without having started well.

        """
        insert = self._database.insert(pauses).on_conflict_do_nothing().returning(pauses)

        def work(connection: Connection) -> Pause:
            while True:
                at = now()
                first = {"kind": SCOPE, "name": scope, "reason": reason, "since": at, "until": _after(at, lasts(0))}
                row = connection.execute(insert, first).first()
                if row is not None:
                    return _pause(row)
                row = connection.execute(select(pauses).where(_is(SCOPE, scope)).with_for_update()).first()
                if row is not None:
                    new = _extended(row, at, lasts)
                    changed = update(pauses).where(_is(SCOPE, scope)).values(reason=reason, **new)
                    return _pause(connection.execute(changed.returning(pauses)).one())

        return self._database.run(work)

    def release(self) -> int:
        """Let deliveries go on whose scope may; return how many did."""
        at = now()
        with self._database.reading() as connection:
            query = select(pauses.c.name, pauses.c.until).where(pauses.c.kind == SCOPE)
            until = {row.name: row.until for row in connection.execute(query)}
            keys = {*until, *keys_of(connection, PAUSE)}
        over = sorted(key for key in keys if (until.get(key) or 0) <= at)
        return sum(self._database.run(lambda connection, key=key: self._release(connection, key)) for key in over)  # type: ignore[misc]  # mypy knows no default of a lambda

    def _release(self, connection: Connection, scope: str) -> int:
        mine = select(pauses).where(_is(SCOPE, scope))
        row = connection.execute(locked(mine)).first()
        if row is None:
            is_locked = connection.execute(mine).first() is not None
            return 0 if is_locked else len(self._free(connection, scope, BATCH))
        if row.until > now():
            return 0
        admitted = orjson.loads(row.admitted)
        running = self._running(connection, admitted)
        width, ended = _widened(row.width, row.ended + len(admitted) - len(running))
        if width > WIDEST:
            connection.execute(delete(pauses).where(_is(SCOPE, scope)))
            return len(self._free(connection, scope, BATCH))
        freed = self._free(connection, scope, width - len(running))
        now_in = sorted([*running, *freed])
        if not now_in:
            connection.execute(delete(pauses).where(_is(SCOPE, scope)))
        elif now_in != admitted or width != row.width:
            values = {"width": width, "ended": ended, "admitted": orjson.dumps(now_in).decode()}
            connection.execute(update(pauses).where(_is(SCOPE, scope)).values(values))
        return len(freed)

    def _free(self, connection: Connection, scope: str, number: int) -> list[str]:
        """Let the first deliveries go on that wait for a scope."""
        mine = select(waits).where(waits.c.kind == PAUSE, waits.c.key == scope)
        query = mine.order_by(waits.c.since, waits.c.delivery).limit(max(number, 0))
        rows = connection.execute(locked(query)).all()
        return self._waits.release(connection, rows, ["null"] * len(rows))

    @staticmethod
    def _running(connection: Connection, ids: Sequence[str]) -> list[str]:
        """Return those of some released deliveries that have not ended; who takes too long to be begun is left out."""
        known = deliveries.c
        soon = or_(known.due <= 0, known.due > in_seconds(-BEGUN_WITHIN))
        open_ones = or_(known.outcome == Outcome.RUNNING.value, and_(known.outcome == Outcome.QUEUED.value, soon))
        query = select(known.id).where(known.id.in_(ids), open_ones).order_by(known.id)
        return list(connection.execute(query).scalars()) if ids else []


class Attempts:
    """The attempts' table: how those of agents with a breaker went; successes are counted with their deliveries."""

    def __init__(self, database: Database, statements: Statements) -> None:
        self._database = database
        self._count = statements.attempt

    def fail(self, agent: str, within: float) -> tuple[int, int]:
        """Count a failed attempt; return how many were made, and how many have failed, within so many seconds."""
        this = minute()
        row = {"agent": agent, "minute": this, "made": 1, "failed": 1}
        mine, old = attempts.c.agent == agent, attempts.c.minute <= this - max(1, round(within / 60))
        count = select(func.sum(attempts.c.made), func.sum(attempts.c.failed)).where(mine)

        def work(connection: Connection) -> tuple[int, int]:
            connection.execute(self._count, row)
            connection.execute(delete(attempts).where(mine, old))
            made, failed = connection.execute(count).one()
            return int(made), int(failed)

        return self._database.run(work)

    def forget(self, agent: str) -> None:
        """Begin to count anew."""
        self._database.run(lambda connection: connection.execute(delete(attempts).where(attempts.c.agent == agent)))


def _widened(width: int, ended: int) -> tuple[int, int]:
    """Return how many may run at once when so many have ended, and how many of them count from there on."""
    while ended >= width:
        width, ended = width * 2, ended - width
    return width, ended


def _extended(row: Row[Any], at: int, lasts: Callable[[int], float]) -> dict[str, Any]:
    """Return what changes of a pause that is asked for once more."""
    if row.until > at:  # by one that ran beside the first one
        return {"until": max(row.until, _after(at, lasts(row.times)))}
    times = row.times + 1
    return {"until": _after(at, lasts(times)), "times": times, "width": 1, "ended": 0, "admitted": "[]"}


def _after(at: int, seconds: float) -> int:
    return at + round(seconds * SECOND)


def _is(kind: str, name: str) -> Any:
    return and_(pauses.c.kind == kind, pauses.c.name == name)


def _pause(row: Row[Any]) -> Pause:
    until = None if row.until is None else moment(row.until)
    admitted = frozenset(orjson.loads(row.admitted))
    return Pause(row.kind, row.name, row.reason, moment(row.since), until, row.times, row.width, admitted)
