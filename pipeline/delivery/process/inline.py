"""What is run in the worker's own loop, beside which nobody else would tell the broker that it lives."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any


class Inline:
    """Stands around what runs handlers; while that runs, a thread of its own sends heartbeats.

    Arguments:
        lines: the connections that need heartbeats now.
        every: seconds between two heartbeats; 0 for none.

    """

    def __init__(self, lines: Callable[[], Iterable[Any]], every: float) -> None:
        self._lines = lines
        self._every = every
        self._lock = threading.Lock()  # held while a heartbeat is sent: a TLS connection has one user at a time
        self._inside = 0
        if every:
            threading.Thread(target=self._beat, name="pipeline-inline", daemon=True).start()

    @property
    def is_busy(self) -> bool:
        """Whether something runs."""
        return self._inside > 0

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1

    def around(self, run: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function with this around it."""

        def run_inside(*args: Any, **kwargs: Any) -> Any:
            with self:
                return run(*args, **kwargs)

        return run_inside

    def _beat(self) -> None:
        pause = threading.Event()
        while not pause.wait(self._every):
            with self._lock:
                for line in self._lines() if self.is_busy else ():
                    try:
                        line.keep_alive()
                    except Exception:  # the loop finds out by itself
                        break
