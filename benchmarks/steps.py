"""A clock for the steps of publishing and delivering: the bus's own methods, wrapped for as long as one measures."""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

from pipeline.delivery import steps
from pipeline.ledger.ledger import Ledger
from pipeline.publishing.publisher import Publisher

#: The method or function that each step of a delivery is, and where it is looked up.
DELIVERING = (
    ("claim", Ledger, "claim"),
    ("claim", Ledger, "claim_all"),
    ("handler", steps, "call"),
    ("record", Ledger, "succeed"),
    ("record", Ledger, "succeed_all"),
    ("send", Publisher, "send_encoded"),
)
PUBLISHING = (
    ("append", Ledger, "append"),
    ("send", Publisher, "send_encoded"),
)
Steps = tuple[tuple[str, Any, str], ...]


class Clock:
    """Adds up the seconds of each step, in the thread that has made the clock: a worker's sweeper does not count."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._thread = threading.get_ident()

    def wrapped(self, step: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function with its time taken."""

        @functools.wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            if threading.get_ident() != self._thread:
                return function(*args, **kwargs)
            started = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds[step] += time.perf_counter() - started

        return timed


def watch(clock: Clock, steps: Steps) -> Callable[[], None]:
    """Wrap every step, and return what undoes it."""
    originals = [(owner, name, getattr(owner, name)) for _, owner, name in steps]
    for step, owner, name in steps:
        setattr(owner, name, clock.wrapped(step, getattr(owner, name)))

    def undo() -> None:
        for owner, name, original in originals:
            setattr(owner, name, original)

    return undo


@contextlib.contextmanager
def watching(steps: Steps) -> Iterator[Clock]:
    """Take the time of every step for a while."""
    clock = Clock()
    undo = watch(clock, steps)
    try:
        yield clock
    finally:
        undo()
