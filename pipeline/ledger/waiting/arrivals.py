"""Events that somebody waits for: the log is read along for their types only, from where each wait has begun.

For each such type there is a place up to which the log was read (as of projections), locked while it is read on. What a
new wait has missed before that place, it is looked through for by itself, under the same lock: so nothing lies between.
A wait's time is over only when the log was read up to its end: what has come in time is never too late.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import orjson
from sqlalchemy import Connection, Row, and_, or_, select, tuple_, update

from ...core.event import Event
from ...core.times import now
from ..aside import read
from ..database.tables import events, positions
from ..database.waiting import waits
from ..log import Position, after, end_of_log, in_order, position_of, stable
from .wait import EVENT
from .waits import Waits, keys_of, timed_out

if TYPE_CHECKING:
    from ..database.database import Database
    from ..deliveries import Deliveries

#: Events, and waits, that are looked at in one transaction, and such transactions of one look.
SOME, AT_ONCE = 500, 40
#: Says whether an event is what a wait's condition asks for; None when this version cannot read the condition.
Matches = Callable[[str, Event], bool | None]

_EVENT = tuple(events.c[name] for name in ("id", "tx", "seq", "correlation", "body"))


class Arrivals:
    """Finds the events that deliveries wait for, and lets those go on."""

    def __init__(self, database: Database, deliveries: Deliveries, waits: Waits) -> None:
        self._database = database
        self._deliveries = deliveries
        self._waits = waits

    def release(self, matches: Matches) -> int:
        """Let deliveries go on whose events have come, or whose time is over; return how many did."""
        with self._database.reading() as connection:
            keys = keys_of(connection, EVENT)
        return sum(self._release(key, matches) for key in keys)

    def event(self, id: str) -> Event | None:
        """Return an event of the log; None when it is not there, or cannot be read."""
        query = select(events.c.body).where(events.c.id == id)
        body = self._database.read(lambda connection: connection.execute(query).scalar())
        return None if body is None else getattr(read(id, body), "event", None)

    def _release(self, key: str, matches: Matches) -> int:
        if not self._has_more(key):  # a look that takes no lock
            return 0
        self._register(key)
        done = 0

        def work(connection: Connection) -> tuple[int, bool]:
            place = self._locked(connection, key)
            if place is None:  # another worker is at it
                return 0, False
            at = now()
            released = self._look_back(connection, key, place, matches)
            more, has_more = self._read_on(connection, key, place, matches)
            released += more
            return released + (0 if has_more else self._time_out(connection, key, at)), has_more

        for _ in range(AT_ONCE):
            released, has_more = self._database.run(work)
            done += released
            if not has_more:
                break
        return done

    def _has_more(self, key: str) -> bool:
        with self._database.reading() as connection:
            mine = and_(waits.c.key == key, waits.c.kind == EVENT)
            new = select(waits.c.delivery).where(mine, or_(~waits.c.looked, waits.c.due <= now())).limit(1)
            if connection.execute(new).first() is not None:
                return True
            row = connection.execute(select(positions).where(positions.c.name == _name(key))).first()
            return row is None or bool(self._events(connection, key, position_of(row), limit=1))

    def _register(self, key: str) -> None:
        """Begin a type's place at the log's end: all who wait for it look back for themselves."""

        def work(connection: Connection) -> None:
            if connection.execute(select(positions.c.name).where(positions.c.name == _name(key))).first() is None:
                tx, seq = end_of_log(self._database, connection)
                row = {"name": _name(key), "tx": tx, "seq": seq}
                connection.execute(self._database.insert(positions).on_conflict_do_nothing(), row)

        self._database.run(work)

    def _locked(self, connection: Connection, key: str) -> Position | None:
        query = select(positions).where(positions.c.name == _name(key)).with_for_update(skip_locked=True)
        row = connection.execute(query).first()
        return position_of(row) if row else None

    def _events(
        self, connection: Connection, key: str, start: Position, *conditions: Any, limit: int = SOME
    ) -> Sequence[Row[Any]]:
        mine = and_(events.c.type == key, events.c.replay.is_(None), after(self._database, start), *conditions)
        query = in_order(select(*_EVENT).where(mine)).limit(limit)
        return connection.execute(stable(self._database, query)).all()

    def _look_back(self, connection: Connection, key: str, place: Position, matches: Matches) -> int:
        """Look through what had come before new waits were there, up to the place from which all are read on."""
        new = select(waits).where(waits.c.key == key, waits.c.kind == EVENT, ~waits.c.looked).limit(SOME)
        done = 0
        for wait in connection.execute(new).all():
            mine = () if wait.correlation is None else (events.c.correlation == wait.correlation,)
            found = self._events(connection, key, position_of(wait), ~after(self._database, place), *mine)
            answers = ((row, _ends(wait, _event_of(row), matches)) for row in found)
            end, answer = next(((row, answer) for row, answer in answers if answer is not False), (None, False))
            if answer is None:
                continue  # a newer version has set its condition, and looks for itself
            if end is not None:
                done += self._end(connection, [wait], end)
                continue
            is_through = len(found) < SOME
            seen = max(place, position_of(wait)) if is_through else position_of(found[-1])
            self._seen(connection, wait, seen, is_through=is_through)
        return done

    def _read_on(self, connection: Connection, key: str, place: Position, matches: Matches) -> tuple[int, bool]:
        """Let those go on whose event has come since; say, too, whether there is more to read."""
        mine = and_(waits.c.kind == EVENT, waits.c.key == key, waits.c.looked)
        if connection.execute(select(waits.c.delivery).where(mine).limit(1)).first() is None:
            self._place(connection, key, end_of_log(self._database, connection))  # new ones look back for themselves
            return 0, False
        found = self._events(connection, key, place)
        done = 0
        for row in found:
            waiting = select(waits).where(
                mine,
                or_(waits.c.correlation.is_(None), waits.c.correlation == row.correlation),
                tuple_(waits.c.tx, waits.c.seq) < tuple_(*position_of(row)),
            )
            event, ended = _event_of(row), []
            for wait in connection.execute(waiting).all():
                answer = _ends(wait, event, matches)
                if answer is None:
                    self._seen(connection, wait, max(place, position_of(wait)), is_through=False)
                elif answer:
                    ended.append(wait)
            done += self._end(connection, ended, row)
        if found:
            self._place(connection, key, position_of(found[-1]))
        return done, len(found) == SOME

    def _time_out(self, connection: Connection, key: str, at: int) -> int:
        """Let those go on that have waited long enough; not before what other transactions have written can be read."""
        place = self._locked(connection, key)
        beyond = and_(events.c.type == key, events.c.replay.is_(None), after(self._database, place or (0, 0)))
        if connection.execute(select(events.c.id).where(beyond).limit(1)).first() is not None:
            return 0
        over = select(waits).where(waits.c.key == key, waits.c.kind == EVENT, waits.c.due <= at).limit(SOME)
        rows = connection.execute(over).all()
        return len(self._waits.release(connection, rows, [timed_out(row.due) for row in rows]))

    @staticmethod
    def _place(connection: Connection, key: str, place: Position) -> None:
        tx, seq = place
        connection.execute(update(positions).where(positions.c.name == _name(key)).values(tx=tx, seq=seq))

    @staticmethod
    def _seen(connection: Connection, wait: Row[Any], place: Position, *, is_through: bool) -> None:
        """Note how far the log was read for a wait alone, and whether it is read with the others from now on."""
        tx, seq = place
        this = and_(waits.c.delivery == wait.delivery, waits.c.since == wait.since)
        connection.execute(update(waits).where(this).values(tx=tx, seq=seq, looked=is_through))

    def _end(self, connection: Connection, ended: Sequence[Row[Any]], event: Row[Any]) -> int:
        """Let deliveries go on that an event has come for: it has found somebody then."""
        if ended:
            self._deliveries.forget_unrouted(connection, [event.id])
        return len(self._waits.release(connection, ended, [arrived(event)] * len(ended), event.id))


def _event_of(row: Row[Any]) -> Event | None:
    """Return the event of a row; None when it cannot be read, and then it ends no wait."""
    return getattr(read(row.id, row.body), "event", None)


def _ends(wait: Row[Any], event: Event | None, matches: Matches) -> bool | None:
    if event is None:
        return False
    return wait.condition is None or matches(wait.condition, event)


def arrived(row: Row[Any]) -> str:
    """Return the result of a wait that an event has ended: its id, and its place in the log."""
    return orjson.dumps({"event": row.id, "at": position_of(row)}).decode()


def _name(key: str) -> str:
    return f"wait {key}"[:255]
