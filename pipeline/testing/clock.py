"""Virtual time: a clock that somebody moves, the chance that a seed gives, and timers that ring by that clock."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from datetime import datetime
from itertools import count
from typing import Any

from ..core.times import SECOND, micros


def step(seconds: float) -> int:
    """Return the microseconds that a pause takes: one at least, so that whoever waits for the rest of a time ends."""
    return max(1, round(seconds * SECOND))


class VirtualClock:
    """The time and the chance of an application that is tested; each look at it takes a microsecond.

    Arguments:
        start: when it begins.
        seed: of all that is random.

    Attributes:
        skew: microseconds that the worker's own clock is ahead of the time, as the database and beat have that.
        waits: what is done when somebody waits who is not in a handler.

    """

    def __init__(self, start: datetime, seed: int) -> None:
        self._at = micros(start)
        self._random = random.Random(seed)  # the same each time is what it is for
        self.skew = 0
        self.waits: Callable[[float], object] | None = None

    @property
    def at(self) -> int:
        """The time in microseconds since 1970, without a look that takes one."""
        return self._at

    @property
    def here(self) -> int:
        """What the worker's clock says, without a look."""
        return self._at + self.skew

    def look(self) -> int:
        """Return the time in microseconds since 1970: no two looks find the same."""
        self._at += 1
        return self._at

    def now(self) -> int:
        """Return what the worker's clock says, in microseconds since 1970."""
        return self.look() + self.skew

    def passed(self) -> float:
        """Return the seconds that have passed, which no skew changes."""
        return self._at / SECOND

    def jump(self, at: int) -> None:
        """Let it be a later time."""
        self._at = max(self._at, at)

    def pause(self, seconds: float) -> None:
        """Let some time pass: nobody sleeps."""
        if self.waits is not None:
            self.waits(seconds)
        else:
            self._at += step(seconds)

    def chance(self) -> float:
        """Return a random number in [0, 1)."""
        return self._random.random()

    def random_bytes(self, number: int) -> bytes:
        """Return so many random bytes."""
        return self._random.randbytes(number)


class Entry:
    """A call that a timer makes once, unless somebody cancels it."""

    def __init__(self, call: Callable[[], object]) -> None:
        self.call = call
        self.cancelled = False

    def cancel(self) -> None:
        """Let it not be made."""
        self.cancelled = True


class VirtualTimer:
    """A worker's timer, as Celery uses it, that rings by a virtual clock, and in the thread that moves that."""

    def __init__(self, clock: VirtualClock) -> None:
        self._clock = clock
        self._number = count()
        self._entries: list[tuple[int, int, Entry]] = []

    def call_after(self, seconds: float, call: Any, args: Any = (), kwargs: Any = None, priority: int = 0) -> Entry:
        """Make a call in some seconds."""
        return self._enter(self._clock.at + round(seconds * SECOND), call, args, kwargs)

    def call_at(self, eta: Any, call: Any, args: Any = (), kwargs: Any = None, priority: int = 0) -> Entry:
        """Make a call at a time of the worker's clock: a datetime, or seconds since 1970."""
        at = micros(eta) if isinstance(eta, datetime) else round(eta * SECOND)
        return self._enter(at - self._clock.skew, call, args, kwargs)

    def call_repeatedly(
        self, seconds: float, call: Any, args: Any = (), kwargs: Any = None, priority: int = 0
    ) -> Entry:
        """Make no call: what a worker does now and then is done whenever time has passed."""
        return Entry(lambda: None)

    def _enter(self, at: int, call: Any, args: Any, kwargs: Any) -> Entry:
        entry = Entry(lambda: call(*args, **(kwargs or {})))
        heapq.heappush(self._entries, (at, next(self._number), entry))
        return entry

    def next(self) -> int | None:
        """Return when it rings next (microseconds)."""
        while self._entries and self._entries[0][2].cancelled:
            heapq.heappop(self._entries)
        return self._entries[0][0] if self._entries else None

    def ring(self) -> int:
        """Make the calls whose time has come; return how many."""
        done = 0
        while (at := self.next()) is not None and at <= self._clock.at:
            heapq.heappop(self._entries)[2].call()
            done += 1
        return done

    def cancel(self, entry: Entry) -> None:
        """Let a call not be made."""
        entry.cancel()

    def clear(self) -> None:
        """Forget all calls."""
        self._entries.clear()

    stop = clear
