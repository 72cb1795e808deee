"""Times: now, the ledger's microseconds, when something is due, and how long it takes."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial

from .errors import InvalidEvent

#: Microseconds per second.
SECOND = 1_000_000
#: Seconds; a delay or an interval that is longer is a mistake, and so is infinity.
CENTURY = 100 * 366 * 86400
#: Seconds in the units of a duration that is written as text.
UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 7 * 86400.0}
#: Seconds that something quick takes, and how much its latest run counts in the mean.
QUICK, WEIGHT = 0.001, 0.2
#: Seconds on the clock that deadlines are measured with. Libraries that freeze the time in tests stop `time.monotonic`
#: too: then no deadline would ever pass.
monotonic: Callable[[], float] = partial(time.clock_gettime, time.CLOCK_MONOTONIC)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def now() -> int:
    """Return the time in the ledger's unit: microseconds since 1970."""
    return time.time_ns() // 1000


def micros(when: datetime) -> int:
    """Return a time in the ledger's unit."""
    return round(when.timestamp() * SECOND)


def moment(at: int) -> datetime:
    """Return a time of the ledger as a datetime (UTC)."""
    return _EPOCH + timedelta(0, at // SECOND, at % SECOND)  # not from a float, which has too few digits from 2242 on


class Pace:
    """How long something takes, as a running mean of seconds; as long as nobody knows, it is not quick."""

    __slots__ = ("mean",)

    def __init__(self) -> None:
        self.mean: float | None = None

    def took(self, seconds: float) -> None:
        """Take note of the latest run."""
        self.mean = seconds if self.mean is None else self.mean + (seconds - self.mean) * WEIGHT

    @property
    def is_quick(self) -> bool:
        """Whether it is known to be quick."""
        return self.mean is not None and self.mean <= QUICK


def due_time(delay: float | timedelta | None, at: datetime | None) -> datetime | None:
    """Return when something is due, or None for now; raise InvalidEvent when that is no time.

    Arguments:
        delay: seconds or a timedelta from now.
        at: an aware datetime.

    """
    if delay is None and at is None:
        return None
    if delay is not None and at is not None:
        raise InvalidEvent("delay: give delay= or at=, not both")
    if at is not None:
        if not isinstance(at, datetime):
            raise InvalidEvent(f"at: {at!r} is no datetime; use datetime.now(UTC) + ...")
        if at.tzinfo is None:
            raise InvalidEvent(f"at: {at.isoformat()} has no time zone; use datetime.now(UTC) + ...")
        return at
    if not isinstance(delay, (int, float, timedelta)):
        raise InvalidEvent(f"delay: {delay!r} is neither a number of seconds nor a timedelta")
    seconds = delay.total_seconds() if isinstance(delay, timedelta) else delay
    if not 0 <= seconds < CENTURY:
        raise InvalidEvent(f"delay: {seconds:g} seconds are not between now and a hundred years from now")
    return datetime.now(UTC) + timedelta(seconds=seconds)


def as_json_time(when: datetime | None) -> str | None:
    """Return a time as JSON has it."""
    return None if when is None else when.astimezone(UTC).isoformat().replace("+00:00", "Z")


def seconds_of(duration: float | timedelta | str, what: str) -> float:
    """Return a duration in seconds: of a number, a timedelta, or a text as "90s", "30m", "24h" and "7d" are.

    Arguments:
        what: the argument's name, for the error.

    Raises InvalidEvent when it is none, or not between now and a hundred years from now.

    """
    seconds: float | None = None
    if isinstance(duration, timedelta):
        seconds = duration.total_seconds()
    elif isinstance(duration, str):
        number, unit = duration[:-1], UNITS.get(duration[-1:])
        with suppress(ValueError):
            seconds = float(number) * unit if unit else None
    elif not isinstance(duration, bool) and isinstance(duration, (int, float)):
        seconds = float(duration)
    if seconds is None:
        raise InvalidEvent(f'{what}: {duration!r} is no duration: give seconds, a timedelta, or a text such as "24h"')
    if not 0 <= seconds < CENTURY:
        raise InvalidEvent(f"{what}: {seconds:g} seconds are not between now and a hundred years from now")
    return seconds
