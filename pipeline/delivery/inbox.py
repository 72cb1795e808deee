"""Bookkeeping with a ledger: a delivery that is done is not run again, and has exactly one recorded outcome.

Attempts are counted durably, and the outcome is written in one transaction with everything that the delivery emitted.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import orjson
from celery.exceptions import Ignore
from celery.utils.log import get_task_logger

from ..agents.effects import Effects
from ..core.announcements import DeliveryDead, announces
from ..core.errors import LedgerError, LedgerRefused, NotAnEventError, Revoked, WorkerDied, line_of, traceback_of
from ..core.event import Encoded, Event, new_event
from ..core.ids import caused_id
from ..core.observe import Log
from ..core.outcome import Outcome
from ..core.retry import Again, Dead
from ..ledger.deliveries import AlreadyRecordedError, Claim, Delivery, Success
from ..ledger.groups import CONTENT
from ..publishing.outbox import GRACE, timer_of
from . import strays
from .delivery import Ended, NotRecordedError, Postponed, Scheduled, Verdict, decided, outcome_of
from .steps import Filtered, Paused

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from ..bus import Bus
    from ..ledger.ledger import Ledger

logger = Log(get_task_logger(__name__))


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
        error = None
        try:
            with RECORDING:
                if session is None:
                    self._bus.ledger.succeed(success)
                else:
                    session.flush()
                    self._bus.ledger.succeed(success, session.connection())
                    session.commit()
        except AlreadyRecordedError as exc:
            error = exc
        return self._recorded(success, error)

    def succeed_all(self, ended: Sequence[Ended]) -> list[Sequence[Encoded] | BaseException]:
        """Record a group of successes in one transaction; return for each what succeed() would return or raise."""
        found = [outcome_of(self._success, *one) for one in ended]
        successes = [one for one in found if isinstance(one, Success)]
        errors: Sequence[Exception | None]
        try:
            errors = self._bus.ledger.succeed_all(successes)
        except LedgerError as exc:
            errors = [exc] * len(successes)
        of_each = iter(errors)
        return [outcome_of(self._recorded, one, next(of_each)) if isinstance(one, Success) else one for one in found]

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
            effects.rows,
            due_in=None if silent else GRACE,
            result=orjson.dumps(answer).decode() if delivery.in_canvas else None,
            first=attempt == 1,
        )

    def _recorded(self, success: Success, error: Exception | None) -> Sequence[Encoded]:
        """Return what is to be sent of a success, or raise what its error means."""
        if isinstance(error, AlreadyRecordedError):
            logger.warning("another run of delivery %s was recorded first; this one takes no effect", success.delivery)
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
            if self._bus.ledger.subscribers.is_wanted(delivery.agent, delivery.event.type):
                return strays.kept(delivery)
        return None if delivery.asked else strays.ended(delivery)

    def filtered(self, delivery: Delivery, attempt: int, reason: str) -> None:
        """Record that the agent does not want the event after all, and why."""
        with RECORDING:
            self._bus.ledger.filter(delivery.id, attempt, reason)

    def paused(self, delivery: Delivery, attempt: int, pause: Paused) -> Verdict:
        """Record that the handler is to be called later, and that this attempt does not count."""
        by_timer, delay = not delivery.in_canvas, pause.delay
        with RECORDING:
            self._bus.ledger.pause(
                delivery.id, delivery.event, attempt, delay=delay, timer=by_timer, reason=pause.reason
            )
        return Scheduled(delay) if by_timer else Postponed(delay)

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

    def died(self, delivery: Delivery, error: BaseException) -> Verdict:
        """Record an attempt whose process died before it could; what it had recorded already stands.

        Raises NotRecordedError when it died before the attempt was counted, or after it was recorded: whoever gets the
        message next goes on.
        """
        outcome, attempts = self._bus.ledger.deliveries.state(delivery.id)
        if outcome is not Outcome.RUNNING:
            raise NotRecordedError(f"this delivery is {outcome}") from error
        return self.fail(delivery, attempts, error)

    def revoke(self, delivery: Delivery, reason: str) -> None:
        """Record that an operator has revoked a delivery, whether it had begun or not."""
        self.claim(delivery)  # so that there is something to record; a running one stays as it is
        self._die(delivery, None, Revoked(f"{reason} by `celery control revoke`"))

    def _retry(self, delivery: Delivery, attempt: int, delay: float, error: BaseException) -> Verdict:
        by_timer = not delivery.in_canvas
        told = line_of(error)
        self._bus.ledger.again(delivery.id, delivery.event, attempt, delay=delay, error=told, timer=by_timer)
        return Scheduled(delay) if by_timer else Again(delay)

    def _die(self, delivery: Delivery, attempt: int | None, error: BaseException) -> None:
        event = delivery.event
        announced = []
        if announces(event.type, delivery.replay):
            payload = DeliveryDead(
                delivery_id=delivery.id,
                event_id=event.key,
                original_type=event.type,
                agent=delivery.agent,
                error=line_of(error),
                attempts=attempt or delivery.retry.max + 1,
            )
            announced = [new_event(payload, source=delivery.source, cause=event)]
        encoded = self._emitted(delivery, announced, None)
        told, traceback = line_of(error), traceback_of(error)
        if self._bus.ledger.die(delivery.id, attempt, encoded, error=told, traceback=traceback, due_in=GRACE):
            self.send(encoded)
