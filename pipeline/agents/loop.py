"""The one event loop that each process has: async handlers are awaited on it, wherever they are called from."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import os
import threading
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any

from ..core.errors import line_of
from ..core.observe import Log
from ..core.times import monotonic
from .strand import current, within

logger = Log(logging.getLogger(__name__))

#: Seconds that clean-up may take when a process ends.
FAREWELL = 5.0
#: Something that is entered once on each loop, before its first handler, and left at its end.
Lifespan = Callable[[], AbstractAsyncContextManager[Any]]


async def awaited(answer: Any) -> Any:
    """Return what an awaitable comes to: a decorator may wrap one in another."""
    while inspect.isawaitable(answer):
        answer = await answer
    return answer


class EventLoop:
    """An asyncio loop in a thread of its own, started on first use and anew after a fork.

    Attributes:
        around: what awaits an async handler in the loop, with what belongs around it.
        lifespans: what is entered before the first handler runs.

    """

    def __init__(
        self, around: Callable[[Any], Coroutine[Any, Any, Any]] = awaited, lifespans: Sequence[Lifespan] = ()
    ) -> None:
        self.around = around
        self.lifespans = lifespans
        self._pid = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._entered: AsyncExitStack | None = None
        self._entering = asyncio.Lock()
        self._mutex = threading.Lock()

    def run(self, coroutine: Coroutine[Any, Any, Any], timeout: float | None) -> Any:
        """Run `coroutine` to its end and return its result; raise TimeoutError after `timeout` seconds.

        On the loop itself, in a strand, it goes on there; from other threads it is waited for.
        """
        loop = self.running()
        if self.lifespans and self._entered is None:
            coroutine = self._after_entering(coroutine)
        if current() is not None:
            return within(coroutine, timeout)
        return self._answer(loop, asyncio.wait_for(coroutine, timeout), coroutine)

    @staticmethod
    def _answer(loop: asyncio.AbstractEventLoop, work: Any, coroutine: Coroutine[Any, Any, Any]) -> Any:
        answer = Future[Any]()

        def start() -> None:
            if answer.cancelled():
                work.close()
                coroutine.close()
                return
            task = loop.create_task(work)
            task.add_done_callback(lambda task: settle(answer, task))
            answer.add_done_callback(lambda answer: loop.call_soon_threadsafe(task.cancel) if answer.cancelled() else 0)

        try:
            loop.call_soon_threadsafe(start)
            return answer.result()
        except BaseException:
            # A soft time limit interrupts this thread only, anywhere; the coroutine must not go on behind it.
            answer.cancel()
            raise

    def running(self) -> asyncio.AbstractEventLoop:
        """Return the loop, which runs in its thread then."""
        with self._mutex:
            if self._loop is None or self._pid != os.getpid():
                loop = asyncio.new_event_loop()
                loop.time = monotonic  # type: ignore[method-assign]  # what sleeps in it wakes up, also in frozen time
                threading.Thread(target=run_for_ever, args=(loop,), name="pipeline-handlers", daemon=True).start()
                self._pid, self._loop, self._entered, self._entering = os.getpid(), loop, None, asyncio.Lock()
            return self._loop

    async def _after_entering(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Await a handler when all lifespans have been entered; it is not called when one of them fails."""
        try:
            async with self._entering:
                if self._entered is None:
                    async with AsyncExitStack() as stack:
                        for lifespan in self.lifespans:
                            await stack.enter_async_context(lifespan())
                        self._entered = stack.pop_all()
        except BaseException:
            coroutine.close()
            raise
        return await coroutine

    def close(self) -> None:
        """Leave what was entered, and stop the loop."""
        with self._mutex:
            loop, entered, self._loop, self._entered = self._loop, self._entered, None, None
        if loop is None or self._pid != os.getpid():
            return
        if entered is not None:
            try:
                asyncio.run_coroutine_threadsafe(entered.aclose(), loop).result(FAREWELL)
            except Exception as exc:
                logger.warning("what an app's lifespan cleans up was not cleaned up: %s", line_of(exc), exc_info=exc)
        loop.call_soon_threadsafe(loop.stop)


def run_for_ever(loop: asyncio.AbstractEventLoop) -> None:
    """Run a loop until it is stopped; asyncio also ends at a handler's SystemExit, which is for the waiting thread."""
    while True:
        with contextlib.suppress(SystemExit, KeyboardInterrupt):
            loop.run_forever()
            break
    if not asyncio.all_tasks(loop):  # what is left of others ends with the process
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


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
