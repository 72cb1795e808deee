"""Bookkeeping with a ledger: a delivery that is done is not run again, and has exactly one recorded outcome.

Attempts are counted durably, and the outcome is written in one transaction with everything that the delivery emitted.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import orjson
from celery.exceptions import Ignore
from celery.utils.log import get_task_logger

from ..agents.effects import Effects
from ..contracts import newer
from ..core.errors import (
    CannotPark,
    LedgerError,
    LedgerRefused,
    NotAnEventError,
    Revoked,
    WorkerDied,
    line_of,
    traceback_of,
)
from ..core.event import Encoded, Event
from ..core.ids import caused_id
from ..core.limits.limit import SLOT, is_order
from ..core.limits.single import QUIET
from ..core.observe import Log
from ..core.outcome import STOPPED, Outcome
from ..core.retry import Again, Dead
from ..core.times import SECOND, now
from ..ledger.database.fast import CONTENT
from ..ledger.facts import AlreadyRecordedError, Claim, Delivery, MayFollowError, Run, Success
from ..ledger.flows.flows import DONE, FAILED
from ..ledger.limits.lines import Ending
from ..ledger.waiting.wait import GATHERS, VERSION, Parking, Wait
from ..publishing.outbox import GRACE, timer_of
from . import strays
from .delivery import Ended, NotRecordedError, Postponed, Scheduled, Verdict, death_of, decided, outcome_of, scheduled
from .steps import Filtered, Parks, Paused, Result
from .turns.quiet import hold
from .turns.turns import ASK_AGAIN, rest, take

if TYPE_CHECKING:
    from sqlalchemy import Connection
    from sqlalchemy.orm import Session

    from ..bus import Bus
    from ..ledger.ledger import Ledger

logger = Log(get_task_logger(__name__))
NO_EFFECT = "delivery %s is over: another run was recorded first, or its tree was cancelled; this run takes no effect"


class Recording:
    """Around what reads or writes the ledger: when it is away, the delivery goes back to its queue.

    What the database refuses it would refuse again: that is raised as it is.
    """

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, LedgerError) and not isinstance(error, LedgerRefused):
            raise NotRecordedError(str(error)) from error


RECORDING = Recording()


class Inbox:
    """Knows which deliveries are done, and writes down what becomes of the others."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self.told = strays.Told()

    @cached_property
    def ledger(self) -> Ledger:
        """Where the books are kept."""
        return self._bus.ledger

    def claim(self, delivery: Delivery) -> Claim:
        """Count an attempt, or learn that there is none to make.

        Raises WorkerDied when the attempts are used up without any having ended, NotRecordedError when the ledger is
        away, and NotAnEventError when the database does not take the event.
        """
        try:
            answer: Claim | Exception = self._bus.ledger.claim(delivery, worker=self._bus.worker_id)
        except Exception as exc:
            answer = exc
        return self._claimed(delivery, answer)

    def claim_all(self, deliveries: Sequence[Delivery]) -> list[Claim | BaseException]:
        """Claim a group in one transaction; return for each what claim() would return or raise."""
        answers: Sequence[Claim | Exception]
        try:
            answers = self._bus.ledger.claim_all(deliveries, worker=self._bus.worker_id)
        except LedgerError as exc:
            answers = [exc] * len(deliveries)
        return [outcome_of(self._claimed, *each) for each in zip(deliveries, answers, strict=True)]

    def _claimed(self, delivery: Delivery, answer: Claim | Exception) -> Claim:
        with RECORDING:
            if isinstance(answer, CONTENT):
                raise NotAnEventError(f"the ledger does not take it: {line_of(answer)}") from None
            if isinstance(answer, Exception):
                raise answer
            if answer.attempt <= delivery.retry.max + 1:
                return answer
            error = WorkerDied(f"attempt {answer.attempt - 1} did not end, its worker died, and no further one is left")
            self._die(delivery, None, error)
        raise error

    def done_before(self, delivery: Delivery, claim: Claim) -> Any:
        """Finish a delivery that is in the inbox: send what may not have been sent; return a chord member's result."""
        if claim.outcome in STOPPED and (delivery.turns or delivery.flow):
            lines, message = self._bus.ledger.limits.lines, delivery.message if delivery.redelivered else None
            with RECORDING:
                lines.come_back(delivery.id, delivery.turns, message)
        if delivery.in_canvas and claim.outcome in (Outcome.RUNNING, Outcome.RETRYING):
            raise Ignore(f"this delivery is {claim.outcome}")  # whoever runs it tells the chord
        if delivery.in_canvas and claim.outcome not in (Outcome.SUCCEEDED, Outcome.FILTERED):
            raise WorkerDied(f"this delivery is {claim.outcome}")
        if claim.emitted:
            ids = [caused_id(delivery.id, position, self._bus.ledger.secret) for position in range(claim.emitted)]
            with RECORDING:
                unsent = self._bus.outbox.encode(self._bus.ledger.events.unsent(ids))
            self.send(unsent)
        event, outcome = delivery.event, claim.outcome.value
        logger.info("agent %s: %s %s was delivered before (%s)", delivery.agent, event.type, event.key, outcome)
        return orjson.loads(claim.result) if claim.result else None

    def succeed(
        self, delivery: Delivery, attempt: int, effects: Effects, answer: Any, session: Session | None = None
    ) -> Sequence[Encoded]:
        """Record the success in one transaction with what was emitted, and return what is to be sent of that.

        Raises NotRecordedError when the ledger is away and the delivery has to come again.
        """
        success = self._success(delivery, attempt, effects, answer)
        error, follows = None, list[Encoded]()
        work = partial(self._succeed_in, delivery=delivery, attempt=attempt, success=success)
        try:
            with RECORDING:
                if session is not None:
                    session.flush()
                    self._in_flow(lambda do: do(session.connection()), delivery, DONE, follows, None)(work)
                    session.commit()
                elif delivery.turns or delivery.leads or delivery.flow:
                    self._in_flow(self._bus.ledger.database.run, delivery, DONE, follows, success)(work)
                else:
                    self._bus.ledger.succeed(success)
        except AlreadyRecordedError as exc:
            error = exc
            if session is not None:
                session.rollback()  # it holds SQLite's write lock
            self._give_back(delivery)
        return [*self._recorded(success, error), *follows]

    def _in_flow(self, run: Run, delivery: Delivery, what: str, *how: Any) -> Run:
        """Return what runs the transaction that records the end of a step of a flow: that moves on in it."""
        flows = self._bus.flows
        return run if delivery.flow is None or flows is None else partial(flows.ending, run, delivery, what, *how)

    def _give_back(self, delivery: Delivery) -> None:
        """Hand on what a delivery has had in vain: somebody has stopped it, and now it has ended."""
        with RECORDING:
            self._bus.ledger.limits.lines.give_back(delivery.id, delivery.turns)

    def _succeed_in(self, connection: Connection, delivery: Delivery, attempt: int, success: Success) -> bool:
        ledger, ending = self._bus.ledger, Ending(delivery.id, delivery.turns, over=True)
        opened = ledger.limits.lines.locked(connection, ending.turns) if delivery.turns else ()
        members = ledger.waiting.batches.lock(connection, delivery.id) if delivery.leads else ()
        ledger.succeed(success, connection)
        if members:
            ledger.waiting.batches.succeed(connection, members, attempt)
        if delivery.turns:
            ledger.limits.lines.hand_on(connection, ending, opened)
        return True

    def succeed_all(self, ended: Sequence[Ended]) -> list[Sequence[Encoded] | BaseException]:
        """Record a group of successes in one transaction; return for each what succeed() would return or raise."""
        found: list[Any] = [outcome_of(self._success, *one) for one in ended]
        places = [place for place, one in enumerate(found) if isinstance(one, Success)]
        errors: Sequence[Exception | None]
        try:
            errors = self._bus.ledger.succeed_all([found[place] for place in places])
        except LedgerError as exc:
            errors = [exc] * len(places)
        for place, error in zip(places, errors, strict=True):
            if isinstance(error, MayFollowError):
                found[place] = outcome_of(self.succeed, *ended[place])
            else:
                found[place] = outcome_of(self._recorded, found[place], error)
        return found

    def _success(self, delivery: Delivery, attempt: int, effects: Effects, answer: Any) -> Success:
        silent = delivery.replay is not None and not delivery.broadcast
        with RECORDING:
            emitted = self._emitted(delivery, effects.events, delivery.replay if silent else None)
            outbox = self._bus.outbox
            later = [timer_of(outbox.encode([event])[0], due) for event, due in effects.later]
        return Success(
            delivery.id,
            emitted,
            [] if silent else later,
            () if silent else effects.rows,
            due_in=None if silent else GRACE,
            result=orjson.dumps(answer).decode() if delivery.in_canvas or delivery.keeps_result else None,
            first=attempt == 1,
            before=delivery.emitted,
            flow=delivery.flow,
        )

    def _recorded(self, success: Success, error: Exception | None) -> Sequence[Encoded]:
        """Return what is to be sent of a success, or raise what its error means."""
        if isinstance(error, AlreadyRecordedError):
            logger.warning(NO_EFFECT, success.delivery)
            return []
        if error is not None:
            with RECORDING:
                raise error
        return [] if success.due_in is None else success.emitted

    def send(self, emitted: Sequence[Encoded]) -> None:
        """Send what is in the outbox now; when that fails, a relay does: the delivery is done in any case."""
        try:
            self._bus.outbox.send(emitted)
        except Exception as exc:
            logger.warning("a relay sends %d event(s) in %g s: %s", len(emitted), GRACE, line_of(exc))

    def _emitted(self, delivery: Delivery, events: Sequence[Event], replay: str | None) -> list[Encoded]:
        if not events:
            return []
        return [encoded._replace(delivery=delivery.id, replay=replay) for encoded in self._bus.outbox.encode(events)]

    def stray(self, delivery: Delivery) -> Paused | Filtered | None:
        """Keep the event for a version that wants it; what nobody wants ends, unless somebody has asked for it."""
        with RECORDING:
            return strays.answered(self._bus, delivery)

    def refused(self, delivery: Delivery, filtered: Filtered) -> Paused | Filtered:
        """Keep the event for a version that runs and wants it by its own filter; what none wants ends."""
        with RECORDING:
            return strays.refused(self._bus, delivery, filtered)

    def take(self, delivery: Delivery) -> Result | None:
        """Take the turns that the delivery needs, and wait for a moment if need be; or say what it has to wait for.

        Raises InvalidEvent for an event without a key that its limit needs.
        """
        seconds, parks = self.turn(delivery)
        rest(seconds)
        return parks

    def turn(self, delivery: Delivery) -> tuple[float, Result | None]:
        """Do what take() does, but for the wait: return the seconds that it takes, too."""
        with RECORDING:
            seconds, wait, instead = take(self._bus, delivery)
        if instead is not None:
            return 0.0, Filtered(instead, by_filter=False)
        if wait is None:
            return seconds, None
        if not delivery.in_canvas:
            return 0.0, Parks(wait)
        # A member of a canvas is none that a ledger can release: Celery asks again, and it stands in line meanwhile.
        return 0.0, Paused(ASK_AGAIN, wait.reason, line=None if is_order(wait.key) else wait.key or None)

    def _run(self, delivery: Delivery, follow: tuple[Any, ...] = (), **how: Any) -> Any:
        """Return what runs the transaction that records how an attempt has ended: its turns are handed on in it.

        A step of a flow moves on in it, too, with what follows.
        """
        ledger = self._bus.ledger
        run = self._in_flow(ledger.database.run, delivery, *follow) if follow else ledger.database.run
        if not (delivery.turns or delivery.flow):
            return run
        lines, ending = ledger.limits.lines, Ending(delivery.id, delivery.turns, **how)
        return lambda work: run(lambda own: lines.ending(own, ending, work))  # the flow's row is locked before them

    def filtered(self, delivery: Delivery, attempt: int, reason: str) -> None:
        """Record that the agent does not want the event after all, and why."""
        with RECORDING:
            filter, follows = self._bus.ledger.deliveries.filter, list[Encoded]()
            run = self._run(delivery, (DONE, follows, None), over=True)
            run(lambda own: filter(own, delivery.id, attempt, reason))
        self.send(follows)

    def paused(self, delivery: Delivery, attempt: int, pause: Paused) -> Verdict:
        """Record that the handler is to be called later, and that this attempt does not count.

        Raises InvalidEvent when no worker has read the event within a day.
        """
        by_timer = not delivery.in_canvas
        with RECORDING:
            delay = pause.delay if pause.newer is None else self._patience(delivery, pause.newer)
            if by_timer and pause.newer is not None:
                wait = Wait(VERSION, pause.newer.reason, due=now() + round(delay * SECOND), key=delivery.event.type)
                return self.parked(delivery, attempt, Parks(wait, emitted=delivery.emitted))
            run, about = self._run(delivery, line=pause.line), (delivery.id, delivery.event, attempt)
            self._bus.ledger.pause(*about, delay=delay, timer=by_timer, reason=pause.reason, run=run)
        return Scheduled(delay) if by_timer else Postponed(delay)

    def _patience(self, delivery: Delivery, of: newer.NewerMajor) -> float:
        """Return how many seconds to wait for a worker that reads the event; raise InvalidEvent after a day of it."""
        ledger = self._bus.ledger
        waited = ledger.deliveries.waited(delivery.id)
        is_new = ledger.waiting.newcomers.is_new
        return newer.pause(of, waited, lambda agent, type: is_new(agent, type, newer.OVER))

    def parked(self, delivery: Delivery, attempt: int, parks: Parks) -> Verdict:
        """Record that the delivery waits, send what it has emitted, and say that this attempt does not count."""
        wait = parks.wait
        if delivery.in_canvas:
            raise CannotPark(
                f"agent {delivery.agent} {wait.reason}, and is a member of a chord or chain, which waits for its "
                "result: let it return, and wait in an agent that gets the canvas' event"
            )
        if wait.kind == QUIET:
            with RECORDING:
                return scheduled(hold(self._bus, Parking(delivery, attempt, wait), self._run(delivery)))
        success = self._success(delivery, attempt, parks.effects, None)
        sent, later, rows = success.emitted, success.later, success.rows
        parking = Parking(delivery, attempt, wait, sent, later, parks.emitted, success.due_in, rows)
        with RECORDING:
            line = wait.key if wait.kind == SLOT else None
            run = None if wait.kind == GATHERS else self._run(delivery, line=line)  # before a batch nothing has turns
            recorded = self._bus.ledger.waiting.waits.park(parking, run)
        if recorded and success.due_in is not None and success.emitted:
            self.send(success.emitted)
        return scheduled(wait.due)

    def fail(self, delivery: Delivery, attempt: int, error: BaseException) -> Verdict:
        """Record a failed attempt and say what follows: a timer is set, Celery tries a canvas again, or it is over."""
        decision = decided(delivery, attempt, error)
        with RECORDING:
            match decision:
                case Again(delay):
                    return self._retry(delivery, attempt, delay, error)
                case Dead():
                    self._die(delivery, attempt, error)
        return decision

    def is_recorded(self, delivery: Delivery, pid: int | None) -> bool:
        """Say whether it is known how an attempt has ended; what another process runs by now is no longer that one.

        Arguments:
            pid: the process of this worker that has made it.

        """
        row = self._bus.ledger.database.fast.one(self._bus.ledger.deliveries.known(delivery.id))
        if row is None:
            return False
        outcome, _, _, runner, process = row
        is_ours = runner == self._bus.worker_id and pid in (None, (process or 0) & 0xFFFFFFFF)
        return not (outcome == Outcome.RUNNING.value and is_ours)

    def died(self, delivery: Delivery, error: BaseException, pid: int | None) -> Verdict:
        """Record an attempt whose process died before it could; what it had recorded already stands.

        Raises NotRecordedError when it died before the attempt was counted, or after it was recorded: whoever gets the
        message next goes on. What was parked may run elsewhere by now.

        Arguments:
            pid: the process of this worker that has died.

        """
        outcome, attempts = self._bus.ledger.deliveries.state(delivery.id)
        if outcome is not Outcome.RUNNING or self.is_recorded(delivery, pid):
            self._give_back(delivery)
            raise NotRecordedError(f"this delivery is {outcome}") from error
        return self.fail(delivery, attempts, error)

    def revoke(self, delivery: Delivery, reason: str) -> None:
        """Record that an operator has revoked a delivery, whether it had begun or not."""
        self.claim(delivery)  # so that there is something to record; a running one stays as it is
        self._die(delivery, None, Revoked(f"{reason} by `celery control revoke`"))

    def _retry(self, delivery: Delivery, attempt: int, delay: float, error: BaseException) -> Verdict:
        by_timer = not delivery.in_canvas
        told, run = line_of(error), self._run(delivery)
        self._bus.ledger.again(delivery.id, delivery.event, attempt, delay=delay, error=told, timer=by_timer, run=run)
        return Scheduled(delay) if by_timer else Again(delay)

    def _die(self, delivery: Delivery, attempt: int | None, error: BaseException) -> None:
        encoded = self._emitted(delivery, death_of(delivery, attempt, error, self._bus), None)
        told, traceback = line_of(error), traceback_of(error)
        die, follows = self._bus.ledger.die, list[Encoded]()
        run = self._run(delivery, (FAILED, follows, None), dead=True)
        if delivery.leads:
            made = attempt or delivery.retry.max + 1
            run = partial(self._bus.ledger.waiting.batches.dying, run, delivery.id, made, told, traceback)
        if die(delivery.id, attempt, encoded, error=told, traceback=traceback, due_in=GRACE, run=run):
            self.send([*encoded, *follows])
