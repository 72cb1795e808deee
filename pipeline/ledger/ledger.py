"""What is written on an event's way: appended and sent, claimed and recorded. Each method is one short transaction."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import orjson
from sqlalchemy import Connection, delete, select

from ..core.announcements import ANNOUNCEMENTS
from ..core.errors import LedgerError, LedgerUnavailable, nearest
from ..core.event import Event
from ..core.outcome import Outcome
from ..core.times import SECOND, now
from .database.database import Database
from .database.fast import Hot
from .database.rows import DEAD_AFTER, Record, chunks, event_row, join_row, timer_row, unrouted_row, wants
from .database.statements import Statements
from .database.tables import agents, deliveries, events, joins, meta, outbox, timers

#: What the statements of the hot path are run on: in a transaction of their own, or in somebody's.
Executes = Connection | Hot
_AGENTS = select(agents.c.name, agents.c.patterns)
#: Seconds for which the list of agents is believed; a publisher asks the ledger for it no more often.
AGENTS_FRESH = 1.0


class Claim(NamedTuple):
    """The answer to claim(): the attempt to make now, or what the inbox knows about the delivery.

    Attributes:
        attempt: 1 for the first; 0 when the handler is not to be run.
        outcome: RUNNING with an attempt, else what the delivery is already.
        result: what a chord's member returned, as JSON.
        emitted: the number of events that a finished delivery emitted.

    """

    attempt: int
    outcome: Outcome
    result: str | None = None
    emitted: int = 0


class AlreadyRecordedError(Exception):
    """Another run of the same delivery was recorded first; this one takes no effect."""


class Ledger:
    """The durable log of events and deliveries, in one SQL database."""

    def __init__(self, url: str, *, timeout: float = 5.0) -> None:
        """Take the address (see Database); nothing is opened before it is used."""
        self.database = Database(url, timeout=timeout)
        self._statements = Statements(self.database)
        self._id = (0, "")
        self._patterns: dict[str, tuple[str, ...]] = {}
        self._routes: dict[str, bool] = {}
        self._asked = 0.0

    def __str__(self) -> str:
        """Return the address without its password."""
        return str(self.database)

    @property
    def id(self) -> str:
        """The ledger's own id: messages carry it, so that a worker knows whether its ledger has the event."""
        self.database.check()
        if self._id[0] != self.database.opened:
            self._id = (self.database.opened, self.database.read(self.id_in))
        return self._id[1]

    @staticmethod
    def id_in(connection: Connection) -> str:
        """Return the id of the ledger that a connection is on."""
        return str(connection.execute(select(meta.c.value).where(meta.c.name == "id")).scalar_one())

    def close(self) -> None:
        """Close idle connections; the next use opens new ones."""
        self.database.close()

    # -- publishing

    def append(self, records: Sequence[Record], *, due: int | None, connection: Connection | None = None) -> None:
        """Write events into the log, and into the outbox.

        Arguments:
            due: when the relay sends them if nobody did before; None leaves the outbox alone.
            connection: the caller's own transaction, which is neither committed nor rolled back here.

        """
        if connection is not None:
            self.write_events(connection, records, due)
        else:
            self.database.run_hot(lambda own: self.write_events(own, records, due))

    def write_events(self, connection: Executes, records: Sequence[Record], due: int | None) -> None:
        """Do what append() says in a transaction that is open."""
        if not records:
            return
        at = now()
        connection.execute(self._statements.event, [event_row(record, at) for record in records])
        if due is not None:
            connection.execute(self._statements.outbox, [{"event_id": r.event.id, "due": due} for r in records])
        unrouted = [r.event for r in records if r.replay is None and not self._has_reader(r.event, connection)]
        if unrouted:
            connection.execute(self._statements.delivery, [unrouted_row(event.id, at) for event in unrouted])

    def mark_sent(self, ids: Iterable[str]) -> None:
        """Take events out of the outbox: the broker has them."""
        wanted = list(ids)
        if len(wanted) == 1:
            row = {"event_id": wanted[0]}
            self.database.run_hot(lambda own: own.execute(self._statements.sent, row).fetchone(), alone=True)
        else:
            self.database.run(lambda connection: _delete_in(connection, outbox, outbox.c.event_id, wanted))

    def _has_reader(self, event: Event, connection: Executes) -> bool:
        # The bus's own announcements are there for whoever wants them.
        return event.type.startswith(ANNOUNCEMENTS) or self.is_routed(event, connection)

    def is_routed(self, event: Event, connection: Executes) -> bool:
        """Say whether any agent is known that listens to the event."""
        patterns = self.known_agents(connection)
        if event.targets:
            return any(wants(patterns.get(name, ()), event.type) for name in event.targets)
        known = self._routes.get(event.type)
        if known is None:
            known = self._routes[event.type] = any(wants(one, event.type) for one in patterns.values())
        return known

    def known_agents(self, connection: Executes, *, fresh: bool = False) -> dict[str, tuple[str, ...]]:
        """Return every agent's patterns, as the ledger knew them at most AGENTS_FRESH seconds ago."""
        if fresh or time.monotonic() - self._asked > AGENTS_FRESH:
            self._patterns = read_agents(connection)
            self._routes = {}
            self._asked = time.monotonic()
        return self._patterns

    def unknown_agents(self, names: Sequence[str], connection: Connection) -> str:
        """Return what to tell somebody who named agents that have never run; nothing when all are known."""
        known = self.known_agents(connection)
        if any(name not in known for name in names):
            known = self.known_agents(connection, fresh=True)
        return "; ".join(f"no agent is called {name!r}; {nearest(name, known)}" for name in names if name not in known)

    def add_timers(self, connection: Executes, rows: list[dict[str, Any]]) -> None:
        """Write timers; one that exists gets the new due time and the new event."""
        if rows:
            connection.execute(self._statements.timer, rows)

    def cancel(self, id: str) -> bool:
        """Delete a delayed event that is not due yet; say whether there was one."""
        statement = delete(timers).where(timers.c.id == id, timers.c.kind == "publish")
        return bool(self.database.run(lambda connection: connection.execute(statement).rowcount))

    # -- delivering

    def claim(
        self,
        delivery: str,
        event: Event,
        agent: str,
        *,
        worker: str,
        expected: int | None = None,
        replay: str | None = None,
        broadcast: bool = True,
        redelivered: bool = False,
        body: bytes | None = None,
    ) -> Claim:
        """Count an attempt and return its number, or say why there is none to make.

        Arguments:
            expected: the attempt that the message was sent for; None for the event's own message.
            broadcast: whether a replayed delivery sends what it emits.
            redelivered: whether the broker had given the message to a worker before.
            body: the encoded event when the ledger may not have it: it was published by another program.

        """
        at = now()
        row: dict[str, Any] = {
            "id": delivery,
            "event_id": event.id,
            "agent": agent,
            "outcome": Outcome.RUNNING.value,
            "attempts": 1,
            "started": at,
            "worker": worker,
            "process": os.getpid(),
            "gone": None,
            "replay": replay,
            "broadcast": broadcast,
            "expected": -1 if expected is None else expected - 1,
            "redelivered": redelivered,
            "alive": at - round(DEAD_AFTER * SECOND),
        }

        def work(connection: Hot) -> Claim:
            if body is not None:
                connection.execute(self._statements.event, [event_row(Record(event, body), at)])
            return self._claim(connection, row)

        return self.database.run_hot(work, alone=body is None)

    def _claim(self, connection: Hot, row: dict[str, Any]) -> Claim:
        claimed = connection.execute(self._statements.claim, row).fetchone()
        if claimed is not None:
            return Claim(claimed[0], Outcome.RUNNING)
        known = connection.execute(self._statements.inbox, {"id": row["id"]}).fetchone()
        if known is None:
            raise LedgerUnavailable(f"delivery {row['id']} was pruned from {self} while it was claimed")
        outcome, result, emitted, worker, process = known
        mine = outcome == Outcome.RUNNING and worker == row["worker"]
        if mine and row["gone"] is None and is_gone(process):
            # Celery gives to another process what one has died of before it could say that it had begun.
            return self._claim(connection, {**row, "gone": process})
        return Claim(0, Outcome(outcome), result, emitted)

    def succeed(
        self,
        delivery: str,
        emitted: Sequence[Record],
        delayed: list[dict[str, Any]],
        *,
        started_joins: Sequence[dict[str, Any]] = (),
        due: int | None,
        result: str | None = None,
        first: bool = False,
        connection: Connection | None = None,
    ) -> None:
        """Record a success with everything that it emitted.

        Arguments:
            delayed: timers of the events that are due later.
            first: whether this is the first attempt, which has no timer to clear away.
            connection: the handler's own transaction; default a new one.

        Raises AlreadyRecordedError when another run of the delivery was recorded first.

        """
        done = {"key": delivery, "ended": now(), "emitted": len(emitted), "result": result}

        def work(connection: Executes) -> None:
            if connection.execute(self._statements.succeed, done).fetchone() is None:
                self._expect_claim(connection, delivery)
                raise AlreadyRecordedError
            if not first:
                connection.execute(self._statements.timer_gone, {"timer": delivery})
            self.write_events(connection, emitted, due)
            self.add_timers(connection, delayed)
            if started_joins:
                connection.execute(self._statements.join, list(started_joins))

        if connection is not None:
            work(connection)
        else:
            self.database.run_hot(work, alone=first and not (emitted or delayed or started_joins))

    def again(self, delivery: str, event: Event, attempt: int, *, delay: float, error: str, timer: bool) -> bool:
        """Record a failed attempt that is followed by another one; say whether it was the delivery's last one.

        Arguments:
            delay: seconds until the next attempt.
            timer: whether the next attempt is to be sent from here.

        """
        due = now() + round(delay * SECOND)
        row = {"key": delivery, "attempt": attempt, "due": due, "error": error}

        def work(connection: Connection) -> bool:
            if not connection.execute(self._statements.again, row).rowcount:
                self._expect_claim(connection, delivery)
                return False
            if timer:
                self.add_timers(connection, [timer_row(delivery, "retry", due, event.correlation_id)])
            return True

        return self.database.run(work)

    def die(
        self, delivery: str, attempt: int | None, announced: Sequence[Record], *, error: str, traceback: str, due: int
    ) -> bool:
        """Record that a delivery is dead, with the events that announce it; say whether it was not so before."""
        row = {"key": delivery, "ended": now(), "error": error, "traceback": traceback}

        def work(connection: Connection) -> bool:
            statement = self._statements.die
            if attempt is not None:
                statement = statement.where(deliveries.c.attempts == attempt)
            if not connection.execute(statement, row).rowcount:
                self._expect_claim(connection, delivery)
                return False
            self.write_events(connection, announced, due)
            return True

        return self.database.run(work)

    def _expect_claim(self, connection: Executes, delivery: str) -> None:
        """Raise LedgerError when a claim is gone: PostgreSQL has crashed before it was on disk."""
        if connection.execute(self._statements.inbox, {"id": delivery}).fetchone() is None:
            raise LedgerError(f"the ledger {self} has lost the claim of delivery {delivery}")

    def state(self, delivery: str) -> tuple[Outcome | None, int]:
        """Return a delivery's outcome and the number of its attempts; None and 0 when it was never claimed."""
        wanted = select(deliveries.c.outcome, deliveries.c.attempts).where(deliveries.c.id == delivery)
        row = self.database.read(lambda connection: connection.execute(wanted).first())
        return (Outcome(row.outcome), row.attempts) if row else (None, 0)

    def unsent(self, ids: Sequence[str]) -> list[Event]:
        """Return those of some events that are still in the outbox."""
        wanted = select(events.c.body).join(outbox, outbox.c.event_id == events.c.id).where(events.c.id.in_(ids))
        return self.database.read(lambda connection: [Event.decode(body) for (body,) in connection.execute(wanted)])

    def end_join(self, id: str, records: Sequence[Record], due: int) -> None:
        """Record that a join has published its event."""
        cause = records[0].event
        row = join_row(id, "", cause.causation_id or "", cause.correlation_id) | {"ended": now()}

        def work(connection: Connection) -> None:
            # The members may be done before the delivery that started them is recorded.
            insert = self.database.insert(joins).on_conflict_do_update(
                index_elements=["id"], set_={"ended": row["ended"]}
            )
            connection.execute(insert, row)
            self.write_events(connection, records, due)

        self.database.run(work)


def read_agents(connection: Executes) -> dict[str, tuple[str, ...]]:
    """Return the patterns of every agent that the ledger knows."""
    return {name: tuple(orjson.loads(patterns)) for name, patterns in connection.execute(_AGENTS).fetchall()}


def is_gone(process: int | None) -> bool:
    """Say whether a process of this machine has ended."""
    if process is None or process == os.getpid():
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return False


def _delete_in(connection: Connection, table: Any, column: Any, values: Sequence[Any]) -> None:
    for some in chunks(values):
        connection.execute(delete(table).where(column.in_(some)))
