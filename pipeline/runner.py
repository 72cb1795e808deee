"""Calling a handler: sync ones in place, async ones on the one event loop that each worker process has."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Coroutine
from typing import Any

from .agent import Agent


class EventLoop:
    """An asyncio loop in a thread of its own, started on first use and anew after a fork."""

    def __init__(self) -> None:
        """Start nothing yet."""
        self._pid = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._mutex = threading.Lock()

    def run(self, coroutine: Coroutine[Any, Any, Any], timeout: float | None) -> Any:
        """Run `coroutine` to its end and return its result; raise TimeoutError after `timeout` seconds."""
        future = asyncio.run_coroutine_threadsafe(asyncio.wait_for(coroutine, timeout), self._running())
        try:
            return future.result()
        except BaseException:
            # A soft time limit interrupts this thread only; the coroutine must not go on behind it.
            future.cancel()
            raise

    def _running(self) -> asyncio.AbstractEventLoop:
        with self._mutex:
            if self._loop is None or self._pid != os.getpid():
                self._pid = os.getpid()
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=self._loop.run_forever, name="pipeline-handlers", daemon=True).start()
            return self._loop


def call(agent: Agent, arguments: tuple[Any, ...], loop: EventLoop) -> Any:
    """Run the agent's handler and return what it returns."""
    if agent.is_async:
        return loop.run(agent.handler(*arguments), agent.timeout)
    return agent.handler(*arguments)
