"""What is done about lines from time to time, by any worker: calling those whose turn has come, and mending."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, and_, delete, exists, func, or_, select

from ...core.limits.limit import SLOT, order_of
from ...core.outcome import OPEN
from ...core.times import SECOND, now
from ..database.leases import is_run, runs_on
from ..database.tables import deliveries, positions
from ..database.waiting import limits, lines, shares, turns, waits
from ..waiting.pauses import BEGUN_WITHIN
from .lines import LOOK_AGAIN, MOST, Lines
from .states import CALLED, HELD, KEPT, one

if TYPE_CHECKING:
    from ..database.database import Database
    from ..deliveries import Deliveries

#: Microseconds after which nothing is known any more of a key that nobody uses.
FORGOTTEN_AFTER = 3600 * SECOND
#: Lines that are looked at for one sweep.
SOME = 100


class Calling:
    """Looks after lines."""

    def __init__(self, database: Database, deliveries: Deliveries, lines: Lines) -> None:
        self._database = database
        self._deliveries = deliveries
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
        time, as its agent is paused or has no worker by now, would keep others back that share its limit: it asks anew
        when it comes.
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

    def let_go(self, has: Mapping[str, Collection[str]]) -> int:
        """Let deliveries go on that wait for limits of their agents' own, or in orders, which those have no more.

        Nobody would hand a turn of those on. Return how many go on: of many not all with one call.

        Arguments:
            has: what the limits and the order of each agent are called, as it is declared by now.

        """
        orders = select(positions.c.name).where(positions.c.name.in_([order_of(agent) for agent in has]))
        of_line = select(waits.c.key).where(waits.c.kind == SLOT).distinct().limit(SOME)
        found: list[tuple[str, str]] = []
        with self._database.reading() as connection:
            for name in connection.execute(select(limits.c.name).union(orders)).scalars().all():
                agent = name.partition("#")[0]
                if name not in has.get(agent, (name,)):
                    mine = of_line.where(waits.c.key >= f"{name}:", waits.c.key < f"{name};")
                    found += [(agent, line) for line in connection.execute(mine).scalars()]
        return self._each(partial(self._let_go, agent=agent, name=line) for agent, line in found)

    def _let_go(self, connection: Connection, agent: str, name: str) -> int:
        row = connection.execute(select(lines).where(lines.c.line == name).with_for_update(skip_locked=True)).first()
        if row is None:
            return 0
        mine = select(deliveries.c.id).join(waits, waits.c.delivery == deliveries.c.id)
        mine = mine.where(waits.c.kind == SLOT, waits.c.key == name, deliveries.c.agent == agent)
        free = mine.order_by(deliveries.c.id).limit(MOST).with_for_update(of=deliveries, skip_locked=True)
        ids = connection.execute(free).scalars().all()
        connection.execute(delete(waits).where(waits.c.delivery.in_(ids)))
        line = self._lines.opened(connection, row)
        for id in ids:
            self._lines.leave(connection, line, id)
        return len(self._deliveries.unpark(connection, ids))

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
    is_away = and_(known.since < at - LOOK_AGAIN, ~is_run(deliveries.c.agent))
    late = or_(known.since < at - round(BEGUN_WITHIN * SECOND), is_away)
    late = and_(outcome == "queued", known.state == CALLED, late)
    # In an order whoever comes after waits all the same.
    of_limit = exists().where(func.substr(known.line, 1, func.length(limits.c.name) + 1) == limits.c.name + ":")
    joined = select(known.delivery, known.line).outerjoin(deliveries, deliveries.c.id == known.delivery)
    return joined.where(known.state.in_(HELD), or_(gone, late), of_limit)
