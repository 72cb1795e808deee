"""What goes back to its queue waits before it does, the longer the longer that has gone on.

Until then its message stays unacknowledged in the worker's prefetch window: it holds no slot of the pool, the broker
sends no more than fits beside it, and when the worker ends or the connection is lost, the broker has it at once.
"""

from __future__ import annotations

from collections.abc import Callable

from ...core.times import monotonic

#: Seconds of a pause, at least and at most.
SHORTEST, LONGEST = 0.1, 10.0
#: Deliveries that are remembered, the latest ones.
REMEMBERED = 10_000


class Returns:
    """The deliveries that a worker could not end, and could not record either."""

    def __init__(self, call_after: Callable[[float, Callable[[], None]], object]) -> None:
        """Take what calls a function after some seconds, in the thread that may use the connection."""
        self._call_after = call_after
        #: When each delivery came to nothing for the first time; one that ends is taken out.
        self.since: dict[str, float] = {}
        self._connection = object()

    def after_pause(self, id: str, give_back: Callable[[], object]) -> None:
        """Give a message back after a pause as long as its delivery has come to nothing so far.

        Each pause is thereby about twice as long as the one before it, however long an attempt takes.
        """
        at = monotonic()
        pause = min(max(at - self.since.setdefault(id, at), SHORTEST), LONGEST)
        while len(self.since) > REMEMBERED:
            self.since.pop(next(iter(self.since)), None)
        connection = self._connection

        def give_back_here() -> None:
            if connection is self._connection:
                give_back()

        self._call_after(pause, give_back_here)

    def forget_waiting(self) -> None:
        """Give back nothing of what waits: with its connection the broker has taken it back."""
        self._connection = object()
