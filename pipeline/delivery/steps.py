"""What is put around a handler, in a fixed order: each step is a function of the delivery and of what comes next.

A step calls on, or answers by itself; errors are raised. A new one is a function here and its place in STEPS.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from ..agents.payloads import arguments
from ..agents.runner import call

if TYPE_CHECKING:
    from ..agents.agent import Agent
    from ..agents.context import Context
    from ..bus import Bus


@dataclass(frozen=True, slots=True)
class Done:
    """The handler was called, and returned this."""

    value: Any


@dataclass(frozen=True, slots=True)
class Filtered:
    """The agent does not want the event after all: its handler is not called."""

    reason: str


@dataclass(frozen=True, slots=True)
class Paused:
    """The handler is to be called in `delay` seconds; this attempt does not count."""

    delay: float
    reason: str | None = None


Result = Done | Filtered | Paused


@dataclass(slots=True)
class Attempt:
    """One attempt of a delivery on its way through the steps.

    Attributes:
        arguments: what the handler is called with, once the contract was checked.

    """

    bus: Bus
    agent: Agent
    context: Context
    arguments: tuple[Any, ...] = ()


class Step(Protocol):
    """Something around a handler."""

    def __call__(self, attempt: Attempt, call_next: Callable[[], Result]) -> Result:
        """Return what came of the attempt, by calling on or without."""


def observe(attempt: Attempt, call_next: Callable[[], Result]) -> Result:
    """Let those hear of the attempt who listen."""
    spans = attempt.bus.spans
    if not spans.heard:
        return call_next()
    event = attempt.context.event
    with spans.span("deliver", agent=attempt.agent.name, event=event, attempt=attempt.context.attempt):
        return call_next()


def contract(attempt: Attempt, call_next: Callable[[], Result]) -> Result:
    """Validate the event's data into what the handler takes; raise InvalidEvent that names the wrong field."""
    attempt.arguments = arguments(attempt.agent, attempt.context.event, attempt.context)
    return call_next()


STEPS: tuple[Step, ...] = (observe, contract)


def run(attempt: Attempt, steps: tuple[Step, ...] = STEPS) -> Result:
    """Take an attempt through the steps, and at their end call the handler."""
    call_next: Callable[[], Result] = partial(_handle, attempt)
    for step in reversed(steps):
        call_next = partial(step, attempt, call_next)
    return call_next()


def _handle(attempt: Attempt) -> Done:
    return Done(call(attempt.agent, attempt.arguments, attempt.bus.loop))
