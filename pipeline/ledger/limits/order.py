"""The order of an agent's events by key: the log is read along, and each event enters its key's line before it comes.

Workers get events in any order: several workers, priorities, retries. So what stands in a line does not follow from who
came first, but from the log alone, whose places are compared as (tx, seq).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, select, update

from ...core.event import Event
from ...core.ids import delivery_id
from ...core.limits.limit import Turn, order_of
from ..aside import read
from ..database.tables import OPEN, agents, deliveries, events, positions
from ..log import Position, after, end_of_log, in_order, position_of, stable

if TYPE_CHECKING:
    from ..database.database import Database
    from .lines import Lines

#: Events that are read in one transaction.
SOME = 500
#: Says in which line of an agent's order an event is; None for one that the agent does not want.
TurnOf = Callable[[Event], Turn | None]

_EVENTS = select(*(events.c[name] for name in ("id", "tx", "seq", "replay", "body")))


class Orders:
    """Reads the log along for agents that have an order."""

    def __init__(self, database: Database, lines: Lines) -> None:
        self._database = database
        self._lines = lines

    def place(self, agent: str, event: str, turn_of: TurnOf) -> Position | None:
        """Return an event's place in the log, when all before it have entered their lines.

        None when that is not settled yet: on PostgreSQL an older transaction may still be writing events.
        """
        own = select(events.c.tx, events.c.seq).where(events.c.id == event)
        name = order_of(agent)
        cursor = select(positions.c.tx, positions.c.seq).where(positions.c.name == name)
        with self._database.reading() as connection:
            row, reached = _first(connection, own), _first(connection, cursor)
        place = row or (0, 0)  # what is no longer in the log is older than all others
        while reached is None or reached < place:
            has_read = self._database.run(lambda connection: self._read_on(connection, agent, turn_of))
            with self._database.reading() as connection:
                reached = _first(connection, cursor)
            if not has_read and (reached is None or reached < place):
                return None
        return place

    def _read_on(self, connection: Connection, agent: str, turn_of: TurnOf) -> bool:
        """Enter the next events into their lines; say whether there were any."""
        name = order_of(agent)
        locked = select(positions).where(positions.c.name == name).with_for_update()
        row = connection.execute(locked).first()
        if row is None:
            begun = self._begin(connection, agent, turn_of)
            row = connection.execute(locked).first()
            if begun or row is None:
                return True
        start = position_of(row)
        query = in_order(_EVENTS.where(after(self._database, start))).limit(SOME)
        found = connection.execute(stable(self._database, query)).all()
        if not found:
            return False
        self._enter(connection, agent, [event for event in found if event.replay is None], turn_of)
        tx, seq = position_of(found[-1])
        connection.execute(update(positions).where(positions.c.name == name).values(tx=tx, seq=seq))
        return True

    def _begin(self, connection: Connection, agent: str, turn_of: TurnOf) -> bool:
        """Begin where reconciliation stands: what lies before has deliveries, and those that are open enter here."""
        known = select(agents.c.tx, agents.c.seq).where(agents.c.name == agent)
        tx, seq = _first(connection, known) or end_of_log(self._database, connection)
        insert = self._database.insert(positions).on_conflict_do_nothing().returning(positions.c.name)
        if connection.execute(insert, {"name": order_of(agent), "tx": tx, "seq": seq}).first() is None:
            return False
        mine = _EVENTS.join(deliveries, deliveries.c.event_id == events.c.id)
        mine = mine.where(OPEN, deliveries.c.agent == agent, deliveries.c.replay.is_(None))
        before = [event for event in connection.execute(mine).all() if position_of(event) <= (tx, seq)]
        self._enter(connection, agent, before, turn_of)
        return True

    def _enter(self, connection: Connection, agent: str, found: Any, turn_of: TurnOf) -> None:
        coming: list[tuple[str, Turn]] = []
        for row in found:
            event = getattr(read(row.id, row.body), "event", None)
            turn = None if event is None else turn_of(event)
            if turn is not None:
                coming.append((delivery_id(row.id, agent), turn._replace(first=row.tx, second=row.seq)))
        self._lines.expect(connection, coming)


def _first(connection: Connection, query: Any) -> Position | None:
    row = connection.execute(query).first()
    return None if row is None else position_of(row)
