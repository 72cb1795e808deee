"""Repeated measurements, and the ratio of two series that were measured in turns."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Ratio:
    """The median of the ratios of paired measurements, and their spread."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        """Return `median (low-high)`."""
        return f"{self.median:.2f} ({self.low:.2f}-{self.high:.2f})"


def median(values: Iterable[float]) -> float:
    """Return the median."""
    return statistics.median(values)


def ratio(numerators: Sequence[float], denominators: Sequence[float]) -> Ratio:
    """Return the ratio of two series, pair by pair: what slows the machine down for a while slows down both."""
    ratios = [a / b for a, b in zip(numerators, denominators, strict=True)]
    return Ratio(median(ratios), min(ratios), max(ratios))


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the smallest value that is not exceeded by `percent` of the values."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


@dataclass(frozen=True)
class Took:
    """What a call took: seconds on the wall, and seconds of this process's CPU."""

    wall: float
    cpu: float


def timed(call: Callable[[], object]) -> Took:
    """Call, without the garbage collector's pauses for what was there before."""
    gc.collect()
    cpu, wall = time.process_time(), time.perf_counter()
    call()
    return Took(time.perf_counter() - wall, time.process_time() - cpu)
