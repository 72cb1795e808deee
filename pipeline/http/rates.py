"""How much each caller may do: a rate with bursts, counted in the memory of this one process."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable

from ..core.limits import gcra
from .problems import Problem

#: A caller may send at once what so many seconds bring.
BURST = 5
#: Callers that are remembered; of more, whoever has sent nothing for longest begins anew.
MOST_CALLERS = 10_000
_SECOND = 1_000_000


class Rates:
    """Counts what callers send, each by itself.

    Arguments:
        rate: requests a second; 0 for any number.
        clock: returns microseconds that never run back.

    """

    def __init__(self, rate: float, clock: Callable[[], int] = lambda: time.monotonic_ns() // 1000) -> None:
        self._rate = rate
        self._clock = clock
        self._interval = max(1, round(_SECOND / rate)) if rate > 0 else 0
        self._tolerance = (max(1, math.ceil(rate * BURST)) - 1) * self._interval
        self._arrivals: OrderedDict[str, int] = OrderedDict()

    def take(self, caller: str) -> None:
        """Count a request; raise Problem that says when there is room where it is too much."""
        if not self._interval:
            return
        now = self._clock()
        start, arrival = gcra.starts(self._arrivals.get(caller, 0), now, self._interval, self._tolerance)
        if start > now:  # who goes on trying does not wait longer for that
            wait = math.ceil((start - now) / _SECOND)
            detail = f"these are more than {self._rate:g} requests a second; wait {wait} s"
            raise Problem(429, detail, "too-many-requests", {"Retry-After": str(wait)})
        self._arrivals[caller] = arrival
        self._arrivals.move_to_end(caller)
        if len(self._arrivals) > MOST_CALLERS:
            self._arrivals.popitem(last=False)
