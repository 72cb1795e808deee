"""The handler and the step that run here, for what is called without being told."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from ...core.observe import PROCESS

#: The context of the handler that runs here; its class is above this room.
HANDLING: ContextVar[Any] = ContextVar("handling", default=None)

#: Its name, and the n-th use of that.
IN_STEP: ContextVar[tuple[str, int] | None] = ContextVar("in_step", default=None)


@contextmanager
def within(place: tuple[str, int]) -> Iterator[None]:
    """Let a step be the one that runs."""
    before = IN_STEP.set(place)
    try:
        if PROCESS.heard:
            with PROCESS.span("step", step=place[0], number=place[1]):
                yield
        else:
            yield
    finally:
        IN_STEP.reset(before)
