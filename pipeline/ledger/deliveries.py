"""What may become of a delivery: every transition, each one statement. Nothing else writes the deliveries' table.

    waiting ---claim---> running ---+--> succeeded     filtered
       ^                            +--> retrying --(its timer)--> claim
       |                            +--> dead ---> dropped
       +---- requeue ---------------------'
    unrouted: no agent listens to the event

What else is written together with a transition, `Ledger` says; what is claimed and how, the statement below.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from operator import itemgetter
from typing import Any, NamedTuple

from sqlalchemy import Boolean, Connection, and_, bindparam, case, delete, literal_column, or_, select, update

from ..core.errors import LedgerError
from ..core.event import Encoded, Event
from ..core.ids import delivery_id
from ..core.observe import Log
from ..core.outcome import Outcome
from ..core.retry import Retry
from ..core.times import SECOND, now
from .aside import Bad, printable
from .database.database import Database
from .database.fast import Single, Statement
from .database.rows import DEAD_AFTER, Write, chunks, unrouted_id, unrouted_row
from .database.statements import relaxed
from .database.tables import OPEN, deliveries, workers
from .workers import process_number

logger = Log(logging.getLogger(__name__))

#: Who runs a delivery.
RUNNER = ("worker", "process")
DEFAULT_RETRY = Retry()
_WAITING, _RUNNING, _RETRYING = Outcome.WAITING.value, Outcome.RUNNING.value, Outcome.RETRYING.value
#: As literals: SQLite takes a partial index only for the index's own condition.
DEAD = and_(deliveries.c.outcome == Outcome.DEAD.value, OPEN)
UNROUTED = deliveries.c.outcome == literal_column(f"'{Outcome.UNROUTED.value}'")


class Claim(NamedTuple):
    """The answer to a claim: the attempt to make now, or what the inbox knows about the delivery.

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


class Delivery(NamedTuple):
    """One delivery as its message describes it, and its agent.

    Attributes:
        agent: the agent's name.
        source: the CloudEvents source of the events that the agent emits.
        retry: the agent's policy.
        expected: the attempt that a retry's message was sent for; None for the event's own message.
        broadcast: whether a replayed delivery sends what it emits.
        logged: whether the ledger has the event; else it was published by another program.
        redelivered: whether the broker had given the message to a worker before.
        in_canvas: whether a chord or chain waits for what the handler returns.
        retries: how often Celery has tried it before.
        wanted: whether this version of the agent listens to the event's type, or is named by its targets.
        asked: whether somebody has asked for this very delivery (a replay, a requeued dead letter).
        handed: how often workers whose version does not want it have handed it on, without a ledger.

    """

    id: str
    event: Event
    agent: str
    source: str = ""
    retry: Retry = DEFAULT_RETRY
    expected: int | None = None
    replay: str | None = None
    broadcast: bool = True
    logged: bool = True
    redelivered: bool = False
    in_canvas: bool = False
    retries: int = 0
    wanted: bool = True
    asked: bool = False
    handed: int = 0


class Success(NamedTuple):
    """A delivery that has succeeded, and everything that it leaves behind.

    Attributes:
        delivery: its id.
        emitted: events that are sent now.
        later: timers of the events that are due later.
        rows: what else is written with them.
        due_in: seconds after which the relay sends what nobody has sent; None for what is only recorded.
        result: what a chord's member returned, as JSON.
        first: whether this is the first attempt, which has no timer to clear away.

    """

    delivery: str
    emitted: Sequence[Encoded] = ()
    later: Sequence[dict[str, Any]] = ()
    rows: Sequence[Write] = ()
    due_in: float | None = None
    result: str | None = None
    first: bool = False


class AlreadyRecordedError(Exception):
    """Another run of the same delivery was recorded first; this one takes no effect."""


class Deliveries:
    """The deliveries' table, and all that changes it."""

    def __init__(self, database: Database) -> None:
        self._database = database
        make = database.insert
        self._insert = make(deliveries).on_conflict_do_nothing()
        self._claim = _claim(make(deliveries)).returning(deliveries.c.attempts, *relaxed(database))
        self._known = select(*(deliveries.c[name] for name in ("outcome", "result", "emitted", *RUNNER))).where(
            deliveries.c.id == bindparam("id")
        )
        mine = deliveries.c.id == bindparam("key")
        running = and_(mine, deliveries.c.outcome == _RUNNING)
        this_attempt = and_(running, deliveries.c.attempts == bindparam("attempt"))
        not_yet = and_(mine, deliveries.c.outcome != Outcome.SUCCEEDED.value)
        unspent = {"attempts": deliveries.c.attempts - 1}
        succeed = _to(Outcome.SUCCEEDED, "ended", "emitted", "result", error=None, traceback=None).where(not_yet)
        self._succeed = succeed.returning(deliveries.c.id)
        self._again = _to(Outcome.RETRYING, "due", "error").where(this_attempt)
        self._pause = _to(Outcome.RETRYING, "due", "error", **unspent).where(this_attempt)
        self._filter = _to(Outcome.FILTERED, "ended", "error", **unspent).where(this_attempt)
        self._die = _to(Outcome.DEAD, "ended", "error", "traceback").where(running)

    # -- one delivery, by who has it in hand

    def claiming(self, delivery: Delivery, worker: str, at: int, gone: int | None = None) -> Single:
        """Return what counts an attempt: it answers with its number, and with nothing where there is none to make.

        Arguments:
            worker: who runs it.
            at: the time of the claim (microseconds): repeated after a lost answer, it is the same claim.
            gone: the process of that worker that is known to have died in an attempt.

        """
        return self._claim, {
            "id": delivery.id,
            "event_id": delivery.event.key,
            "agent": delivery.agent,
            "outcome": _RUNNING,
            "attempts": 1,
            "started": at,
            "worker": worker,
            "process": process_number(os.getpid()),
            "gone": gone,
            "replay": delivery.replay,
            "broadcast": delivery.broadcast,
            "expected": -1 if delivery.expected is None else delivery.expected - 1,
            "redelivered": delivery.redelivered,
            "alive": at - round(DEAD_AFTER * SECOND),
        }

    def known(self, id: str) -> Statement:
        """Return what asks for a delivery: outcome, result, number of events emitted, its worker and its process."""
        return self._known, {"id": id}

    def success(self, one: Success, at: int) -> Single:
        """Return what records a success at a time (microseconds): it answers unless another run was recorded first."""
        return self._succeed, {"key": one.delivery, "ended": at, "emitted": len(one.emitted), "result": one.result}

    def again(self, connection: Connection, id: str, attempt: int, *, due: int, error: str) -> bool:
        """Record a failed attempt that is followed by another one; say whether it was the delivery's last one.

        Arguments:
            due: when the next attempt is to be in the queue (microseconds).

        """
        return self._recorded(connection, self._again, {"key": id, "attempt": attempt, "due": due, "error": error})

    def pause(self, connection: Connection, id: str, attempt: int, *, due: int, reason: str | None = None) -> bool:
        """Record that the handler is to be called later, and that this attempt does not count."""
        return self._recorded(connection, self._pause, {"key": id, "attempt": attempt, "due": due, "error": reason})

    def filter(self, connection: Connection, id: str, attempt: int, reason: str | None = None) -> bool:
        """Record that the agent does not want the event after all; the handler was not called."""
        row = {"key": id, "attempt": attempt, "ended": now(), "error": reason}
        return self._recorded(connection, self._filter, row)

    def die(self, connection: Connection, id: str, attempt: int | None, *, error: str, traceback: str) -> bool:
        """Record that a delivery is dead; say whether it was not so before.

        Arguments:
            attempt: the attempt that failed; None for whatever runs.

        """
        statement = self._die if attempt is None else self._die.where(deliveries.c.attempts == attempt)
        return self._recorded(
            connection, statement, {"key": id, "ended": now(), "error": error, "traceback": traceback}
        )

    def _recorded(self, connection: Connection, statement: Any, row: Mapping[str, Any]) -> bool:
        if connection.execute(statement, row).rowcount:
            return True
        self.expect_claim(connection, row["key"])
        return False

    def expect_claim(self, connection: Connection, id: str) -> None:
        """Raise LedgerError when a claim is gone: PostgreSQL has crashed before it was on disk."""
        if connection.execute(self._known, {"id": id}).fetchone() is None:
            raise LedgerError(f"the ledger {self._database} has lost the claim of delivery {id}")

    def state(self, id: str) -> tuple[Outcome | None, int]:
        """Return a delivery's outcome and the number of its attempts; None and 0 when it was never claimed."""
        query = select(deliveries.c.outcome, deliveries.c.attempts).where(deliveries.c.id == id)
        row = self._database.read(lambda connection: connection.execute(query).first())
        return (Outcome(row.outcome), row.attempts) if row else (None, 0)

    # -- those that nobody has in hand

    def add_waiting(self, connection: Connection, waiting: Iterable[tuple[str, str, int]]) -> None:
        """Add deliveries that should be in their queues; one that a worker claims at this moment is not missing.

        Arguments:
            waiting: for each the event's id, the agent, and since when (microseconds; with 0 the next sweep sends it).

        """
        rows = [
            {"id": delivery_id(event, agent), "event_id": event, "agent": agent, "outcome": _WAITING, "due": due}
            for event, agent, due in waiting
        ]
        if rows:
            # In the order of groups' claims: else each could wait for the other.
            connection.execute(self._insert, sorted(rows, key=itemgetter("id")))

    def unrouted(self, event_ids: Iterable[str], at: int) -> Statement:
        """Return what notes that no agent listens to some events; what is noted already stays as it is."""
        return self._insert, [unrouted_row(id, at) for id in event_ids]

    def forget_unrouted(self, connection: Connection, event_ids: Sequence[str]) -> None:
        """Take that note back: an agent has come after all."""
        for some in chunks([unrouted_id(id) for id in event_ids]):
            connection.execute(delete(deliveries).where(deliveries.c.id.in_(some)))

    def take_unrouted(self, connection: Connection, event_ids: Sequence[str]) -> list[str]:
        """Take that note back for events, and return those that had it: of two who do this at once, one gets each."""
        marked = delete(deliveries).where(deliveries.c.event_id.in_(event_ids), UNROUTED)
        return list(connection.execute(marked.returning(deliveries.c.event_id)).scalars())

    def requeue(self, connection: Connection, ids: Sequence[str], body: bytes | None = None) -> None:
        """Let dead deliveries wait again, with all their attempts before them.

        Arguments:
            body: the event as somebody has edited it for them.

        """
        values: dict[str, Any] = {"outcome": _WAITING, "due": now(), "attempts": 0}
        values["requeued"] = deliveries.c.requeued + 1
        values |= dict.fromkeys(("ended", "worker", "error", "traceback"))
        if body is not None:
            values["body"] = body.decode()
        self._set(connection, deliveries.c.id.in_(ids), values)

    def drop(self, connection: Connection, ids: Sequence[str]) -> None:
        """Decide that dead deliveries are not to be handled."""
        self._set(connection, deliveries.c.id.in_(ids), {"outcome": Outcome.DROPPED.value})

    def erase(self, connection: Connection, event_ids: Sequence[str]) -> int:
        """Blank what the deliveries of some events say about their data; return how many deliveries those events have.

        Their outcomes and times stay. A dead letter is dropped: its agent could not do anything with it any more.
        """
        known = deliveries.c
        values = {
            "outcome": case((known.outcome == Outcome.DEAD.value, Outcome.DROPPED.value), else_=known.outcome),
            "error": case((known.error.is_(None), None), else_="erased"),
            **dict.fromkeys(("traceback", "result", "body")),
        }
        erased = update(deliveries).values(values)
        return sum(connection.execute(erased.where(known.event_id.in_(some))).rowcount for some in chunks(event_ids))

    def prune(self, connection: Connection, ids: Sequence[str]) -> int:
        """Delete deliveries, and return how many there were."""
        return sum(
            connection.execute(delete(deliveries).where(deliveries.c.id.in_(some))).rowcount for some in chunks(ids)
        )

    def restore(self, connection: Connection, rows: Sequence[dict[str, Any]]) -> None:
        """Add deliveries as an archive has them."""
        if rows:
            connection.execute(self._insert, list(rows))

    @staticmethod
    def _set(connection: Connection, which: Any, values: Mapping[str, Any]) -> None:
        connection.execute(update(deliveries).where(which).values(values))

    # -- on their way to their agents once more

    def send_again(self, connection: Connection, ids: Sequence[str]) -> None:
        """Note that deliveries are sent to their queues now; of one that ran, the worker is dead."""
        for some in chunks(ids):
            running = and_(deliveries.c.id.in_(some), deliveries.c.outcome == _RUNNING)
            self._set(connection, running, {"outcome": _WAITING})  # whoever gets the message may run it
            self._set(connection, deliveries.c.id.in_(some), {"due": now()})

    def release(self, worker: str, pid: int) -> None:
        """Let attempts not count that ran in a process of a worker which has died: they are made again."""
        known = deliveries.c
        there = and_(known.outcome == _RUNNING, known.worker == worker, known.process.bitwise_and(0xFFFFFFFF) == pid)
        free = update(deliveries).where(there).values(outcome=_WAITING, attempts=known.attempts - 1, due=now())
        self._database.run(lambda connection: connection.execute(free))

    def ask_again(self, connection: Connection, ids: Sequence[str]) -> None:
        """Let deliveries that could not be sent be sent with the next sweep."""
        for some in chunks(ids):
            self._set(connection, and_(deliveries.c.id.in_(some), deliveries.c.outcome == _WAITING), {"due": 0})

    def bury(self, connection: Connection, bad: Iterable[Bad]) -> list[str]:
        """Let deliveries be dead that cannot be sent to their agents; return those that were not so before."""
        dead_now = []
        for id, reason, _ in bad:
            text = printable(reason)
            dead = {"outcome": Outcome.DEAD.value, "ended": now(), "error": text, "traceback": None}
            if connection.execute(update(deliveries).where(deliveries.c.id == id, OPEN, ~DEAD).values(dead)).rowcount:
                logger.error("delivery %s is dead (%s); see `pipeline dead show`", id, text)
                dead_now.append(id)
        return dead_now

    def drop_pruned(self, connection: Connection, ids: Sequence[str]) -> None:
        """Drop deliveries whose event is no longer in the log: there is nothing to send."""
        gone = {"outcome": Outcome.DROPPED.value, "ended": now(), "error": "the ledger no longer has the event"}
        for some in chunks(ids):
            self._set(connection, and_(deliveries.c.id.in_(some), deliveries.c.outcome != Outcome.DEAD.value), gone)


#: Waits, and is to be sent with the next sweep.
AT_ONCE = and_(deliveries.c.outcome == _WAITING, deliveries.c.due == 0)


def _to(outcome: Outcome, *names: str, **fixed: Any) -> Any:
    """Return the update that gives a delivery an outcome, and the named columns what is given when it is run."""
    return update(deliveries).values(outcome=outcome.value, **fixed, **{name: bindparam(name) for name in names})


def _claim(statement: Any) -> Any:
    names = ("id", "event_id", "agent", "outcome", "attempts", "started", *RUNNER, "replay", "broadcast")
    claim = statement.values({name: bindparam(name) for name in names})
    row = deliveries.c
    # The database has taken this very claim, and its answer was lost: nobody runs it yet.
    unanswered = and_(
        row.outcome == _RUNNING, row.started == claim.excluded.started, row.worker == claim.excluded.worker
    )
    # Not EXISTS: inside ON CONFLICT nothing ties its subquery to the row in question.
    alive = select(workers.c.id).where(workers.c.seen > bindparam("alive"))
    return claim.on_conflict_do_update(
        index_elements=["id"],
        set_={
            "attempts": case((unanswered, row.attempts), else_=row.attempts + 1),
            **{name: claim.excluded[name] for name in ("outcome", "started", *RUNNER)},
        },
        where=or_(
            unanswered,
            row.outcome == _WAITING,
            # Its worker or process has died; a second copy of a message whose handler still runs is none of ours.
            and_(
                row.outcome == _RUNNING,
                or_(
                    bindparam("redelivered", type_=Boolean),
                    row.worker.not_in(alive),
                    and_(row.worker == claim.excluded.worker, row.process == bindparam("gone")),
                ),
            ),
            # A retry's message is good for that one attempt only.
            and_(row.outcome == _RETRYING, row.attempts == bindparam("expected")),
        ),
    )
