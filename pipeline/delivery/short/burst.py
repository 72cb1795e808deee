"""What a broker hands over in one burst is claimed at once, run one after the other, and recorded at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .runs import Taken
from .way import ShortWay

#: Deliveries of a group, at most: that many may run again when their process dies.
MOST = 100


class InBursts(ShortWay):
    """Delivers in groups what has come in one burst.

    Arguments:
        consumer: the worker's.
        by_celery: sends a message the long way, or gives its task message to the function that is passed.
        flush: writes what was acknowledged so far.
        most: deliveries that wait for the end of their burst.

    """

    def __init__(
        self, consumer: Any, by_celery: Callable[..., None], flush: Callable[[], None], most: int = MOST
    ) -> None:
        super().__init__(consumer, by_celery)
        self._flush = flush  # type: ignore[method-assign]  # the connection's
        self._most = most
        self._waiting: list[Taken] = []

    def takes(self, message: Any, event: dict[str, Any], queue: str) -> bool:
        """Deliver an event if it is ordinary, else what has come before it: then the message goes the long way."""
        ordinary = super().takes(message, event, queue)
        if not ordinary:
            self.run()
        return ordinary

    def _deliver(self, taken: Taken) -> None:
        self._waiting.append(taken)
        if len(self._waiting) >= self._most:
            self.run()

    def run(self) -> None:
        """Deliver what the burst has brought."""
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        with self._inline:
            self._deliver_some(waiting)

    def close(self) -> None:
        """Forget what waits: its connection has ended, and the broker gives it again."""
        self._waiting.clear()
