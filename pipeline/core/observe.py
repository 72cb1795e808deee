"""Spans: what the bus does, for those who measure or trace it. Unheard, a span is one comparison. And its logs."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple
from weakref import WeakSet

from .errors import line_of, shown, traceback_of

#: What is known of a span. Who listens may add to it, as may who has opened it: what is known only at its end.
About = dict[str, Any]
#: Opens a span: called with its name and what is known of it, it returns what is entered at its begin and left at its
#: end.
Listener = Callable[[str, About], AbstractContextManager[Any]]
#: How many different failures of those who listen are said, and which were.
MOST_SAID = 20
_said: set[str] = set()


class Fact(NamedTuple):
    """Something to be counted.

    Attributes:
        labels: whom and what it is about, such as an agent and an outcome.
        value: how often it has happened, or how many seconds it took.
        can_wait: whether it need not be written down before the next one that cannot.

    """

    what: str
    labels: tuple[str, ...]
    value: float = 1
    can_wait: bool = False


#: What all further agents, or types, are called when there are too many to tell apart.
OTHER = "other"


def bounded(label: str, known: set[str], most: int) -> str:
    """Return a label, or what those are called that come when there are so many already."""
    if label in known:
        return label
    if len(known) >= most:
        return OTHER
    known.add(label)
    return label


class Span:
    """What is entered at a span's begin, which gives what is known of it, and left at its end."""

    def __init__(self, about: About, entered: list[AbstractContextManager[Any]]) -> None:
        self._about, self._entered = about, entered

    def __enter__(self) -> About:
        return self._about

    def __exit__(self, *error: Any) -> None:
        for one in reversed(self._entered):
            try:
                one.__exit__(*error)
            except Exception as exc:  # whoever listens decides nothing: what was done is done
                _say_of(exc)


class Nowhere(dict[str, Any]):
    """What is known of a span that nobody hears of: nothing, and it stays so."""

    def __setitem__(self, name: str, value: Any) -> None:
        """Forget it."""


_SILENCE: AbstractContextManager[About] = nullcontext(Nowhere())


class Spans:
    """Tells listeners when something begins and ends, and the error it ends with.

    Attributes:
        heard: whether anybody listens: asked before what is known of a span is gathered.
        count: who counts what has happened; None where nobody does.
        looks: finds out whether somebody listens by now, as long as that is not known.

    """

    #: Those of this process: what listens to all of them, and knows no app.
    _every: WeakSet[Spans] = WeakSet()
    _everywhere: tuple[Listener, ...] = ()

    def __init__(self) -> None:
        self._listeners: tuple[Listener, ...] = ()
        self.count: Callable[[Iterable[Fact]], None] | None = None
        self.looks: Callable[[], None] | None = None
        self.heard = bool(Spans._everywhere)
        Spans._every.add(self)

    def look(self) -> None:
        """Let those listen who have come meanwhile."""
        if (look := self.looks) is not None:
            look()

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Call a listener for every span from now on; return what ends that."""
        self._set((*self._listeners, listener))

        def leave() -> None:
            self._set(tuple(other for other in self._listeners if other is not listener))

        return leave

    def _set(self, listeners: tuple[Listener, ...]) -> None:
        self._listeners = listeners
        self.heard = bool(listeners or Spans._everywhere)

    @classmethod
    def listen_everywhere(cls, listener: Listener) -> Callable[[], None]:
        """Call a listener for every span of this process from now on; return what ends that."""
        cls._set_everywhere((*cls._everywhere, listener))

        def leave() -> None:
            cls._set_everywhere(tuple(other for other in cls._everywhere if other is not listener))

        return leave

    @classmethod
    def _set_everywhere(cls, listeners: tuple[Listener, ...]) -> None:
        cls._everywhere = listeners
        for spans in tuple(cls._every):
            spans._set(spans._listeners)

    def span(self, name: str, **about: Any) -> AbstractContextManager[About]:
        """Return a context that is the span: an exception that leaves it is what the span ended with."""
        if not self.heard:
            return _SILENCE
        entered = []
        for listener in (*self._listeners, *self._everywhere):
            try:
                one = listener(name, about)
                one.__enter__()
            except Exception as exc:  # the others hear it all the same
                _say_of(exc)
            else:
                entered.append(one)
        return Span(about, entered)


def _say_of(error: Exception) -> None:
    """Say that somebody who listens has failed; each failure once, for it will come again with every span."""
    line = line_of(error)
    if line not in _said and len(_said) < MOST_SAID:
        _said.add(line)
        logger.error("a span is not heard, which changes nothing else: %s", line, exc_info=error)


#: Of what runs without knowing its app, such as a step of a handler.
PROCESS = Spans()


class Traced:
    """The trace of what runs here, once somebody traces: `current` returns what an event carries on of it."""

    current: Callable[[], dict[str, str | None]] | None = None


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


logger = Log(logging.getLogger(__name__))
