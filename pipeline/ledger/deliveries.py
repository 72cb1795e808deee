"""What may become of a delivery: every transition, each one statement. Nothing else writes the deliveries' table.

    queued ---claim---> running ---+--> succeeded     filtered (or before any claim)
       ^                           +--> retrying --(its timer)--> claim
       |                           +--> parked --release--> queued      no attempt spent, no slot and no worker held
       |                           +--> dead ---> dropped
       +---- requeue --------------------'
    cancelled: its tree was stopped     late: what it is a member of has ended     unrouted: no agent listens

What else is written together with a transition, `Ledger` says; what is claimed and how, claim_with().
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from operator import itemgetter
from typing import Any

from sqlalchemy import Connection, and_, bindparam, case, delete, func, literal_column, select, update

from ..core.errors import LedgerError
from ..core.ids import delivery_id
from ..core.observe import Log
from ..core.outcome import STOPPED, Outcome
from ..core.times import SECOND, now
from .aside import Bad, printable
from .database.database import Database
from .database.fast import Single, Statement
from .database.leases import clock
from .database.rows import chunks, unrouted_id, unrouted_row
from .database.statements import RUNNER, blank_steps, claim_with, drop_reservations, drop_steps, keyed_with, relaxed
from .database.tables import OPEN, deliveries
from .facts import Delivery, Success
from .workers import process_number

logger = Log(logging.getLogger(__name__))

_QUEUED, _RUNNING, _RETRYING = Outcome.QUEUED.value, Outcome.RUNNING.value, Outcome.RETRYING.value
_PARKED = Outcome.PARKED.value
#: What no success is recorded over: it has ended, or waits since a later run than the one that has succeeded.
_OVER = tuple(outcome.value for outcome in (Outcome.SUCCEEDED, Outcome.PARKED, Outcome.LATE, Outcome.CANCELLED))
#: As literals: SQLite takes a partial index only for the index's own condition.
DEAD = and_(deliveries.c.outcome == Outcome.DEAD.value, OPEN)
UNROUTED = deliveries.c.outcome == literal_column(f"'{Outcome.UNROUTED.value}'")


class Deliveries:
    """The deliveries' table, and all that changes it."""

    def __init__(self, database: Database) -> None:
        self._database = database
        make = database.insert
        self.insert, self.keyed = make(deliveries).on_conflict_do_nothing(), keyed_with(make(deliveries))
        made = (deliveries.c[name] for name in ("attempts", "emitted", "outcome"))
        self._claim = claim_with(make(deliveries)).returning(*made, *relaxed(database))
        known = (deliveries.c[name] for name in ("outcome", "result", "emitted", *RUNNER))
        self._known = select(*known).where(deliveries.c.id == bindparam("id"))
        mine = deliveries.c.id == bindparam("key")
        running = and_(mine, deliveries.c.outcome == _RUNNING)
        this_attempt = and_(running, deliveries.c.attempts == bindparam("attempt"))
        not_yet = and_(mine, deliveries.c.outcome.not_in([literal_column(f"'{outcome}'") for outcome in _OVER]))
        unspent = {"attempts": deliveries.c.attempts - 1}
        succeed = _to(Outcome.SUCCEEDED, "ended", "emitted", "result", error=None, traceback=None).where(not_yet)
        self._succeed = succeed.returning(deliveries.c.id)
        self._again = _to(Outcome.RETRYING, "due", "error", waits=None).where(this_attempt)
        self._pause = _to(Outcome.RETRYING, "due", "error", **unspent).where(this_attempt)
        self._park = _to(Outcome.PARKED, "due", "error", "emitted", **unspent).where(this_attempt)
        self._filter = _to(Outcome.FILTERED, "ended", "error", **unspent).where(this_attempt)
        row, waits = make(deliveries), deliveries.c.outcome == _QUEUED
        new = {name: row.excluded[name] for name in ("outcome", "started", "ended", "error")}
        self._pass_by = row.on_conflict_do_update(index_elements=["id"], set_=new, where=waits)
        new = {name: row.excluded[name] for name in ("outcome", "started", "due", "error")}
        hand_over = row.on_conflict_do_update(index_elements=["id"], set_=new, where=waits)
        self._hand_over = hand_over.returning(deliveries.c.id)
        self._die = _to(Outcome.DEAD, "ended", "error", "traceback").where(running)

    # -- one delivery, by who has it in hand

    def claiming(self, delivery: Delivery, worker: str, at: int, gone: int | None = None) -> Single:
        """Return what counts an attempt: it answers with its number, and with nothing where there is none to make.

        Of a tree that was stopped it answers that the delivery is cancelled, unless somebody has asked for a replay.

        Arguments:
            worker: who runs it.
            at: the time of the claim (microseconds): repeated after a lost answer, it is the same claim.
            gone: the process of that worker that is known to have died in an attempt.

        """
        event = delivery.event
        tree = (event.correlation_id, event.causation_id, event.key) if delivery.replay is None else (None, None, None)
        return self._claim, {
            "id": delivery.id,
            "event_id": event.key,
            "agent": delivery.agent,
            "tree": tree[0],
            "cause": tree[1],
            "own": tree[2],
            "attempts": 1,
            "started": at,
            "worker": worker,
            "process": process_number(os.getpid()),
            "gone": gone,
            "message": delivery.message,
            "replay": delivery.replay,
            "broadcast": delivery.broadcast,
            "expected": -1 if delivery.expected is None else delivery.expected - 1,
            "redelivered": delivery.redelivered,
        }

    def known(self, id: str) -> Statement:
        """Return what asks for a delivery: outcome, result, number of events emitted, its worker and its process."""
        return self._known, {"id": id}

    def success(self, one: Success, at: int) -> Single:
        """Return what records a success at a time (microseconds): it answers unless another run was recorded first."""
        emitted = one.before + len(one.emitted)
        return self._succeed, {"key": one.delivery, "ended": at, "emitted": emitted, "result": one.result}

    def again(self, connection: Connection, id: str, attempt: int, *, due: int, error: str) -> bool:
        """Record a failed attempt, and when the next is to be queued (microseconds); say if it was the last one."""
        return self._recorded(connection, self._again, id, attempt=attempt, due=due, error=error)

    def pause(self, connection: Connection, id: str, attempt: int, *, due: int, reason: str | None = None) -> bool:
        """Record that the handler is to be called later, and that this attempt does not count."""
        return self._recorded(connection, self._pause, id, attempt=attempt, due=due, error=reason)

    def park(
        self, connection: Connection, id: str, attempt: int, *, due: int | None, reason: str, emitted: int
    ) -> bool:
        """Record that the delivery waits for something, and that this attempt does not count.

        Arguments:
            due: when it is released in any case (microseconds).
            emitted: how many events it has emitted so far.

        """
        return self._recorded(connection, self._park, id, attempt=attempt, due=due, error=reason, emitted=emitted)

    def unpark(self, connection: Connection, ids: Sequence[str]) -> list[str]:
        """Let parked deliveries be sent to their queues with the next sweep; return those that were parked."""
        found: list[str] = []
        for some in chunks(ids):
            parked = and_(deliveries.c.id.in_(some), deliveries.c.outcome == _PARKED)
            free = update(deliveries).where(parked).values(outcome=_QUEUED, due=0, error=None)
            found += connection.execute(free.returning(deliveries.c.id)).scalars()
        return found

    def waited(self, id: str) -> float:
        """Return for how many seconds a delivery has waited for a worker that reads it; from now on it does."""
        row, at = deliveries.c, now()
        since = update(deliveries).where(row.id == id).values(waits=func.coalesce(row.waits, at)).returning(row.waits)
        return (at - (self._database.run(lambda connection: connection.execute(since).scalar()) or at)) / SECOND

    def filter(self, connection: Connection, id: str, attempt: int, reason: str | None = None) -> bool:
        """Record that the agent does not want the event after all; the handler was not called."""
        return self._recorded(connection, self._filter, id, attempt=attempt, ended=now(), error=reason)

    def pass_by(self, connection: Connection, rows: Sequence[dict[str, Any]]) -> None:
        """Record that agents do not want events (id, event_id, agent, replay, broadcast, error), before any claim."""
        passed = {"outcome": Outcome.FILTERED.value, "started": now(), "ended": now()}
        connection.execute(self._pass_by, [{**row, **passed} for row in sorted(rows, key=itemgetter("id"))])

    def pass_queued(self, connection: Connection, ids: Sequence[str], reason: str) -> None:
        """Record that agents do not want events, of deliveries that wait; of others there is nothing to record."""
        passed = {"outcome": Outcome.FILTERED.value, "started": now(), "ended": now(), "error": reason}
        self._set_all(connection, ids, passed, deliveries.c.outcome == _QUEUED)

    def hand_over(self, connection: Connection, rows: Sequence[dict[str, Any]], due: int) -> set[str]:
        """Let events (as for pass_by()) wait for another version of their agents; return those that nobody has yet.

        Arguments:
            due: when they are to be in the queue again (microseconds).

        """
        handed = {"outcome": _RETRYING, "started": now(), "due": due}
        rows = [{**row, **handed} for row in sorted(rows, key=itemgetter("id"))]
        return {id for row in rows for id in connection.execute(self._hand_over, row).scalars()}

    def die(self, connection: Connection, id: str, attempt: int | None, *, error: str, traceback: str) -> bool:
        """Record that a delivery is dead; say whether it was not so before.

        Arguments:
            attempt: the attempt that failed; None for whatever runs.

        """
        statement = self._die if attempt is None else self._die.where(deliveries.c.attempts == attempt)
        return self._recorded(connection, statement, id, ended=now(), error=error, traceback=traceback)

    def _recorded(self, connection: Connection, statement: Any, id: str, **row: Any) -> bool:
        if connection.execute(statement, {"key": id, **row}).rowcount:
            return True
        self.expect_claim(connection, id)
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

    def add_queued(self, connection: Connection, queued: Iterable[tuple[str, str, int]]) -> None:
        """Add deliveries that should be in their queues; one that a worker claims at this moment is not missing.

        Arguments:
            queued: for each the event's id, the agent, and since when (microseconds; with 0 the next sweep sends it).

        """
        rows = [
            {"id": delivery_id(event, agent), "event_id": event, "agent": agent, "outcome": _QUEUED, "due": due}
            for event, agent, due in queued
        ]
        if rows:
            # In the order of groups' claims: else each could wait for the other.
            connection.execute(self.insert, sorted(rows, key=itemgetter("id")))

    def unrouted(self, event_ids: Iterable[str], at: int) -> Statement:
        """Return what notes that no agent listens to some events; what is noted already stays as it is."""
        return self.insert, [unrouted_row(id, at) for id in event_ids]

    def forget_unrouted(self, connection: Connection, event_ids: Sequence[str]) -> None:
        """Take that note back: an agent has come after all."""
        for some in chunks([unrouted_id(id) for id in event_ids]):
            connection.execute(delete(deliveries).where(deliveries.c.id.in_(some)))

    def take_unrouted(self, connection: Connection, event_ids: Sequence[str]) -> list[str]:
        """Take that note back for events, and return those that had it: of two who do this at once, one gets each."""
        marked = delete(deliveries).where(deliveries.c.event_id.in_(event_ids), UNROUTED)
        return list(connection.execute(marked.returning(deliveries.c.event_id)).scalars())

    def requeue(self, connection: Connection, ids: Sequence[str], body: bytes | None = None) -> None:
        """Let dead deliveries wait again, with all their attempts; `body` is the event as it was edited for them."""
        values: dict[str, Any] = {"outcome": _QUEUED, "due": now(), "attempts": 0}
        values["requeued"] = deliveries.c.requeued + 1
        values |= dict.fromkeys(("ended", "worker", "error", "traceback", "waits"))
        if body is not None:
            values["body"] = body.decode()
        self._set(connection, deliveries.c.id.in_(ids), values)
        drop_reservations(connection, ids)

    def drop(self, connection: Connection, ids: Sequence[str]) -> None:
        """Decide that dead deliveries are not to be handled."""
        self._set(connection, deliveries.c.id.in_(ids), {"outcome": Outcome.DROPPED.value})

    # -- of batches

    def wait_on(self, connection: Connection, ids: Sequence[str], reason: str) -> None:
        """Note what parked deliveries wait for from now on, without a time at which that ends."""
        self._set_all(connection, ids, {"error": reason, "due": None}, deliveries.c.outcome == _PARKED)

    def end_members(
        self, connection: Connection, ids: Sequence[str], outcome: Outcome, attempt: int, **why: str | None
    ) -> list[str]:
        """Record that parked deliveries have ended as the one that was made for them, too; return which were parked."""
        values = {"outcome": outcome.value, "ended": now(), "due": None, "attempts": attempt, "error": None, **why}
        found: list[str] = []
        for some in chunks(ids):
            ended = update(deliveries).where(deliveries.c.id.in_(some), deliveries.c.outcome == _PARKED).values(values)
            found += connection.execute(ended.returning(deliveries.c.id)).scalars()
        return found

    def supersede(self, connection: Connection, ids: Sequence[str], reason: str) -> None:
        """Record that another event took the place of some, whose handlers were not called."""
        begun = case((deliveries.c.outcome == _RUNNING, deliveries.c.attempts - 1), else_=deliveries.c.attempts)
        values = {"outcome": Outcome.FILTERED.value, "ended": now(), "due": None, "error": reason, "attempts": begun}
        self._set(connection, and_(deliveries.c.id.in_(sorted(ids)), OPEN, ~DEAD), values)

    # -- of trees that are stopped

    def cancel(
        self, connection: Connection, ids: Sequence[str], reason: str, outcome: Outcome = Outcome.CANCELLED
    ) -> list[Any]:
        """Stop deliveries that have not ended; return them as they were: id, outcome and worker."""
        query = select(deliveries.c.id, deliveries.c.outcome, deliveries.c.worker).order_by(deliveries.c.id)
        found: list[Any] = []
        for some in chunks(sorted(ids)):
            found += connection.execute(query.where(deliveries.c.id.in_(some), OPEN, ~DEAD).with_for_update()).all()
        values = {"outcome": outcome.value, "ended": now(), "error": reason, **dict.fromkeys(("due", "traceback"))}
        values["process"] = case((deliveries.c.outcome == _RUNNING, deliveries.c.process), else_=None)
        self._set_all(connection, [row.id for row in found], values)
        return found

    def end_run(self, connection: Connection, id: str) -> None:
        """Note of a delivery that was stopped while its handler ran that this has ended."""
        stopped = deliveries.c.outcome.in_([outcome.value for outcome in STOPPED])
        self._set(connection, and_(deliveries.c.id == id, stopped), {"process": None})

    def late(self, connection: Connection, id: str) -> None:
        """Note of a delivery that has succeeded that the flow which it is a step of had ended before."""
        self._set(connection, deliveries.c.id == id, {"outcome": Outcome.LATE.value, "process": None})

    def add_cancelled(self, connection: Connection, missing: Iterable[tuple[str, str]], reason: str) -> None:
        """Stop what is still on its way to its agents.

        Arguments:
            missing: for each the event's id, and the agent.

        """
        stopped = {"outcome": Outcome.CANCELLED.value, "started": now(), "ended": now(), "error": reason}
        rows = [{"id": delivery_id(id, agent), "event_id": id, "agent": agent, **stopped} for id, agent in missing]
        if rows:
            connection.execute(self.insert, sorted(rows, key=itemgetter("id")))

    def refuse(self, connection: Connection, id: str, reason: str) -> None:
        """Note why a claim was refused, which has counted an attempt."""
        row = deliveries.c
        mine = and_(row.id == id, row.outcome == Outcome.CANCELLED.value, row.ended.is_(None))
        values = {"attempts": row.attempts - 1, "ended": now(), **dict.fromkeys(("due", "process"))}
        self._set(connection, mine, {**values, "error": reason})

    # -- of what is to be forgotten

    def erase(self, connection: Connection, event_ids: Sequence[str]) -> int:
        """Blank what the deliveries of some events say about their data; return how many deliveries those events have.

        Their outcomes and times stay. A dead letter is dropped: its agent could not do anything with it any more.
        """
        row = deliveries.c
        outcome = case((row.outcome == Outcome.DEAD.value, Outcome.DROPPED.value), else_=row.outcome)
        error, blank = case((row.error.is_(None), None), else_="erased"), dict.fromkeys(("traceback", "result", "body"))
        erased = update(deliveries).values(outcome=outcome, error=error, **blank)
        blank_steps(connection, event_ids)
        return sum(connection.execute(erased.where(row.event_id.in_(some))).rowcount for some in chunks(event_ids))

    def prune(self, connection: Connection, ids: Sequence[str]) -> int:
        """Delete deliveries with their steps, and return how many there were."""
        drop_steps(connection, ids)
        gone = delete(deliveries)
        return sum(connection.execute(gone.where(deliveries.c.id.in_(some))).rowcount for some in chunks(ids))

    def restore(self, connection: Connection, rows: Sequence[dict[str, Any]]) -> None:
        """Add deliveries as an archive has them."""
        if rows:
            connection.execute(self.insert, list(rows))

    @staticmethod
    def _set(connection: Connection, which: Any, values: Mapping[str, Any]) -> None:
        connection.execute(update(deliveries).where(which).values(values))

    def _set_all(self, connection: Connection, ids: Sequence[str], values: Mapping[str, Any], *which: Any) -> None:
        for some in chunks(ids):
            self._set(connection, and_(deliveries.c.id.in_(some), *which), values)

    # -- on their way to their agents once more

    def send_again(self, connection: Connection, ids: Sequence[str]) -> None:
        """Note that deliveries are sent to their queues now; of one that ran, the worker is dead."""
        row = deliveries.c
        queued = case((row.outcome == _RUNNING, _QUEUED), else_=row.outcome)
        due = case((row.outcome == _RETRYING, now()), else_=-clock())
        self._set_all(connection, ids, {"outcome": queued, "due": due})  # whoever gets the message may run it

    def sent(self, connection: Connection, ids: Sequence[str]) -> None:
        """Note that the broker has what send_again() was about; until then the time of that is kept as a negative."""
        self._set_all(connection, ids, {"due": now()}, deliveries.c.due < 0)

    def release(self, worker: str, pid: int) -> None:
        """Let attempts not count that ran in a process of a worker which has died: they are made again."""
        known = deliveries.c
        there = and_(known.outcome == _RUNNING, known.worker == worker, known.process.bitwise_and(0xFFFFFFFF) == pid)
        free = update(deliveries).where(there).values(outcome=_QUEUED, attempts=known.attempts - 1, due=now())

        def work(connection: Connection) -> None:
            drop_reservations(connection, connection.execute(free.returning(known.id)).scalars().all())

        self._database.run(work)

    def ask_again(self, connection: Connection, ids: Sequence[str]) -> None:
        """Let deliveries that could not be sent be sent with the next sweep."""
        self._set_all(connection, ids, {"due": 0}, deliveries.c.outcome == _QUEUED)

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
        self._set_all(connection, ids, gone, deliveries.c.outcome != Outcome.DEAD.value)


def _to(outcome: Outcome, *names: str, **fixed: Any) -> Any:
    """Return the update that gives a delivery an outcome, and the named columns what is given when it is run."""
    return update(deliveries).values(outcome=outcome.value, **fixed, **{name: bindparam(name) for name in names})
