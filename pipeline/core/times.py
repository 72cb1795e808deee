"""Times: now, the ledger's microseconds, when something is due, and how long it takes; and chance.

The package asks nobody else what time it is, and nobody else for what is random: who tests an application puts a clock
of his own in their place.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Protocol

from .errors import InvalidEvent, PipelineError

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


class Clock(Protocol):
    """What time it is, and what is random."""

    def now(self) -> int:
        """Return the time in microseconds since 1970."""

    def passed(self) -> float:
        """Return the seconds that have passed since some time or other."""

    def pause(self, seconds: float) -> None:
        """Let some time pass."""

    def chance(self) -> float:
        """Return a random number in [0, 1)."""

    def random_bytes(self, number: int) -> bytes:
        """Return so many random bytes."""


class _Asked:
    """Who is asked instead of the machine while an application is tested; one look at this is what that costs."""

    clock: Clock | None = None


@contextmanager
def clocked(clock: Clock) -> Iterator[None]:
    """Let everything in this process have its time and its chance from a clock."""
    before, _Asked.clock = _Asked.clock, clock
    try:
        yield
    finally:
        _Asked.clock = before


def now() -> int:
    """Return the time in the ledger's unit: microseconds since 1970."""
    return time.time_ns() // 1000 if (clock := _Asked.clock) is None else clock.now()


def utc_now() -> datetime:
    """Return the time as a datetime (UTC)."""
    return datetime.now(UTC) if (clock := _Asked.clock) is None else moment(clock.now())


def seconds() -> float:
    """Return the time in seconds since 1970."""
    return now() / SECOND


def passed() -> float:
    """Return seconds on the clock by which the bus rests and remembers: a test's, where one moves the time.

    What waits for another process or a socket goes by `monotonic`, which nobody moves.
    """
    return monotonic() if (clock := _Asked.clock) is None else clock.passed()


def pause(seconds: float) -> None:
    """Wait, where the bus has promised to, or where what is waited for needs no more than time."""
    if (clock := _Asked.clock) is None:
        time.sleep(seconds)
    else:
        clock.pause(seconds)


def chance() -> float:
    """Return a random number in [0, 1): it spreads what would else happen at once."""
    return random.random() if (clock := _Asked.clock) is None else clock.chance()


def random_bytes(number: int) -> bytes:
    """Return so many random bytes, which nobody can guess."""
    return os.urandom(number) if (clock := _Asked.clock) is None else clock.random_bytes(number)


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
        if abs(at - utc_now()) > timedelta(seconds=CENTURY):
            raise InvalidEvent(f"at: {at.isoformat()} is more than a hundred years from now")
        return at
    if not isinstance(delay, (int, float, timedelta)):
        raise InvalidEvent(f"delay: {delay!r} is neither a number of seconds nor a timedelta")
    seconds = delay.total_seconds() if isinstance(delay, timedelta) else delay
    if not 0 <= seconds < CENTURY:
        raise InvalidEvent(f"delay: {seconds:g} seconds are not between now and a hundred years from now")
    return utc_now() + timedelta(seconds=seconds)


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
    with suppress(ValueError, OverflowError):
        if isinstance(duration, timedelta):
            seconds = duration.total_seconds()
        elif isinstance(duration, str):
            number, unit = duration[:-1], UNITS.get(duration[-1:])
            seconds = float(number) * unit if unit else None
        elif not isinstance(duration, bool) and isinstance(duration, (int, float)):
            seconds = float(duration)
    if seconds is None:
        raise InvalidEvent(f'{what}: {duration!r} is no duration: give seconds, a timedelta, or a text such as "24h"')
    if not 0 <= seconds < CENTURY:
        raise InvalidEvent(f"{what}: {seconds:g} seconds are not between now and a hundred years from now")
    return seconds


def time_limit(duration: float | timedelta | str, what: str, error: type[PipelineError] = InvalidEvent) -> float:
    """Return in seconds how long something may take, as seconds_of() does; it has to be more than no time.

    Arguments:
        error: what is raised in place of InvalidEvent.

    """
    try:
        seconds = seconds_of(duration, what)
    except InvalidEvent as exc:
        raise error(str(exc)) from None
    if not seconds:
        raise error(f'{what}={duration!r}: nothing is done in no time; give more than 0 seconds, such as 30 or "24h"')
    return seconds
