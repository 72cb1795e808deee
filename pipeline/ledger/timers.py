"""Timers: delayed events and retries, kept until they are due. Several workers may ask for them at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import Connection, Row, and_, bindparam, delete, select, update

from ..core.event import Encoded
from ..core.outcome import Outcome
from ..core.times import now
from .aside import Bad, SetAside, read_all
from .database.database import Database
from .database.fast import Statement, run_all
from .database.leases import BATCH, in_seconds, lease_from, locked
from .database.rows import chunks
from .database.statements import Statements
from .database.tables import timers
from .due import Due, Message
from .events import Events

#: Ledger.append().
Append = Callable[..., object]
#: A delayed event, whose id the timer has; a delivery that is to be tried again, likewise.
PUBLISH, RETRY = "publish", "retry"
#: Where delayed events are set aside that cannot be published.
TIMERS = "timers"


class Timers:
    """The timers' table."""

    def __init__(
        self, database: Database, statements: Statements, append: Append, due: Due, aside: SetAside, events: Events
    ) -> None:
        self._database = database
        self._aside = aside
        self._statements = statements
        self._append = append
        self._events = events
        self._due = due

    def add(self, rows: Sequence[dict[str, Any]], connection: Connection | None = None) -> None:
        """Write timers; one that exists gets the new due time and the new event.

        Arguments:
            connection: a transaction that is open; default one of its own.

        """
        if connection is None:
            self._database.run(lambda own: run_all(own, self.statements(rows)))
        else:
            run_all(connection, self.statements(rows))

    def delay(self, record: Encoded, timer: dict[str, Any], connection: Connection | None = None) -> None:
        """Keep an event until it is due; the same event again gets the new due time.

        Arguments:
            timer: its timer's row.
            connection: the caller's own transaction; default a new one.

        Raises IdTaken where the log, or a timer, has another event with the id.

        """

        def work(own: Connection) -> None:
            self._events.check_same([record], own)
            # Whoever is setting a timer with the id in another transaction is waited for: the first one has the id.
            if own.execute(self._statements.timer_new, timer).first() is None:
                self._events.check_delayed(record, own)
                self.add([timer], own)

        self._database.run(work) if connection is None else work(connection)

    def statements(self, rows: Sequence[dict[str, Any]], over: Sequence[str] = ()) -> list[Statement]:
        """Return what has to be run for timers to be there.

        Arguments:
            over: deliveries whose retries are not to come any more.

        """
        statements: list[Statement] = []
        if over:
            statements.append((self._statements.timer_gone, [{"timer": delivery} for delivery in over]))
        return [*statements, (self._statements.timer, rows)] if rows else statements

    def cancel(self, id: str) -> bool:
        """Delete a delayed event that is not due yet; say whether there was one."""
        statement = delete(timers).where(timers.c.id == id, timers.c.kind == PUBLISH)
        return bool(self._database.run(lambda connection: connection.execute(statement).rowcount))

    # -- when they are due

    def take(self, grace: float, limit: int = BATCH) -> tuple[list[Encoded], list[Message], int]:
        """Take what is due: delayed events, which move to the log and the outbox, and retries.

        Arguments:
            grace: seconds that the caller has to send the events, before the relay does.

        Returns the events, the retries, and the lease that finish() wants. A delayed event that cannot be read, or that
        the database refuses, is set aside.

        """
        at = now()
        lease = lease_from(at)
        due = select(timers.c.id, timers.c.kind, timers.c.body).where(timers.c.due <= at).order_by(timers.c.due)

        def work(connection: Connection) -> tuple[list[Encoded], list[Message]]:
            rows = connection.execute(locked(due.limit(limit))).all()
            delayed = self._publish([row for row in rows if row.kind != RETRY], grace, connection)
            retry_ids = [id for id, kind, _ in rows if kind == RETRY]
            for some in chunks(retry_ids):
                connection.execute(update(timers).where(timers.c.id.in_(some)).values(due=lease))
            retries = self._due.messages(connection, retry_ids, (Outcome.RETRYING,))
            _delete(connection, list({*retry_ids} - {message.id for message in retries}))
            return delayed, retries

        return (*self._database.run(work), lease)

    def _publish(self, rows: Sequence[Row[Any]], grace: float, connection: Connection) -> list[Encoded]:
        """Move delayed events to the log and the outbox."""
        good, unreadable = read_all((row.id, row.body) for row in rows if row.kind == PUBLISH)
        unknown = [Bad(row.id, f"kind: {row.kind!r} is no kind of timer") for row in rows if row.kind != PUBLISH]

        def append(records: Sequence[Encoded]) -> None:
            self._append(records, due_in=grace, connection=connection, checked=True)

        items = [(record.event.key, record) for record in good]
        delayed, refused = self._aside.apart(connection, items, append)
        bodies = {row.id: row.body for row in rows}
        bad = (Bad(one.id, one.reason, bodies[one.id]) for one in (*unreadable, *refused, *unknown))
        self._aside.put(connection, TIMERS, bad)
        _delete(connection, list(bodies))
        return delayed

    def finish(self, ids: Sequence[str], lease: int) -> None:
        """Delete retries that were sent, unless they were set anew meanwhile."""
        statement = delete(timers).where(timers.c.id == bindparam("timer"), timers.c.due == lease)
        rows = [{"timer": id} for id in ids]
        if rows:
            self._database.run(lambda connection: connection.execute(statement, rows))

    def release(self, ids: Sequence[str], lease: int, seconds: float) -> None:
        """Let retries that could not be sent be due again in some seconds."""
        again = in_seconds(seconds)

        def work(connection: Connection) -> None:
            for some in chunks(ids):
                mine = and_(timers.c.id.in_(some), timers.c.due == lease)
                connection.execute(update(timers).where(mine).values(due=again))

        self._database.run(work)


def _delete(connection: Connection, ids: Sequence[str]) -> None:
    for some in chunks(ids):
        connection.execute(delete(timers).where(timers.c.id.in_(some)))
