"""What runs one at a time: who comes while one runs is left out, waits in line, or takes the place of all before it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import Connection, Row, delete, or_, select

from ...core.limits.limit import Turn
from ...core.limits.single import CANCEL, SKIP, When, took_its_place
from ...core.outcome import OPEN, Outcome
from ...core.times import now
from ..bounding.trees import stop
from ..database.tables import deliveries, events, timers
from ..database.waiting import turns as table
from ..database.waiting import waits
from ..log import Position
from .states import HELD, KEPT

if TYPE_CHECKING:
    from ..database.database import Database
    from ..deliveries import Deliveries
    from ..facts import Delivery
    from .lines import Line, Lines


class Taken(NamedTuple):
    """What came of taking turns: as of Lines.take(), or why the delivery is not handled at all."""

    seconds: float = 0.0
    line: str | None = None
    instead: str | None = None


class Singles:
    """Takes turns of agents with a singleton."""

    def __init__(self, database: Database, deliveries: Deliveries, lines: Lines) -> None:
        self._database = database
        self._deliveries = deliveries
        self._lines = lines

    def take(self, delivery: Delivery, turns: Sequence[Turn], when: When) -> Taken:
        """Take all turns that a delivery needs, or none of them, or say why it is left out."""
        turn = next(turn for turn in turns if turn.kept)

        def work(connection: Connection) -> Taken:
            opened = self._lines.locked(connection, turns)
            line = next(line for line in opened if line.name == turn.line)
            if when == CANCEL and (newer := self._take_place(connection, line, delivery)) is not None:
                return Taken(instead=took_its_place(newer))
            seconds, waits_in = self._lines.take_in(connection, opened, delivery.id, turns)
            if waits_in == line.name:
                if when == SKIP and (first := self._first(connection, line.name)) is not None:
                    return Taken(instead=f"one runs already: delivery {first.id} of event {first.event_id}")
                if when == CANCEL:  # before it is parked, so that the next one finds it
                    self._lines.enter(connection, line, turn, delivery.id, now())
            return Taken(seconds, waits_in)

        return self._database.run(work)

    def _first(self, connection: Connection, line: str) -> Row[Any] | None:
        """Return who is in the way, in so far as its handler ends by itself."""
        found = [row for row in connection.execute(_in(line)).all() if row.outcome in OPEN]
        return min(found, key=lambda row: row.state not in HELD, default=None)

    def _take_place(self, connection: Connection, line: Line, delivery: Delivery) -> str | None:
        """Stop who runs, and end who waits; return the event of a later one instead, if there is one.

        For whom somebody waits, such as a flow for its step, stays: nobody may take that for his answer.
        """
        if self._lines.states(connection, delivery.id).get(line.name) in HELD:
            return None  # a later one would have stopped it
        others = [row for row in connection.execute(_in(line.name)).all() if row.id != delivery.id]
        others = [row for row in others if row.outcome in OPEN and not row.asked]
        place = select(events.c.tx, events.c.seq).where(events.c.id == delivery.event.key)
        own = connection.execute(place).first()
        latest = max(others, key=_place, default=None)
        if latest is not None and _place(latest) > (_place(own) if own else (0, 0)):
            return str(latest.event_id)
        if others:
            self._end(connection, line, others, took_its_place(delivery.event.key))
        return None

    def _end(self, connection: Connection, line: Line, others: Sequence[Row[Any]], told: str) -> None:
        ids = sorted(row.id for row in others)
        connection.execute(delete(waits).where(waits.c.delivery.in_(ids)))
        was = self._deliveries.cancel(connection, [row.id for row in others if row.state == KEPT], told)
        self._deliveries.supersede(connection, [row.id for row in others if row.state != KEPT], told)
        connection.execute(delete(timers).where(timers.c.id.in_(ids)))
        stop(self._database, connection, was)
        running = {row.id for row in was if row.outcome == Outcome.RUNNING.value}
        for id in ids:
            if id not in running:  # whose slots are free when their handlers have ended
                self._lines.leave(connection, line, id)


def _in(line: str) -> Any:
    """Return the query for those in a line, whether somebody waits for each, and their events' places in the log."""
    row = deliveries.c
    asked = or_(row.flow.is_not(None), row.requeued > 0, row.replay.is_not(None)).label("asked")
    query = select(table.c.state, row.id, row.outcome, row.event_id, asked, events.c.tx, events.c.seq)
    query = query.join(deliveries, deliveries.c.id == table.c.delivery)
    return query.outerjoin(events, events.c.id == deliveries.c.event_id).where(table.c.line == line)


def _place(row: Any) -> Position:
    return row.tx or 0, row.seq or 0
