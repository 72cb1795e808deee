"""What is done about lines from time to time, by any worker: calling those whose turn has come, and mending."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, and_, delete, exists, func, or_, select

from ...core.outcome import OPEN
from ...core.times import SECOND, now
from ..database.tables import deliveries
from ..database.waiting import limits, lines, shares, turns
from ..waiting.pauses import BEGUN_WITHIN
from .lines import LOOK_AGAIN, MOST, Lines
from .states import CALLED, HELD, KEPT, one, runs_on

if TYPE_CHECKING:
    from ..database.database import Database

#: Microseconds after which nothing is known any more of a key that nobody uses.
FORGOTTEN_AFTER = 3600 * SECOND
#: Lines that are looked at for one sweep.
SOME = 100


class Calling:
    """Looks after lines."""

    def __init__(self, database: Database, lines: Lines) -> None:
        self._database = database
        self._lines = lines

    def call_due(self) -> int:
        """Call those whose turn it is; return how many."""
        query = select(lines.c.line).where(lines.c.due <= now()).limit(SOME)
        with self._database.reading() as connection:
            names = connection.execute(query).scalars().all()
        return self._each(partial(self._call_due, name=name) for name in names)

    def _call_due(self, connection: Connection, name: str) -> int:
        query = select(lines).where(lines.c.line == name, lines.c.due <= now())
        row = connection.execute(query.with_for_update(skip_locked=True)).first()
        return 0 if row is None else self._lines.advance(connection, self._lines.opened(connection, row), now())

    def mend(self) -> int:
        """Give back slots of deliveries that neither run nor come any more; return how many.

        That is none as a rule: whoever records an end gives them back. A dead letter that nobody could send has had no
        such end, and so have others that an operator has ended from outside. One that was called and is not begun in
        time, as its agent is paused or has no worker, would keep others back that share its limit: it asks anew when it
        comes.
        """
        with self._database.reading() as connection:
            found = connection.execute(_lost().limit(MOST)).all()
        return self._each(partial(self._give_back, row=row) for row in found)

    def _give_back(self, connection: Connection, row: Any) -> int:
        query = select(lines).where(lines.c.line == row.line).with_for_update(skip_locked=True)
        there = connection.execute(query).first()
        if there is None or connection.execute(_lost().where(one(row.delivery, row.line))).first() is None:
            return 0
        line = self._lines.opened(connection, there)
        self._lines.leave(connection, line, row.delivery)
        self._lines.advance(connection, line, now())
        return 1

    def forget(self) -> int:
        """Forget keys that nobody uses any more; return how many."""
        used = select(turns.c.line).where(turns.c.line == lines.c.line).exists()
        idle = select(lines.c.line).where(lines.c.tat < now() - FORGOTTEN_AFTER, lines.c.due.is_(None), ~used)
        passed = select(lines.c.passed).where(lines.c.line == shares.c.line).scalar_subquery()
        alike = shares.c.waiting == 0, shares.c.spent <= func.coalesce(passed, shares.c.spent)

        def work(connection: Connection) -> int:
            names = connection.execute(idle.limit(MOST).with_for_update(skip_locked=True)).scalars().all()
            connection.execute(delete(shares).where(*alike))  # each new one begins where they are
            return connection.execute(delete(lines).where(lines.c.line.in_(names))).rowcount

        return self._database.run(work)

    def _each(self, works: Iterable[Callable[[Connection], int]]) -> int:
        """Do each in a transaction of its own: whoever ends a delivery waits for one line only."""
        return sum(self._database.run(work) for work in works)


def _lost() -> Any:
    """Return the query for slots whose deliveries neither run nor are on their way, or take too long to come.

    A slot that is kept is no attempt's; and while a worker lives, the handler of what was stopped may still run there.
    """
    known, at = turns.c, now()
    outcome = func.coalesce(deliveries.c.outcome, "")
    idle = and_(known.state != KEPT, outcome.not_in(("queued", "running")))
    over = and_(known.state == KEPT, outcome.not_in(OPEN))
    gone = and_(or_(idle, over), known.since < at - LOOK_AGAIN, ~runs_on())
    late = and_(outcome == "queued", known.state == CALLED, known.since < at - round(BEGUN_WITHIN * SECOND))
    # In an order whoever comes after waits all the same.
    of_limit = exists().where(func.substr(known.line, 1, func.length(limits.c.name) + 1) == limits.c.name + ":")
    joined = select(known.delivery, known.line).outerjoin(deliveries, deliveries.c.id == known.delivery)
    return joined.where(known.state.in_(HELD), or_(gone, late), of_limit)
