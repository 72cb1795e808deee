"""Calling a handler: in place; what async ones return is awaited on the one event loop that each process has."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import inspect
import logging
import os
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from functools import cache
from typing import Any

from ..core.forks import GENERATION
from ..core.observe import Log
from ..core.times import monotonic
from .agent import Agent

logger = Log(logging.getLogger(__name__))

#: Above the descriptors that a process usually has.
HIGH = 200


async def awaited(answer: Any) -> Any:
    """Return what an awaitable comes to: a decorator may wrap one in another."""
    while inspect.isawaitable(answer):
        answer = await answer
    return answer


class EventLoop:
    """An asyncio loop in a thread of its own, started on first use and anew after a fork.

    Attributes:
        around: what awaits an async handler in the loop, with what belongs around it.

    """

    def __init__(self, around: Callable[[Any], Coroutine[Any, Any, Any]] = awaited) -> None:
        self.around = around
        self._pid = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._mutex = threading.Lock()

    def run(self, coroutine: Coroutine[Any, Any, Any], timeout: float | None) -> Any:
        """Run `coroutine` to its end and return its result; raise TimeoutError after `timeout` seconds."""
        loop, answer = self._running(), Future[Any]()

        def start() -> None:
            if answer.cancelled():
                coroutine.close()
                return
            task = loop.create_task(asyncio.wait_for(coroutine, timeout))
            task.add_done_callback(lambda task: settle(answer, task))
            answer.add_done_callback(lambda answer: loop.call_soon_threadsafe(task.cancel) if answer.cancelled() else 0)

        try:
            loop.call_soon_threadsafe(start)
            return answer.result()
        except BaseException:
            # A soft time limit interrupts this thread only, anywhere; the coroutine must not go on behind it.
            answer.cancel()
            raise

    def _running(self) -> asyncio.AbstractEventLoop:
        with self._mutex:
            if self._loop is None or self._pid != os.getpid():
                loop = asyncio.new_event_loop()
                loop.time = monotonic  # type: ignore[method-assign]  # what sleeps in it wakes up, also in frozen time
                threading.Thread(target=run_for_ever, args=(loop,), name="pipeline-handlers", daemon=True).start()
                self._pid, self._loop = os.getpid(), loop
            return self._loop


def run_for_ever(loop: asyncio.AbstractEventLoop) -> None:
    """Run a loop until it is stopped; asyncio also ends at a handler's SystemExit, which is for the waiting thread."""
    while True:
        with contextlib.suppress(SystemExit, KeyboardInterrupt):
            loop.run_forever()
            return


def settle(answer: Future[Any], task: asyncio.Task[Any]) -> None:
    """Tell the waiting thread how a task has ended, unless it waits no longer."""
    if task.cancelled():
        answer.cancel()
    error = None if task.cancelled() else task.exception()  # asked for in any case: asyncio reports what nobody reads
    if answer.set_running_or_notify_cancel():
        if error is not None:
            answer.set_exception(error)
        else:
            answer.set_result(task.result())


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
