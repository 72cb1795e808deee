"""Spans: what the bus does, for those who measure or trace it. Unheard, a span is one comparison."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any

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
