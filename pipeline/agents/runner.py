"""Calling a handler: in place; what async ones return is awaited on the event loop."""

from __future__ import annotations

import contextlib
import fcntl
import inspect
import logging
import os
from functools import cache
from typing import Any

from ..core.forks import GENERATION
from ..core.observe import Log
from .agent import Agent
from .loop import EventLoop

logger = Log(logging.getLogger(__name__))

#: Above the descriptors that a process usually has.
HIGH = 200


def call(agent: Agent, arguments: tuple[Any, ...], loop: EventLoop) -> Any:
    """Run the agent's handler and return what it comes to; whatever it looks like, what it returns decides."""
    generation, watched = GENERATION.number, watched_descriptor()
    try:
        answer = agent.handler(*arguments)
        if answer is None or not inspect.isawaitable(answer):
            return answer
        return loop.run(loop.around(answer), agent.timeout)
    finally:
        if GENERATION.number != generation:
            os._exit(0)  # a child that the handler has forked: the delivery is its parent's
        try:
            os.get_inheritable(watched)
        except OSError:
            end_without_descriptors(agent.name)


@cache
def watched_descriptor() -> int:
    """Return a descriptor that nobody uses: when it is closed, those of the ledger and the broker are too."""
    read, write = os.pipe()
    os.close(write)
    try:
        high = fcntl.fcntl(read, fcntl.F_DUPFD_CLOEXEC, HIGH)  # what is opened later gets the lowest free number
    except OSError:  # the limit is lower
        return read
    os.close(read)
    return high


def end_without_descriptors(agent: str) -> None:
    """End this process at once: what it writes now could end up in any file that has been opened since."""
    with contextlib.suppress(BaseException):
        logger.critical(
            "the handler of agent %s has closed the descriptors of process %d, which ends: nothing can be recorded in "
            "it; the attempt counts, and the event goes to another process",
            agent, os.getpid(),
        )  # fmt: skip
    os._exit(1)
