"""Parking and releasing: a delivery that waits leaves its worker, and comes back when what it waits for has come.

Whoever releases a delivery takes its wait away first: of two that would, one does, and an old reason ends no new wait.
What is released is due at once, and the next sweep sends it, whoever has released it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import orjson
from sqlalchemy import Connection, Row, and_, case, delete, select

from ...core.limits.single import QUIET
from ...core.times import SECOND, now
from ..database.leases import BATCH, locked
from ..database.tables import events, flows
from ..database.waiting import approvals, batches, waits
from ..log import Position, end_of_log
from .approval import PENDING
from .wait import APPROVAL, EVENT, FLOW, GATHERS, OVER, TIME, Parking, Wait, waited_for

if TYPE_CHECKING:
    from ..database.database import Database
    from ..deliveries import Deliveries
    from ..facts import Delivery
    from ..timers import Timers
    from .steps import Steps


class Waits:
    """The table of waits: parking, and releasing by time or by whoever knows the reason."""

    def __init__(
        self,
        database: Database,
        deliveries: Deliveries,
        steps: Steps,
        timers: Timers,
        append: Callable[..., object],
    ) -> None:
        self._database = database
        self._deliveries = deliveries
        self._steps = steps
        self._timers = timers
        self._append = append
        gather = database.insert(batches)
        number, known, new = batches.c.gathered + 1, batches.c.due, gather.excluded
        first = case((known < new.due, known), else_=new.due)
        counted = {"gathered": number, "most": new.most, "due": case((number >= new.most, 0), else_=first)}
        self._gather = gather.on_conflict_do_update(index_elements=["key"], set_=counted)

    def park(self, parking: Parking, run: Callable[[Callable[[Connection], bool]], bool] | None = None) -> bool:
        """Record that a delivery waits, with what it has emitted; say whether the attempt was its last one.

        Arguments:
            run: what runs the transaction, and may do more in it; default the database.

        """
        return (run or self._database.run)(lambda connection: self.park_in(connection, parking))

    def park_in(self, connection: Connection, parking: Parking) -> bool:
        """Do what park() does, in somebody's transaction."""
        delivery, wait = parking.delivery, parking.wait
        recorded = self._deliveries.park(
            connection, delivery.id, parking.attempt, due=wait.due, reason=wait.reason, emitted=parking.total
        )
        if recorded:
            self._append(parking.emitted, due_in=parking.due_in, rows=parking.rows, connection=connection)
            self._timers.add(parking.later, connection)
            self.add(connection, delivery, wait)
        return recorded

    def add(self, connection: Connection, delivery: Delivery, wait: Wait) -> None:
        """Write what a delivery waits for that is parked in the same transaction."""
        tx, seq = self._start(connection, delivery, wait) if wait.kind == EVENT else wait.after or (0, 0)
        if wait.kind == APPROVAL and not _is_pending(connection, wait.key):
            wait = wait._replace(due=now())  # it was decided while nobody waited for that
        if wait.kind == FLOW and _has_ended(connection, wait.key):
            wait = wait._replace(due=now())  # likewise
        row = {
            "delivery": delivery.id,
            **{name: getattr(wait, name) for name in ("name", "number", "kind", "key")},
            **{name: getattr(wait, name) for name in ("correlation", "condition", "due")},
            "since": now(),
            "tx": tx,
            "seq": seq,
            "looked": wait.kind != EVENT,
        }
        insert = self._database.insert(waits)
        new = {name: insert.excluded[name] for name in row if name != "delivery"}
        connection.execute(insert.on_conflict_do_update(index_elements=["delivery"], set_=new), row)
        if wait.kind == GATHERS:
            # The last statement of its transaction: those who gather at once wait for each other here.
            gathered = {"key": wait.key, "most": wait.most, "gathered": 1, "due": wait.due}
            connection.execute(self._gather, gathered)

    def _start(self, connection: Connection, delivery: Delivery, wait: Wait) -> Position:
        """Return the place in the log after which an event has to come."""
        if wait.after is not None:
            return wait.after
        if wait.back is None:
            own = select(events.c.tx, events.c.seq).where(events.c.id == delivery.event.key)
            found = connection.execute(own).first()
            return (found.tx, found.seq) if found else end_of_log(self._database, connection)
        if wait.back == 0:
            return end_of_log(self._database, connection)
        begin = now() - round(wait.back * SECOND)
        query = select(events.c.tx, events.c.seq).where(events.c.time >= begin)
        # The first in the log, as publishers' clocks differ; with + 0 no database reads the log from its begin for it.
        first = connection.execute(query.order_by(events.c.tx + 0, events.c.seq).limit(1)).first()
        return (first.tx, first.seq - 1) if first else end_of_log(self._database, connection)

    # -- releasing

    def release(
        self, connection: Connection, found: Sequence[Row[Any]], results: Sequence[str], event_id: str | None = None
    ) -> list[str]:
        """Let deliveries go on whose waits are these rows; return those that had waited until now.

        Arguments:
            results: what each wait has come to, as JSON.
            event_id: the event that they have come to.

        """
        free: dict[str, dict[str, Any]] = {}
        for row, result in sorted(zip(found, results, strict=True), key=lambda pair: str(pair[0].delivery)):
            mine = and_(waits.c.delivery == row.delivery, waits.c.since == row.since)
            if connection.execute(delete(waits).where(mine)).rowcount:
                free[row.delivery] = {
                    "delivery": row.delivery,
                    "name": row.name,
                    "number": row.number,
                    "started": row.since,
                    "result": result,
                    "event_id": event_id,
                }
        released = self._deliveries.unpark(connection, list(free))
        self._steps.end(connection, [free[id] for id in released if free[id]["name"] is not None])
        return released

    def release_due(self, limit: int = BATCH) -> int:
        """Let deliveries go on whose waits end now; to those for events, and to batches, others see."""
        over = and_(waits.c.due <= now(), waits.c.kind.not_in((EVENT, GATHERS)))
        query = select(waits).where(over).order_by(waits.c.due).limit(limit)

        def work(connection: Connection) -> int:
            rows = connection.execute(locked(query)).all()
            return len(self.release(connection, rows, [_come_to(row) for row in rows]))

        return self._database.run(work)

    def forget(self, connection: Connection, ids: Sequence[str]) -> None:
        """Take the waits of deliveries away that do not wait any more."""
        connection.execute(delete(waits).where(waits.c.delivery.in_(ids)))

    def of(self, id: str) -> Row[Any] | None:
        """Return what a delivery waits for; None when it does not."""
        return self._database.read(lambda connection: connection.execute(_of(id)).first())


def _is_pending(connection: Connection, id: str) -> bool:
    """Say whether nobody has decided; whoever is about to waits for the wait then, and lets it go on."""
    status = select(approvals.c.status).where(approvals.c.id == id).with_for_update()
    return connection.execute(status).scalar() == PENDING


def _has_ended(connection: Connection, id: str) -> bool:
    """Say whether a flow has ended; whoever is about to end it waits for the wait then, and lets it go on."""
    ended = select(flows.c.ended).where(flows.c.id == id).with_for_update()
    return connection.execute(ended).scalar() is not None


def _come_to(row: Row[Any]) -> str:
    """Return the result of a wait whose time has come."""
    if row.kind == FLOW:  # which had ended before it was waited for
        return waited_for(row.key)
    return OVER if row.kind in (TIME, QUIET) else timed_out(row.due)


def _of(id: str) -> Any:
    return select(waits).where(waits.c.delivery == id)


def keys_of(connection: Connection, kind: str) -> list[str]:
    """Return what is waited for: each key is found by one look into the index, however many wait for it."""
    keys: list[str] = []
    while True:
        beyond = select(waits.c.key).where(waits.c.kind == kind, waits.c.key > (keys[-1] if keys else ""))
        key = connection.execute(beyond.order_by(waits.c.key).limit(1)).scalar()
        if key is None:
            return keys
        keys.append(str(key))


def timed_out(due: int) -> str:
    """Return the result of a wait that has ended without what it was for."""
    return orjson.dumps({"timeout": due}).decode()
