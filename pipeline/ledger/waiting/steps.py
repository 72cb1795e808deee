"""The steps of deliveries: what one has come to is kept in a transaction of its own, and is not done again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, and_, bindparam, delete, func, insert, select

from ...core.times import now
from ..database.database import Database
from ..database.tables import OPEN, deliveries
from ..database.waiting import steps
from .wait import FORGOTTEN

#: Which use of which name in a delivery.
Place = tuple[str, int]


class Step(NamedTuple):
    """A step that has ended.

    Attributes:
        number: the n-th use of the name in its delivery, from 0 on.
        started: microseconds, as `ended`.
        result: as JSON.

    """

    name: str
    number: int
    started: int
    ended: int
    result: str


_COLUMNS = tuple(steps.c[name] for name in Step._fields)


class Steps:
    """The steps' table."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._keep = database.insert(steps).on_conflict_do_nothing().returning(steps.c.result)
        mine = steps.c.delivery == bindparam("delivery")
        self._all = select(*_COLUMNS).where(mine).order_by(steps.c.started, steps.c.name, steps.c.number)
        self._one = select(steps.c.result).where(
            mine, steps.c.name == bindparam("name"), steps.c.number == bindparam("number")
        )

    def of(self, delivery: str) -> list[Step]:
        """Return a delivery's steps, in the order in which they were begun."""
        rows = self._database.read(lambda connection: connection.execute(self._all, {"delivery": delivery}).all())
        return [Step(*row) for row in rows]

    def keep(self, delivery: str, place: Place, started: int, result: str) -> str:
        """Keep a step's result, and return what is kept: another run of the delivery may have been first."""
        name, number = place
        key = {"delivery": delivery, "name": name, "number": number}
        row = {**key, "started": started, "ended": now(), "result": result}
        kept = self._database.fast.one((self._keep, row)) or self._database.fast.one((self._one, key))
        return str(kept[0])

    def end(self, connection: Connection, rows: list[dict[str, Any]]) -> None:
        """Keep what waits have come to, with their releases (delivery, name, number, started, result, event_id)."""
        if rows:
            insert = self._database.insert(steps).on_conflict_do_nothing()
            connection.execute(insert, [{**row, "ended": now()} for row in rows])

    @staticmethod
    def awaited(connection: Connection, event_ids: Sequence[str]) -> set[str]:
        """Return those of some events that unfinished deliveries have waited for, and read when they go on."""
        open_now = select(deliveries.c.id).where(deliveries.c.id == steps.c.delivery, OPEN).exists()
        query = select(steps.c.event_id).where(steps.c.event_id.in_(event_ids), open_now)
        return {str(id) for id in connection.execute(query).scalars()}

    def forget(self, connection: Connection, delivery: str, first: str | None = None) -> None:
        """Forget a step and all that were begun after it, or all of them, so that they are done again.

        What is asked and emitted from then on is another question, and another event: a note says so.
        """
        mine = and_(steps.c.delivery == delivery, steps.c.name != FORGOTTEN)
        begun = select(func.min(steps.c.started)).where(mine, steps.c.name == first).scalar_subquery()
        connection.execute(
            delete(steps).where(mine) if first is None else delete(steps).where(mine, steps.c.started >= begun)
        )
        before = select(func.count()).where(steps.c.delivery == delivery, steps.c.name == FORGOTTEN)
        emitted = select(deliveries.c.emitted).where(deliveries.c.id == delivery)
        note = {"delivery": delivery, "name": FORGOTTEN, "started": now(), "ended": now()}
        number = connection.execute(before).scalar_one() + 1
        result = str(connection.execute(emitted).scalar_one())
        connection.execute(insert(steps).values(**note, number=number, result=result))
