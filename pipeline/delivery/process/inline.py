"""What the solo pool runs in the worker's own loop, beside which nobody else would tell the broker that it lives."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any


class Inline:
    """Stands around a function that runs handlers; while one runs, a thread of its own sends heartbeats.

    Arguments:
        run: the function.
        lines: the connections that need heartbeats now.
        every: seconds between two heartbeats.

    """

    def __init__(self, run: Callable[..., Any], lines: Callable[[], Iterable[Any]], every: float) -> None:
        self._run = run
        self._lines = lines
        self._every = every
        self._lock = threading.Lock()  # held while a heartbeat is sent: a TLS connection has one user at a time
        self._is_busy = False
        threading.Thread(target=self._beat, name="pipeline-inline", daemon=True).start()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run."""
        with self._lock:
            self._is_busy = True
        try:
            return self._run(*args, **kwargs)
        finally:
            with self._lock:
                self._is_busy = False

    def _beat(self) -> None:
        pause = threading.Event()
        while not pause.wait(self._every):
            with self._lock:
                for line in self._lines() if self._is_busy else ():
                    try:
                        line.keep_alive()
                    except Exception:  # the loop finds out by itself
                        break
