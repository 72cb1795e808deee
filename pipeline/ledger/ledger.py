"""The ledger: its parts, and what is written on a delivery's way, each in one short transaction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import Any, Unpack

from sqlalchemy import Connection, select

from ..core.errors import LedgerError, LedgerUnavailable
from ..core.event import Encoded, Event
from ..core.ids import Seal
from ..core.outcome import Outcome
from ..core.times import SECOND, now
from .aside import SetAside
from .bounding.waiting import Waiting
from .database.database import Database
from .database.fast import Hot, Statement, completed, run_all, together
from .database.migrate import prepare, prepare_in
from .database.rows import Write, timer_row
from .database.statements import Statements
from .database.tables import meta
from .deliveries import Deliveries
from .due import Due
from .events import Events
from .facts import AlreadyRecordedError, Claim, Delivery, How, MayFollowError, Run, Success
from .limits.limits import Limits
from .notices.notices import Notices
from .reconcile import Reconciliation
from .subscribers import Subscribers, Wants
from .subscribing.subscriptions import Subscriptions
from .timers import RETRY, Timers
from .waiting.approvals import PROPOSED
from .workers import Workers, is_gone

__all__ = ["AlreadyRecordedError", "Claim", "Delivery", "Ledger"]


class Ledger:
    """The durable log of events and deliveries, in one SQL database.

    Attributes:
        events: the log and the outbox.
        deliveries: every transition of a delivery.
        due: what is to be sent, now or once more.
        timers: delayed events and retries.
        subscribers: the agents that have ever run.
        subscriptions: those of them that stand in the ledger instead of in code.
        workers: those that live.
        aside: what could not be used.
        reconciliation: what should have reached an agent and did not.
        waiting: parked deliveries, and what they wait for.
        limits: what is counted over all workers.
        notices: what handlers say while they work.

    """

    def __init__(self, url: str, *, timeout: float = 5.0, wants: Wants = lambda *_: True) -> None:
        """Take the address (see Database), and what asks agents' filters; nothing is opened before it is used."""
        self.database = Database(url, timeout=timeout, prepare=prepare)
        self._statements = statements = Statements(self.database)
        self._sealed: tuple[int, Seal | None] = (0, None)
        self.workers = Workers(self.database, self.append)
        self.subscribers = Subscribers(self.database, self.workers, wants)
        self.deliveries = Deliveries(self.database)
        statements.member, statements.keyed = self.deliveries.insert, self.deliveries.keyed
        self.due = Due(self.database, self.deliveries, lambda: self.seal, self.append, wants)
        self.aside = SetAside(self.database)
        self.events = Events(self.database, statements, self.aside)
        self.timers = Timers(self.database, statements, self.append, self.due, self.aside, self.events)
        self.limits = Limits(self.database, self.deliveries)
        self.notices = Notices(self.database)
        parts = (self.deliveries, self.timers, self.due, self.subscribers, self.append, lambda: self.secret)
        self.waiting = Waiting(self.database, statements, *parts)
        self.reconciliation = Reconciliation(self.database, self.deliveries, self.aside, self.subscribers)
        own = (self.database, self.subscribers, self.deliveries, self.due, self.reconciliation)
        self.subscriptions = Subscriptions(*own)

    def __str__(self) -> str:
        """Return the address without its password."""
        return str(self.database)

    @property
    def id(self) -> str:
        """The ledger's own id: messages carry it, so that a worker knows whether its ledger has the event."""
        return self.seal.ledger

    @property
    def seal(self) -> Seal:
        """What signs the bus's messages, read once; a ledger that was made anew has another one."""
        if not self.database.fast.is_checked(lately=True):
            self.database.check()
        opened, seal = self._sealed
        if seal is None or opened != self.database.opened:
            seal = self.database.read(self._seal_in)
            self._sealed = (self.database.opened, seal)
            vars(self).pop("secret", None)
        return seal

    @cached_property
    def secret(self) -> bytes:
        """What the ids of emitted events are derived with."""
        return self.seal.secret

    def _seal_in(self, connection: Connection) -> Seal:
        facts = {row.name: row.value for row in connection.execute(select(meta))}
        if "secret" not in facts:
            raise LedgerError(f"the ledger {self} has no secret to sign messages with: run `pipeline ledger upgrade`")
        return Seal(facts["id"], bytes.fromhex(facts["secret"]))

    @staticmethod
    def id_in(connection: Connection) -> str:
        """Return the id of the ledger that a connection is on."""
        return str(connection.execute(select(meta.c.value).where(meta.c.name == "id")).scalar_one())

    def is_begun_in(self, connection: Connection) -> bool:
        """Say whether a transaction is the ledger's first user, on SQLite; then it gets the tables that are missing.

        It holds the file's one write lock, so the ledger could not be opened beside it.
        """
        return not self.database.opened and self.database.is_locked_by(connection) and prepare_in(connection)

    def close(self) -> None:
        """Close idle connections; the next use opens new ones."""
        self.database.close()

    # -- publishing

    def append(
        self,
        records: Sequence[Encoded],
        *,
        due_in: float | None,
        rows: Sequence[Write] = (),
        sent: Sequence[str] = (),
        connection: Connection | None = None,
        checked: bool = False,
    ) -> list[Event]:
        """Write events into the log, and into the outbox; an event that the log has already is not written again.

        Returns those that nobody listens to.

        Arguments:
            due_in: seconds after which the relay sends them if nobody did before; None leaves the outbox alone.
            rows: what is written with them.
            sent: ids of events that leave the outbox with that: the broker has them.
            connection: the caller's own transaction, which is neither committed nor rolled back here.
            checked: raise IdTaken where the log has another event with the id.

        """
        missed = self._missed(records, connection)
        statements = self._appending(records, now(), due_in, rows, missed)
        if not statements:
            return []
        if sent:
            statements.append(self.events.gone(sent))
        taken = partial(self.events.check_same, records) if checked and records else None
        if connection is None:
            self.database.fast.all(statements, taken)
        else:
            run_all(self.database.fast.on(connection), statements, taken)
        return missed

    def _missed(self, records: Sequence[Encoded], connection: Connection | None = None) -> list[Event]:
        return [r.event for r in records if r.replay is None and self.subscribers.miss(r.event, connection)]

    def _appending(
        self,
        records: Sequence[Encoded],
        at: int,
        due_in: float | None,
        rows: Sequence[Write],
        missed: Sequence[Event],
    ) -> list[Statement]:
        statements: list[Statement] = []
        if records:
            due = None if due_in is None else at + round(due_in * SECOND)
            statements += self.events.appended(records, at, due)
            if proposals := [record for record in records if record.event.type == PROPOSED]:
                statements += self.waiting.approvals.proposed(proposals, at)
            if missed:
                statements.append(self.deliveries.unrouted([event.key for event in missed], at))
        return [*statements, *self._statements.of(rows)] if rows else statements

    def mark_sent(self, ids: Sequence[str]) -> None:
        """Take events out of the outbox: the broker has them."""
        if len(ids) == 1:
            self.database.fast.one(self.events.sent(ids[0]))
        else:
            self.events.forget(ids)

    # -- a delivery, by who has it in hand

    def claim(self, delivery: Delivery, *, worker: str) -> Claim:
        """Count an attempt and return its number, or say why there is none to make.

        Arguments:
            worker: who runs it.

        Raises IdTaken when another program's event has source and id of one that the log has, and says something else.

        """
        at = now()
        claiming = self.deliveries.claiming(delivery, worker, at)
        if delivery.logged:
            claimed = self.database.fast.one(claiming)
        else:  # another program has published the event
            records = [Encoded(delivery.event, delivery.event.encode())]
            logging = self._appending(records, at, None, (), self._missed(records))
            claimed = self.database.fast.last(logging, claiming, partial(self.events.check_same, records))
        return self._made(delivery, claimed) if claimed is not None else self._known(delivery, worker, at)

    def claim_all(self, deliveries: Sequence[Delivery], *, worker: str) -> list[Claim | Exception]:
        """Claim deliveries in one transaction; return for each what claim() would return or raise.

        Outside of it, alone, is claimed what the broker had given to a worker before, another program's event, and a
        second copy; so is each delivery where the database refuses one of them. Raises LedgerUnavailable when the
        transaction was in vain.
        """
        at = now()
        first: dict[str, int] = {}
        for place, delivery in enumerate(deliveries):
            first.setdefault(delivery.id, place)
        ordinary = {p: id for id, p in first.items() if deliveries[p].logged and not deliveries[p].redelivered}

        def claim(places: Sequence[int]) -> list[Any]:
            return self.database.fast.each([self.deliveries.claiming(deliveries[p], worker, at) for p in places])

        answers = together(ordinary, claim)

        def alone(place: int) -> Claim:
            if place in answers:
                return self._known(deliveries[place], worker, at)
            return self.claim(deliveries[place], worker=worker)

        found = {place: self._made(deliveries[place], row) for place, row in answers.items() if row is not None}
        return completed(found, len(deliveries), alone)

    def _made(self, delivery: Delivery, row: Sequence[Any]) -> Claim:
        """Return the claim that the database has answered with; of a tree that was stopped, note why it is none."""
        if row[2] == Outcome.RUNNING.value:
            return Claim(row[0], Outcome.RUNNING, emitted=row[1])
        return self.waiting.trees.made(delivery, row)

    def _known(self, delivery: Delivery, worker: str, at: int) -> Claim:
        """Return what the inbox knows, or the attempt that is to be made because a process of this worker has died."""
        row = self.database.fast.one(self.deliveries.known(delivery.id))
        if row is None:
            raise LedgerUnavailable(f"delivery {delivery.id} was pruned from {self} while it was claimed")
        outcome, result, emitted, runner, process = row
        # Celery gives to another process what one has died of before it could say that it had begun.
        if outcome == Outcome.RUNNING.value and runner == worker and is_gone(process):
            claiming = self.deliveries.claiming(delivery, worker, at, gone=process)
            if (claimed := self.database.fast.one(claiming)) is not None:
                return self._made(delivery, claimed)
        if outcome == Outcome.CANCELLED.value:  # whoever was refused may have died before it could note why
            self.waiting.trees.refused(delivery)
        return Claim(0, Outcome(outcome), result, emitted)

    def succeed(self, success: Success, connection: Connection | None = None) -> None:
        """Record a success with everything that it leaves behind.

        Arguments:
            connection: the handler's own transaction, or one that moves its flow on; default a new one.

        Raises AlreadyRecordedError when another run of the delivery was recorded first, and MayFollowError for a step
        with which its flow may move on, and which no connection is given for.

        """
        at = now()
        first = self.deliveries.success(success, at)
        missed = self._missed(success.emitted, connection) if success.emitted else ()
        others = self._left_behind([success], at, missed)
        if connection is None:
            before = None if success.flow is None else self.waiting.flows.counting(success.flow)
            recorded = self.database.fast.all_if(first, others, before)
            if before is not None and not recorded:
                raise MayFollowError
        else:
            lent = self.database.fast.on(connection)
            if recorded := lent.execute(*first).fetchone() is not None:
                run_all(lent, others)
        if not recorded:
            self._raise_unrecorded(success)

    def succeed_all(self, successes: Sequence[Success]) -> list[Exception | None]:
        """Record successes with all that they leave behind, in one transaction; return what succeed() would raise.

        Of one that is not recorded nothing is written, and all of the others. Where the database refuses one of them,
        each has a transaction of its own. Raises LedgerUnavailable when the transaction was in vain.
        """
        at, flows = now(), self.waiting.flows
        missed = self._missed([record for success in successes for record in success.emitted])

        def record(places: Sequence[int]) -> list[Any]:
            steps = {place: flow for place in places if (flow := successes[place].flow) is not None}

            def work(connection: Hot) -> list[Any]:
                alone = flows.count_all(connection, steps) if steps else ()
                some = [place for place in places if place not in alone]
                first = [self.deliveries.success(successes[place], at) for place in some]
                answers = dict(zip(some, connection.answers(first) if first else (), strict=True))
                if steps:
                    flows.count_back(connection, steps, [p for p in steps.keys() - alone if answers[p] is None])
                recorded = sorted(place for place, row in answers.items() if row is not None)
                run_all(connection, self._left_behind([successes[place] for place in recorded], at, missed))
                return [answers.get(place) for place in places]

            return self.database.fast.run(work)

        answers = together({place: success.delivery for place, success in enumerate(successes)}, record)

        def alone(place: int) -> None:
            if place in answers and successes[place].flow is None:
                self._raise_unrecorded(successes[place])
            self.succeed(successes[place])

        return completed({place: None for place, row in answers.items() if row is not None}, len(successes), alone)

    def _left_behind(self, successes: Sequence[Success], at: int, missed: Sequence[Event]) -> list[Statement]:
        """Return what has to be run for what successes leave behind to be there.

        Arguments:
            missed: the events that nobody listens to, among those that any of them has emitted.

        """
        statements: list[Statement] = []
        unheard = {event.key for event in missed}
        for due_in in dict.fromkeys(success.due_in for success in successes if success.emitted or success.rows):
            some = [success for success in successes if success.due_in == due_in]
            emitted = [record for success in some for record in success.emitted]
            rows = [row for success in some for row in success.rows]
            heard_by_none = [record.event for record in emitted if record.event.key in unheard]
            statements += self._appending(emitted, at, due_in, rows, heard_by_none)
        later = [row for success in successes for row in success.later]
        retried = [success.delivery for success in successes if not success.first]
        return [*statements, *self.timers.statements(later, retried)] if later or retried else statements

    def _raise_unrecorded(self, success: Success) -> None:
        """Raise AlreadyRecordedError, or LedgerError when there is no claim that it could have been recorded for."""
        self.database.read(lambda own: self.deliveries.expect_claim(own, success.delivery))
        raise AlreadyRecordedError

    def again(self, delivery: str, event: Event, attempt: int, *, error: str, **how: Unpack[How]) -> bool:
        """Record a failed attempt that is followed by another one; say whether it was the delivery's last one."""
        return self._later(partial(self.deliveries.again, error=error), delivery, event, attempt, **how)

    def pause(
        self, delivery: str, event: Event, attempt: int, *, reason: str | None = None, **how: Unpack[How]
    ) -> bool:
        """Record that the handler is to be called in some seconds, and why; say whether it was the last attempt."""
        return self._later(partial(self.deliveries.pause, reason=reason), delivery, event, attempt, **how)

    def _later(
        self,
        record: Callable[..., bool],
        delivery: str,
        event: Event,
        attempt: int,
        *,
        delay: float,
        timer: bool,
        run: Run | None = None,
    ) -> bool:
        due = now() + round(delay * SECOND)

        def work(connection: Connection) -> bool:
            recorded = record(connection, delivery, attempt, due=due)
            if recorded and timer:
                self.timers.add([timer_row(delivery, RETRY, due, event.correlation_id)], connection)
            return recorded

        return (run or self.database.run)(work)

    def die(
        self,
        delivery: str,
        attempt: int | None,
        announced: Sequence[Encoded],
        *,
        error: str,
        traceback: str,
        due_in: float,
        run: Run | None = None,
    ) -> bool:
        """Record that a delivery is dead, with the events that announce it; say whether it was not so before."""

        def work(connection: Connection) -> bool:
            recorded = self.deliveries.die(connection, delivery, attempt, error=error, traceback=traceback)
            if recorded:
                self.append(announced, due_in=due_in, connection=connection)
            return recorded

        return (run or self.database.run)(work)
