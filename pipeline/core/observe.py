"""Spans: what the bus does, for those who measure or trace it. Unheard, a span is one comparison. And its logs."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any

from .errors import line_of, shown, traceback_of

#: Opens a span: called with its name and attributes, it returns what is entered at its begin and left at its end.
Listener = Callable[[str, Mapping[str, Any]], AbstractContextManager[Any]]
_SILENCE: AbstractContextManager[Any] = nullcontext()


class Spans:
    """Tells listeners when something begins and ends, and the error it ends with."""

    def __init__(self) -> None:
        self._listeners: tuple[Listener, ...] = ()
        #: Whether anybody listens: asked before a span's attributes are gathered.
        self.heard = False

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Call a listener for every span from now on; return what ends that."""
        self._set((*self._listeners, listener))

        def leave() -> None:
            self._set(tuple(other for other in self._listeners if other is not listener))

        return leave

    def _set(self, listeners: tuple[Listener, ...]) -> None:
        self._listeners = listeners
        self.heard = bool(listeners)

    def span(self, name: str, **attributes: Any) -> AbstractContextManager[Any]:
        """Return a context that is the span: an exception that leaves it is what the span ended with."""
        if not self._listeners:
            return _SILENCE
        with ExitStack() as stack:  # left at once for those who have begun when a later one fails
            for listener in self._listeners:
                stack.enter_context(listener(name, attributes))
            return stack.pop_all()


class Log(logging.LoggerAdapter[logging.Logger]):
    """A logger whose lines hold what others have written only as it can be shown: bounded, escaped, without passwords.

    Every module of the package has one.
    """

    def __init__(self, logger: logging.Logger) -> None:
        super().__init__(logger, {})

    def log(self, level: int, msg: object, *args: object, **options: Any) -> None:
        """Write a line, and under it the traceback if one is asked for."""
        if not self.isEnabledFor(level):
            return
        error = options.pop("exc_info", None)
        if error is not None and error is not False:  # not its truth: an error's own method may raise
            error = error if isinstance(error, BaseException) else sys.exc_info()[1]
            msg, args = f"{msg}\n%s", (*args, None if error is None else _Traceback(error))
        options["stacklevel"] = options.get("stacklevel", 1) + 1
        self.logger.log(level, msg, *map(_shown, args), **options)


class _Traceback:
    def __init__(self, error: BaseException) -> None:
        self.error = error


def _shown(value: object) -> object:
    match value:
        case None | bool() | int() | float():
            return value
        case _Traceback():
            return traceback_of(value.error)
        case BaseException():
            return line_of(value)
    return shown(str(value))


def ended(logger: Log, why: object) -> SystemExit:
    """Return what ends a worker, and say why at any level of its log: what Python itself says is a warning there."""
    logger.critical("%s", why)
    return SystemExit(1)
