"""At most so many deliveries of one agent at once in a worker: the others wait in the order of their arrival."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any


class Gate:
    """Lets `limit` requests through at once, to `run`, which starts them; each that leaves lets in the next.

    What waits stays unacknowledged in the worker's prefetch window, so nothing is lost when the worker dies.
    """

    def __init__(self, limit: int, run: Callable[[Any], None]) -> None:
        self._limit = limit
        self._run = run
        self._running = 0
        self._waiting: deque[Any] = deque()
        self._mutex = threading.Lock()

    def enter(self, request: Any) -> None:
        """Run the request now, or when its turn comes."""
        request.gate = self
        with self._mutex:
            if self._running >= self._limit:
                self._waiting.append(request)
                return
            self._running += 1
        self._run(request)

    def leave(self) -> None:
        """Take note that a request has ended, and run the next one."""
        with self._mutex:
            if not self._waiting:
                self._running -= 1
                return
            request = self._waiting.popleft()
        self._run(request)

    def close(self) -> None:
        """Forget what waits: after a lost connection the broker delivers it again."""
        with self._mutex:
            self._waiting.clear()
