"""Series of events that come soon after each other: the latest one is parked until its key has been quiet for a while.

Whoever parks one locks the key's line first. So of each series one delivery is parked, the latest in the log, whichever
worker gets which first; and it has taken the place of those before it in the transaction in which it was parked.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, and_, delete, select, update

from ...core.limits.single import BEFORE_ALL, DEBOUNCE, QUIET, Debounce, took_its_place
from ...core.times import now
from ..database.tables import deliveries, events
from ..database.waiting import lines, steps, waits

if TYPE_CHECKING:
    from ..database.database import Database
    from ..deliveries import Deliveries
    from .wait import Parking
    from .waits import Waits


class Series:
    """The waits for a quiet time; of its line's row `tat` says when a series ends at the latest."""

    def __init__(self, database: Database, deliveries: Deliveries, waits: Waits) -> None:
        self._database = database
        self._deliveries = deliveries
        self._waits = waits

    def is_over(self, delivery: str) -> bool:
        """Say whether a delivery was the last one of its series, and has waited."""
        mine = and_(steps.c.delivery == delivery, steps.c.name == DEBOUNCE, steps.c.number == BEFORE_ALL)
        query = select(steps.c.delivery).where(mine)
        return self._database.read(lambda connection: connection.execute(query).first()) is not None

    def park(self, parking: Parking, debounce: Debounce, run: Callable[[Callable[[Connection], bool]], bool]) -> int:
        """Park a delivery, in the place of the one that is parked for its key; a later one has taken its own place.

        Return when it is released if none comes (microseconds).
        """
        due = 0

        def work(connection: Connection) -> bool:
            nonlocal due
            until = self._locked(connection, parking.wait.key)
            own = connection.execute(_place(parking.delivery.event.key)).first()
            place = (own.tx, own.seq) if own else (0, 0)  # what is no longer in the log is older than all others
            other = connection.execute(_parked(parking.wait.key)).first()
            if other is not None and (other.tx, other.seq) > place:
                due = other.due
                told = took_its_place(other.event_id)
                return self._deliveries.filter(connection, parking.delivery.id, parking.attempt, told)
            begins = now()
            if other is None:
                until = begins + debounce.most_time
                self._begin(connection, parking.wait.key, until)
            due = min(begins + debounce.quiet_time, until)
            parked = parking._replace(wait=parking.wait._replace(due=due, after=place))
            recorded = self._waits.park_in(connection, parked)
            if recorded and other is not None:
                connection.execute(delete(waits).where(waits.c.delivery == other.delivery))
                told = took_its_place(parking.delivery.event.key)
                self._deliveries.supersede(connection, [other.delivery], told)
            return recorded

        run(work)
        return due

    def _locked(self, connection: Connection, line: str) -> int:
        """Lock a key, and return when its series ends at the latest; one that was forgotten is made anew."""
        query = select(lines.c.tat).where(lines.c.line == line).with_for_update()
        while (until := connection.execute(query).scalar()) is None:
            connection.execute(self._database.insert(lines).on_conflict_do_nothing(), {"line": line})
        return int(until)

    @staticmethod
    def _begin(connection: Connection, line: str, until: int) -> None:
        connection.execute(update(lines).where(lines.c.line == line).values(tat=until))


def _place(event: str) -> Any:
    return select(events.c.tx, events.c.seq).where(events.c.id == event)


def _parked(key: str) -> Any:
    """Return the query for the delivery that waits for a key; who releases it at this moment is waited for."""
    mine = and_(waits.c.kind == QUIET, waits.c.key == key)
    query = select(waits.c.delivery, waits.c.tx, waits.c.seq, waits.c.due, deliveries.c.event_id)
    return query.join(deliveries, deliveries.c.id == waits.c.delivery).where(mine).with_for_update(of=waits)
