"""Batches: deliveries that one call of their agent's handler is made for.

Whoever parks a delivery counts it in the row of its agent and key. A sweeper locks that row when the batch is full or
its time is over, and makes the oldest delivery the leader: it alone is released, and the others go on waiting for it.
What becomes of the leader becomes of them in the same transaction. Of a leader that has ended without them they are
released, and gather anew: so nobody waits for ever.

Waits are locked before deliveries, as by those who stop a tree.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import orjson
from sqlalchemy import Connection, Row, and_, delete, func, or_, select, update

from ...core.event import Encoded
from ...core.limits.batch import reason_in_batch
from ...core.outcome import OPEN, Outcome
from ...core.times import now
from ..aside import Bad, read
from ..database.leases import locked
from ..database.rows import chunks
from ..database.tables import deliveries, events
from ..database.waiting import batches, steps, waits
from .wait import GATHERS, MEMBER, OVER

if TYPE_CHECKING:
    from ..database.database import Database
    from ..deliveries import Deliveries
    from ..facts import Run
    from .steps import Place, Steps
    from .waits import Waits

#: The step that says of a delivery that its batch is complete; no handler's step has such a number.
STEP: Place = ("batch", -1)
#: Keys that are looked at for one sweep, deliveries that become batches in one transaction, and members whose leaders
#: are looked at in one go.
SOME, AT_ONCE, LOOKED_AT = 100, 2000, 10_000
#: What a leader may be whose batch is still to be handled.
_OPEN = tuple(outcome.value for outcome in OPEN if outcome is not Outcome.DEAD)


class Batches:
    """Makes batches of what has gathered, and lets all of one end together."""

    def __init__(
        self,
        database: Database,
        deliveries: Deliveries,
        waits: Waits,
        steps: Steps,
        announce: Callable[[Connection, Sequence[str]], None],
    ) -> None:
        self._database = database
        self._deliveries = deliveries
        self._waits = waits
        self._steps = steps
        self._announce = announce
        #: Up to which leader's id all were looked at.
        self._seen = ""

    # -- making them

    def form(self) -> int:
        """Make batches of what is enough, or has waited long enough; return how many."""
        query = select(batches.c.key).where(batches.c.due <= now()).order_by(batches.c.due).limit(SOME)
        keys = self._database.read(lambda connection: connection.execute(query).scalars().all())
        return sum(self._database.run(partial(self._form, key=key)) for key in keys)

    def _form(self, connection: Connection, key: str) -> int:
        row = connection.execute(locked(select(batches).where(batches.c.key == key, batches.c.due <= now()))).first()
        if row is None:  # another worker is at it
            return 0
        gathered = and_(waits.c.kind == GATHERS, waits.c.key == key)
        # Without those that somebody stops at this moment.
        oldest = locked(select(waits).where(gathered).order_by(waits.c.since, waits.c.delivery).limit(row.most))
        done = 0
        for _ in range(max(1, AT_ONCE // row.most)):
            found = connection.execute(oldest).all()
            if not found or (len(found) < row.most and found[0].due > now()):
                break
            done += self._lead(connection, found)
        number, first = connection.execute(select(func.count(), func.min(waits.c.due)).where(gathered)).one()
        if number:
            due = 0 if number >= row.most else first
            connection.execute(update(batches).where(batches.c.key == key).values(gathered=number, due=due))
        else:
            connection.execute(delete(batches).where(batches.c.key == key))
        return done

    def _lead(self, connection: Connection, found: Sequence[Row[Any]]) -> int:
        """Make one batch; return how many that is: none where all of them were stopped meanwhile."""
        places = self._places(connection, [row.delivery for row in found])
        ordered = sorted(found, key=lambda row: (places.get(row.delivery, (0, 0)), row.delivery))
        for number, leader in enumerate(ordered, 1):
            if self._waits.release(connection, [leader], [OVER]):
                members = sorted(row.delivery for row in ordered[number:])
                name, nth = STEP
                step = {"delivery": leader.delivery, "name": name, "number": nth, "started": leader.since}
                self._steps.end(connection, [{**step, "result": orjson.dumps(1 + len(members)).decode()}])
                for some in chunks(members):
                    mine = and_(waits.c.delivery.in_(some), waits.c.kind == GATHERS)
                    moved = {"kind": MEMBER, "key": leader.delivery, "due": None}
                    connection.execute(update(waits).where(mine).values(moved))
                self._deliveries.wait_on(connection, members, reason_in_batch(leader.delivery))
                return 1
        return 0

    @staticmethod
    def _places(connection: Connection, ids: Sequence[str]) -> dict[str, tuple[int, int]]:
        query = select(deliveries.c.id, events.c.tx, events.c.seq).join(events, events.c.id == deliveries.c.event_id)
        rows = [row for some in chunks(ids) for row in connection.execute(query.where(deliveries.c.id.in_(some)))]
        return {row.id: (row.tx, row.seq) for row in rows}

    def mend(self) -> int:
        """Let members go on whose leader has ended without them (cancelled, filtered, refused); return how many."""
        led = select(waits.c.key).where(waits.c.kind == MEMBER, waits.c.key > self._seen)
        some = led.order_by(waits.c.key).limit(LOOKED_AT).subquery()
        over = or_(deliveries.c.id.is_(None), deliveries.c.outcome.not_in(_OPEN), deliveries.c.requeued > 0)
        query = select(some.c.key).outerjoin(deliveries, deliveries.c.id == some.c.key).where(over).distinct()
        with self._database.reading() as connection:
            number, last = connection.execute(select(func.count(), func.max(some.c.key))).one()
            leaders = connection.execute(query).scalars().all() if number else []
        self._seen = last if number == LOOKED_AT else ""
        return sum(self._database.run(partial(self._let_go, leader=leader)) for leader in leaders)

    def _let_go(self, connection: Connection, leader: str, member: str | None = None) -> int:
        mine = select(waits).where(_led_by(leader)).order_by(waits.c.delivery)
        rows = connection.execute(locked(mine if member is None else mine.where(waits.c.delivery == member))).all()
        return len(self._waits.release(connection, rows, [OVER] * len(rows)))

    # -- handling one

    def members(self, delivery: str) -> list[tuple[str, Encoded | Bad]] | None:
        """Return the others in a leader's batch with their events, in the order of the log; None for no leader."""
        name, number = STEP
        own = select(steps.c.name).where(steps.c.delivery == delivery, steps.c.name == name, steps.c.number == number)
        query = (
            select(deliveries.c.id, deliveries.c.event_id, events.c.body)
            .join(waits, waits.c.delivery == deliveries.c.id)
            .join(events, events.c.id == deliveries.c.event_id)
            .where(_led_by(delivery), deliveries.c.outcome == Outcome.PARKED.value)
            .order_by(events.c.tx, events.c.seq)
        )
        with self._database.reading() as connection:
            if connection.execute(own).first() is None:
                return None
            rows = connection.execute(query).all()
        return [(row.id, read(row.event_id, row.body)) for row in rows]

    def release(self, leader: str, member: str) -> None:
        """Take a delivery out of a batch: it goes on by itself."""
        self._database.run(partial(self._let_go, leader=leader, member=member))

    def expel(self, leader: str, member: str, *, error: str, traceback: str | None = None) -> None:
        """Let a delivery of a batch be dead, and the others go on."""

        def work(connection: Connection) -> None:
            mine = [id for id in self.lock(connection, leader) if id == member]
            self._die(connection, mine, 1, error, traceback)

        self._database.run(work)

    # -- its end

    def lock(self, connection: Connection, leader: str) -> list[str]:
        """Return those that end with a leader, until the transaction ends; nobody stops them meanwhile."""
        query = select(waits.c.delivery).where(_led_by(leader)).order_by(waits.c.delivery).with_for_update()
        return list(connection.execute(query).scalars())

    def succeed(self, connection: Connection, members: Sequence[str], attempt: int) -> None:
        """Record that deliveries have succeeded with their leader."""
        self._deliveries.end_members(connection, members, Outcome.SUCCEEDED, attempt)
        self._forget(connection, members)

    def dying(
        self,
        run: Run,
        leader: str,
        attempt: int,
        error: str,
        traceback: str,
        work: Callable[[Connection], bool],
    ) -> bool:
        """Record that a leader is dead, and with it all that are in its batch.

        Arguments:
            run: what runs the transaction.
            work: records it of the leader; says whether it was not so before.

        """

        def whole(connection: Connection) -> bool:
            members = self.lock(connection, leader)
            is_new = work(connection)
            if is_new:
                self._die(connection, members, attempt, error, traceback)
            return is_new

        return run(whole)

    def _die(
        self, connection: Connection, members: Sequence[str], attempt: int, error: str, traceback: str | None
    ) -> None:
        how = {"error": error, "traceback": traceback}
        self._announce(connection, self._deliveries.end_members(connection, members, Outcome.DEAD, attempt, **how))
        self._forget(connection, members)

    def _forget(self, connection: Connection, ids: Sequence[str]) -> None:
        for some in chunks(ids):
            self._waits.forget(connection, some)


def _led_by(leader: str) -> Any:
    return and_(waits.c.kind == MEMBER, waits.c.key == leader)
