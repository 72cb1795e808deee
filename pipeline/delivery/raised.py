"""What a handler has raised: whether it is the handler's at all, and how Celery is told."""

from __future__ import annotations

import traceback
from contextlib import suppress
from typing import Any

from billiard import current_process
from billiard.einfo import ExceptionInfo
from billiard.exceptions import Terminated, TimeLimitExceeded, WorkerLostError
from celery.exceptions import TaskPredicate, WorkerShutdown, WorkerTerminate
from celery.utils.serialization import get_pickleable_exception

from ..agents.strand import Cancelled, current
from ..core.errors import LONGEST_TRACEBACK, HandlerError, line_of, visible, without_passwords

#: Errors by which Celery's parts tell each other what to do.
CELERYS_OWN = (TaskPredicate, Terminated, TimeLimitExceeded, WorkerLostError, MemoryError)


def is_order(error: BaseException) -> bool:
    """Say whether an error is how this process is told to stop, and none of the handler's.

    A pool process is ended by a SystemExit wherever it is, a green thread by an exception of its library, and a
    delivery on the event loop by being cancelled.
    """
    if isinstance(error, Cancelled):
        return True
    if isinstance(error, SystemExit):
        is_in_pool = current_process().name != "MainProcess" and current() is None
        return isinstance(error, (WorkerShutdown, WorkerTerminate)) or is_in_pool
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


def info_of(exc: BaseException) -> Any:
    """Return an exception as Celery passes it on; billiard makes nothing of one that has no traceback."""
    try:
        raise exc
    except BaseException:
        return ExceptionInfo()


def _is_plain(text: str) -> bool:
    return len(text) <= LONGEST_TRACEBACK and visible(without_passwords(text), keep="\n\t") == text


#: Says of an error that its delivery has been recorded as dead.
_MARK = "__recorded__"


def marked(error: BaseException) -> BaseException:
    """Note on an error that the ledger has it; it may be of a class that takes no notes."""
    with suppress(Exception):
        setattr(error, _MARK, True)
    return error


def is_marked(error: BaseException) -> bool:
    """Say whether an error is known to be in the ledger."""
    try:
        return vars(error).get(_MARK) is True
    except Exception:  # whatever its class makes of being looked at
        return False
