"""What a handler has raised: whether it is the handler's at all, how Celery is told, and the text that is kept.

Whatever an error holds, every encoder, database and log takes its line and its traceback.
"""

from __future__ import annotations

import re
import traceback
from contextlib import suppress

from billiard import current_process
from billiard.exceptions import Terminated, TimeLimitExceeded, WorkerLostError
from celery.exceptions import TaskPredicate, WorkerShutdown, WorkerTerminate
from celery.utils.serialization import get_pickleable_exception

from ..core.errors import HandlerError

#: Characters of an error that are kept beside its traceback.
LONGEST_LINE = 2000
#: Characters of a traceback that are kept, its last ones.
LONGEST_TRACEBACK = 20_000

#: Control characters (C0, DEL, C1), and what else ends a line for some reader.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_CONTROL_IN_LINES = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]")
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
    return len(text) <= LONGEST_TRACEBACK and _escaped(text, _CONTROL_IN_LINES) == text


def line_of(error: BaseException) -> str:
    """Return an error's class and text as one line of at most LONGEST_LINE characters, also when it has no text."""
    try:
        text = str(error)[:LONGEST_LINE]
    except BaseException as exc:  # a text is no reason to lose a delivery, whatever it raises
        text = f"<its text cannot be made: {type(exc).__name__}>"
    return _escaped(f"{type(error).__name__}: {text}"[:LONGEST_LINE], _CONTROL)[:LONGEST_LINE]


def traceback_of(error: BaseException) -> str:
    """Return the last LONGEST_TRACEBACK characters of an error's traceback, or its line when there can be none."""
    try:
        text = "".join(traceback.format_exception(error))[-LONGEST_TRACEBACK:]
    except BaseException:  # notes, causes or groups that Python itself cannot format
        return line_of(error)
    return _escaped(text, _CONTROL_IN_LINES)[-LONGEST_TRACEBACK:]


def _escaped(text: str, control: re.Pattern[str]) -> str:
    """Return a text with control characters and lone surrogates as Python would write them."""
    text = control.sub(lambda found: repr(found[0])[1:-1], text)
    return text.encode("utf-8", "backslashreplace").decode()
