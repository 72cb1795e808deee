"""What a handler has raised: whether it is the handler's at all, and how Celery is told."""

from __future__ import annotations

import traceback
from contextlib import suppress

from billiard import current_process
from billiard.exceptions import Terminated, TimeLimitExceeded, WorkerLostError
from celery.exceptions import TaskPredicate, WorkerShutdown, WorkerTerminate
from celery.utils.serialization import get_pickleable_exception

from ..core.errors import LONGEST_TRACEBACK, HandlerError, line_of, visible, without_passwords

#: Errors by which Celery's parts tell each other what to do.
CELERYS_OWN = (TaskPredicate, Terminated, TimeLimitExceeded, WorkerLostError, MemoryError)


def is_order(error: BaseException) -> bool:
    """Say whether an error is how this process is told to stop, and none of the handler's.

    A pool process is ended by a SystemExit wherever it is, a green thread by an exception of its library.
    """
    if isinstance(error, SystemExit):
        return isinstance(error, (WorkerShutdown, WorkerTerminate)) or current_process().name != "MainProcess"
    green = type(error).__module__.partition(".")[0] in ("gevent", "greenlet", "eventlet")
    return green and not isinstance(error, Exception)


def presentable(error: BaseException) -> BaseException:
    """Return an error that Celery takes for nothing else than one, can pass on, and can log as it is.

    A handler's Ignore or WorkerLostError would be acted upon; its MemoryError, or a text that raises, ends the worker.
    """
    if isinstance(error, Exception) and not isinstance(error, CELERYS_OWN):
        with suppress(BaseException):
            if _is_plain("".join(traceback.format_exception(error)) + repr(error)):
                get_pickleable_exception(error)
                return error
    return HandlerError(line_of(error))


def _is_plain(text: str) -> bool:
    return len(text) <= LONGEST_TRACEBACK and visible(without_passwords(text), keep="\n\t") == text
