"""Room 3's bookkeeping: what a delivery is allowed to do, and what became of it.

With a ledger (`Inbox`) a delivery that is done is not run again, attempts are counted durably, and the outcome is
written in one transaction with everything that the delivery emitted. Without one (`Plain`) Celery retries, and the
broker keeps the dead letters.
"""

from __future__ import annotations

import random
import traceback as tracebacks
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson
from celery.exceptions import Ignore, Reject
from celery.exceptions import Retry as CeleryRetry
from celery.utils.log import get_task_logger

from ..agents.context import Context
from ..core.errors import BrokerUnavailable, LedgerError, Revoked, WorkerDied
from ..core.event import Event, new_event
from ..core.ids import caused_id
from ..core.outcome import Outcome
from ..core.retry import Again, Dead, decide
from ..families import DeliveryDead
from ..ledger.database.rows import Record
from ..ledger.ledger import AlreadyRecordedError, Claim
from ..publishing.outbox import soon

if TYPE_CHECKING:
    from ..app.app import Pipeline
    from .task import DeliveryTask

logger = get_task_logger(__name__)

#: Characters of an error that are kept beside its traceback.
LONGEST_ERROR = 2000
LONGEST_TRACEBACK = 20_000


class Delivery(NamedTuple):
    """One delivery as its message describes it.

    Attributes:
        expected: the attempt that a retry's message was sent for.
        logged: whether the ledger has the event already.
        in_canvas: whether a chord or chain waits for what the handler returns.

    """

    id: str
    event: Event
    expected: int | None = None
    replay: str | None = None
    broadcast: bool = True
    logged: bool = True
    in_canvas: bool = False
    retries: int = 0
    redelivered: bool = False


class Plain:
    """No ledger: every delivery is run, Celery retries it, and the broker keeps it when it is dead."""

    def __init__(self, pipeline: Pipeline) -> None:
        """Take the app."""
        self._pipeline = pipeline

    def claim(self, task: DeliveryTask, delivery: Delivery) -> Claim:
        """Return the attempt that Celery counted."""
        return Claim(delivery.retries + 1, Outcome.RUNNING)

    def succeed(self, task: DeliveryTask, delivery: Delivery, context: Context, answer: Any) -> None:
        """Send what the handler emitted; only then the delivery is done."""
        if not context.outgoing:
            return
        try:
            self._pipeline.publisher.send(context.outgoing)
        except BrokerUnavailable as exc:
            # The event goes back to its queue: its own events have fixed ids, so sending them again is harmless.
            raise Reject(exc, requeue=True) from exc

    def fail(self, task: DeliveryTask, delivery: Delivery, attempt: int, error: Exception) -> BaseException:
        """Return what to raise: Celery's Retry after sending the event to this queue again, or the error itself."""
        decision = decide(attempt - 1, error, task.agent.retry, random.random())
        report(task, delivery, attempt, error, decision)
        return by_celery(task, decision.delay, error) if isinstance(decision, Again) else error

    def again(self, delivery: Delivery, claim: Claim) -> Any:
        """Never called: without a ledger nothing is known to be done."""
        raise NotImplementedError


class Inbox:
    """With a ledger: exactly one recorded outcome for each delivery, and its events with it."""

    def __init__(self, pipeline: Pipeline) -> None:
        """Take the app, which has a ledger."""
        self._pipeline = pipeline
        self._ledger = pipeline.ledger
        self._outbox = pipeline.outbox

    def claim(self, task: DeliveryTask, delivery: Delivery) -> Claim:
        """Count an attempt, or learn that there is none to make.

        Raises WorkerDied when the attempts are used up without any having ended, Reject when the ledger is away.
        """
        try:
            claim = self._ledger.claim(
                delivery.id,
                delivery.event,
                task.agent.name,
                worker=self._pipeline.worker_id,
                expected=delivery.expected,
                replay=delivery.replay,
                broadcast=delivery.broadcast,
                redelivered=delivery.redelivered,
                body=None if delivery.logged else delivery.event.encode(),
            )
        except LedgerError as exc:
            raise back_to_queue(exc) from exc
        if claim.attempt > task.agent.retry.max + 1:
            error = WorkerDied(f"attempt {claim.attempt - 1} did not end, its worker died, and no further one is left")
            self._die(task, delivery, None, error)
            raise error
        return claim

    def again(self, delivery: Delivery, claim: Claim) -> Any:
        """Finish a delivery that is in the inbox: send what may not have been sent; return a chord member's result."""
        if delivery.in_canvas and claim.outcome in (Outcome.RUNNING, Outcome.RETRYING):
            raise Ignore(f"this delivery is {claim.outcome}")  # whoever runs it tells the chord
        if delivery.in_canvas and claim.outcome is not Outcome.SUCCEEDED:
            raise WorkerDied(f"this delivery is {claim.outcome}")
        if claim.emitted:
            ids = [caused_id(delivery.id, position) for position in range(claim.emitted)]
            self._outbox.send(self._outbox.encode(self._ledger.unsent(ids)))
        logger.info("%s was delivered before (%s)", delivery.event.id, claim.outcome.value)
        return orjson.loads(claim.result) if claim.result else None

    def succeed(self, task: DeliveryTask, delivery: Delivery, context: Context, answer: Any) -> None:
        """Record the success in one transaction with what was emitted, then send that.

        Raises Reject when the ledger is away and the delivery has to come again.
        """
        encoded = self._outbox.encode(context.outgoing) if context.outgoing else []
        silent = delivery.replay is not None and not delivery.broadcast
        replay = delivery.replay if silent else None
        records = [Record(each.event, each.body, delivery.id, replay) for each in encoded]
        delayed = [self._outbox.delayed(self._outbox.encode([event])[0], due) for event, due in context.delayed]
        session = context.opened_session
        if session is not None:
            session.flush()
        try:
            self._ledger.succeed(
                delivery.id,
                records,
                [] if silent else delayed,
                started_joins=context.started_joins,
                due=None if silent else soon(),
                result=orjson.dumps(answer).decode() if delivery.in_canvas else None,
                first=context.attempt == 1,
                connection=session.connection() if session is not None else None,
            )
            if session is not None:
                session.commit()
        except AlreadyRecordedError:
            logger.warning("another run of delivery %s was recorded first; this one takes no effect", delivery.id)
            return
        except LedgerError as exc:
            raise back_to_queue(exc) from exc
        context.close()  # a session holds SQLite's write lock, which noting what was sent has to wait for
        if not silent:
            self._outbox.send(encoded)

    def fail(self, task: DeliveryTask, delivery: Delivery, attempt: int, error: BaseException) -> BaseException:
        """Record a failed attempt, and return what to raise: Celery's Retry once the timer is set, or the error."""
        decision = decide(attempt - 1, error, task.agent.retry, random.random())
        report(task, delivery, attempt, error, decision)
        try:
            match decision:
                case Again(delay):
                    return self._retry(task, delivery, attempt, delay, error)
                case Dead():
                    self._die(task, delivery, attempt, error)
        except LedgerError as exc:
            return back_to_queue(exc)
        return error

    def process_died(self, task: DeliveryTask, delivery: Delivery, error: BaseException) -> BaseException:
        """Record an attempt whose process died before it could; what it had recorded already stands."""
        outcome, attempts = self._ledger.state(delivery.id)
        if outcome is not Outcome.RUNNING:
            # It died before the attempt was counted, or after it was recorded: whoever gets the message next goes on.
            raise back_to_queue(error)
        found = self.fail(task, delivery, attempts, error)
        if isinstance(found, Reject):
            raise found
        return found

    def revoke(self, task: DeliveryTask, delivery: Delivery, reason: str) -> None:
        """Record that an operator has revoked a delivery, whether it had begun or not."""
        self.claim(task, delivery)  # so that there is something to record; a running one stays as it is
        self._die(task, delivery, None, Revoked(f"{reason} by `celery control revoke`"))

    def _retry(
        self, task: DeliveryTask, delivery: Delivery, attempt: int, delay: float, error: BaseException
    ) -> BaseException:
        text = shortened(error)
        by_timer = not delivery.in_canvas
        self._ledger.again(delivery.id, delivery.event, attempt, delay=delay, error=text, timer=by_timer)
        if not by_timer:
            return by_celery(task, delay, error)
        outcome: BaseException = CeleryRetry(text, error, delay)
        return outcome

    def _die(self, task: DeliveryTask, delivery: Delivery, attempt: int | None, error: BaseException) -> None:
        event = delivery.event
        announced = []
        if event.type != DeliveryDead.event_type and delivery.replay is None:  # not the death of its own announcement
            payload = DeliveryDead(
                delivery_id=delivery.id,
                event_id=event.id,
                original_type=event.type,
                agent=task.agent.name,
                error=shortened(error),
                attempts=attempt or task.agent.retry.max + 1,
            )
            announced = [new_event(payload, source=task.source, cause=event)]
        encoded = self._outbox.encode(announced)
        records = [Record(each.event, each.body, delivery.id) for each in encoded]
        text = "".join(tracebacks.format_exception(error))[-LONGEST_TRACEBACK:]
        if self._ledger.die(delivery.id, attempt, records, error=shortened(error), traceback=text, due=soon()):
            self._outbox.send(encoded)


def back_to_queue(exc: BaseException) -> BaseException:
    """Return what makes Celery give a delivery back: what became of it could not be written."""
    outcome: BaseException = Reject(exc, requeue=True)
    return outcome


def by_celery(task: DeliveryTask, delay: float, error: BaseException) -> BaseException:
    """Let Celery send the task again, and return what to raise then."""
    try:
        outcome: BaseException = task.retry(exc=error, countdown=delay, max_retries=None, throw=False)
    except Reject as exc:
        # Celery drops a retry that it cannot publish; back in the queue it is merely early.
        outcome = Reject(exc.reason, requeue=True)
    return outcome


def report(task: DeliveryTask, delivery: Delivery, attempt: int, error: BaseException, decision: Again | Dead) -> None:
    """Write a failed attempt, and what follows from it, into the worker's log."""
    event = delivery.event
    match decision:
        case Again(delay):
            logger.warning(
                "agent %s failed on %s %s (attempt %d), trying again in %.1f s: %r",
                task.agent.name, event.type, event.id, attempt, delay, error,
            )  # fmt: skip
        case Dead(reason):
            logger.error("agent %s: %s %s is dead (%s): %r", task.agent.name, event.type, event.id, reason, error)


def shortened(error: BaseException) -> str:
    """Return an error as one line that fits a table."""
    return f"{type(error).__name__}: {error}"[:LONGEST_ERROR]
