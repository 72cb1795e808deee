"""The step whose function runs, for what counts what is done in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

#: Its name, and the n-th use of that.
IN_STEP: ContextVar[tuple[str, int] | None] = ContextVar("in_step", default=None)


@contextmanager
def within(place: tuple[str, int]) -> Iterator[None]:
    """Let a step be the one that runs."""
    before = IN_STEP.set(place)
    try:
        yield
    finally:
        IN_STEP.reset(before)
