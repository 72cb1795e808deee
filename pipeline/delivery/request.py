"""A delivery in the worker's main process: what follows when its attempt has ended there, or its process has died."""

from __future__ import annotations

from enum import Enum, auto
from functools import partial
from typing import TYPE_CHECKING, Any

from billiard.common import TERM_SIGNAME
from billiard.exceptions import Terminated, TimeLimitExceeded, WorkerLostError
from celery.exceptions import Ignore, Reject, Retry
from celery.platforms import signals
from celery.utils.log import get_logger
from celery.worker.request import Request
from celery.worker.state import task_ready

from ..core.errors import NotAnEventError, line_of
from ..core.observe import Fact, Log
from ..core.outcome import Outcome
from ..core.retry import Again, Dead
from ..limits.gate import Gate
from .delivery import NotRecordedError
from .process.returns import Returns
from .raised import info_of, is_marked

if TYPE_CHECKING:
    from .lane.lane import Lane
    from .short.processes import Share

logger = Log(get_logger(__name__))


class Death(Enum):
    """What an attempt's failure means in the main process."""

    #: Celery's own business: control flow, an operator's cancellation, or what is no event.
    CELERYS = auto()
    #: The process died before the attempt could be recorded.
    UNRECORDED = auto()
    #: The process that ran the handler should have recorded it: then the message can go.
    RECORDED = auto()
    #: The same, and Celery must not see it: it ends a worker that is out of memory.
    RECORDED_QUIETLY = auto()


def after_death(error: BaseException, *, cancelled: bool) -> Death:
    """Say what a failed attempt means, with a ledger.

    Arguments:
        error: what ended the attempt, in the pool process or of it.
        cancelled: whether an operator has cancelled or revoked the delivery.

    """
    match error:
        case SystemExit() | KeyboardInterrupt() if cancelled:
            return Death.CELERYS
        case Reject() | Ignore() | Retry() | Terminated() | NotAnEventError():
            return Death.CELERYS
        case TimeLimitExceeded() | WorkerLostError() | SystemExit() | KeyboardInterrupt():
            return Death.UNRECORDED
        case MemoryError():
            return Death.RECORDED_QUIETLY
        case _:
            return Death.RECORDED


class DeliveryRequest(Request):  # type: ignore[misc]  # celery's classes are untyped
    """A delivery: when it leaves the worker's hands, the next one of its agent may come in."""

    gate: Gate | None = None
    returns: Returns | None = None
    #: Where it runs, unless in the pool.
    lane: Lane | None = None
    #: What it runs in together with others, instead of a job of its own.
    share: Share | None = None

    def terminate(self, pool: Any, signal: Any = None) -> None:
        """End the handler: in the lane it is cancelled, and is revoked when that is how it ends."""
        if self.lane is None:
            super().terminate(self.share or pool, signal)
        else:
            self.lane.cancel(self, signals.signum(signal or TERM_SIGNAME))

    def cancel(self, pool: Any, signal: Any = None, emit_retry: bool = True) -> None:
        """End the handler because the worker ends; the broker gives the event to another one."""
        if self.lane is None:
            super().cancel(self.share or pool, signal, emit_retry)
        elif self.lane.cancel(self, 0):
            self._announce_cancelled(emit_retry=emit_retry)

    def acknowledge(self) -> None:
        """Acknowledge, and let the next delivery of the agent in."""
        was = self.acknowledged
        super().acknowledge()
        if not was:
            self._leave()

    def reject(self, requeue: bool = False) -> None:
        """Reject, back to the queue only after a pause, and let the next delivery of the agent in."""
        was = self.acknowledged
        if requeue and self.returns and not was:
            self._on_reject: Any = partial(self._back_after_pause, self._on_reject)
        super().reject(requeue)
        if not was:
            self._leave(back=requeue)

    def _back_after_pause(self, reject: Any, *args: Any) -> None:
        assert self.returns is not None
        self.returns.after_pause(self.id, partial(reject, *args))

    def _leave(self, *, back: bool = False) -> None:
        if self.returns and self.returns.since and not back:
            self.returns.since.pop(self.id, None)
        if self.gate:
            self.gate.leave()


class PlainRequest(DeliveryRequest):
    """A delivery without a ledger: a hard time limit counts as a failed attempt, not as the end."""

    def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> None:
        """After a hard time limit try again, on this agent's queue only, or set aside after the last attempt."""
        self._count(exc_info.exception)
        if isinstance(exc_info.exception, TimeLimitExceeded):
            if self._context.retries < self.task.max_retries and self._retry_worker_lost(exc_info.exception, exc_info):
                return
            self.reject(requeue=False)  # before Celery, which would requeue it for ever
        super().on_failure(exc_info, send_failed_event, return_ok)

    def _count(self, error: BaseException) -> None:
        """Count an attempt that could not be counted where it ran, whose process has died."""
        count = self.task.bus.spans.count
        if count is not None and isinstance(getattr(error, "exc", error), (TimeLimitExceeded, WorkerLostError)):
            outcome = Outcome.RETRYING if self._context.retries < self.task.max_retries else Outcome.DEAD
            count([Fact("ended", (self.task.agent.name, outcome.value))])

    def on_timeout(self, soft: bool, timeout: float) -> None:
        """Report a time limit; the pool has called on_failure() before, which decided what follows."""
        if soft or self._context.retries >= self.task.max_retries:
            super().on_timeout(soft, timeout)
        else:
            logger.warning("%s[%s] was killed after %g s and is tried again", self.name, self.id, timeout)


class RecordedRequest(DeliveryRequest):
    """A delivery with a ledger: every attempt is recorded, also that of a process which died."""

    def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> None:
        """Record what has not been recorded, acknowledge what has, and leave the rest to Celery."""
        error = getattr(exc_info.exception, "exc", exc_info.exception)  # billiard wraps what it has pickled
        death = after_death(error, cancelled=self._already_cancelled or self._already_revoked)
        if self._is_unrecorded(death, error) and self._is_recorded_as_another(error):
            return
        if death is not Death.CELERYS:
            self.acknowledge()  # the ledger keeps the dead letter
        if death is not Death.RECORDED_QUIETLY:
            super().on_failure(exc_info, send_failed_event, return_ok)

    def _is_unrecorded(self, death: Death, error: BaseException) -> bool:
        """Say whether the ledger does not know how the attempt has ended, or cannot say so.

        What a signal's handler raises, a time limit's or Celery's own, may come between any two lines of the task.
        """
        if death in (Death.CELERYS, Death.UNRECORDED):
            return death is Death.UNRECORDED
        if is_marked(error):
            return False
        try:
            return not self.task.books.is_recorded(self._delivery, self.worker_pid)
        except Exception:
            return True

    def _is_recorded_as_another(self, error: BaseException) -> bool:
        """Record an attempt whose process died; say whether it goes on: tried again, or back in its queue."""
        task_ready(self)
        try:
            verdict = self.task.books.died(self._delivery, error, self.worker_pid)
            if isinstance(verdict, Again):
                self._send_again(verdict.delay)
        except Exception as exc:  # the ledger is away, or the event unreadable: the broker keeps the message
            if not isinstance(exc, NotRecordedError):
                told = line_of(error), line_of(exc)
                logger.error("%s[%s]: that its process died (%s) could not be recorded: %s", self.name, self.id, *told)
            self.reject(requeue=not isinstance(exc, NotAnEventError))
            return True
        if isinstance(verdict, Dead):
            return False
        self.on_retry(info_of(Retry(line_of(error), error, verdict.delay)))
        return True

    @property
    def _delivery(self) -> Any:
        return self.task.delivery(self.args[0], self._context)

    def _send_again(self, delay: float) -> None:
        """Send a member of a canvas again: only Celery knows what waits for it."""
        retries = self._context.retries + 1
        self.task.signature_from_request(self._context, countdown=delay, retries=retries).apply_async()

    def _announce_revoked(self, reason: str, terminated: bool, signum: Any, expired: bool) -> None:
        """Record that an operator has revoked the delivery, before Celery acks it; else the broker keeps it."""
        try:
            self.task.books.revoke(self._delivery, reason)
        except Exception as exc:
            logger.error("%s[%s]: that it was revoked could not be recorded: %s", self.name, self.id, line_of(exc))
            self.reject(requeue=not isinstance(exc, NotAnEventError))
        super()._announce_revoked(reason, terminated, signum, expired)

    def on_timeout(self, soft: bool, timeout: float) -> None:
        """Report a time limit; the pool has called on_failure() before, which decided what follows."""
        if soft:
            super().on_timeout(soft, timeout)
        else:
            logger.error("%s[%s] was killed after %g s", self.name, self.id, timeout)
