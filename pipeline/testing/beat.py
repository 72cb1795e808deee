"""Beat in virtual time: Celery's scheduler, without a process, a file and a loop of its own."""

from __future__ import annotations

from copy import copy
from datetime import datetime
from typing import Any

from celery.beat import Scheduler

from ..core.times import SECOND, moment
from .clock import VirtualClock


class Beat(Scheduler):  # type: ignore[misc]  # celery's classes are untyped
    """Publishes what the app's schedules say, each time that it is asked to, by a virtual clock."""

    def __init__(self, celery: Any, clock: VirtualClock) -> None:
        """Begin: intervals count from now, as they do when beat begins."""
        self._clock = clock
        super().__init__(celery)
        for entry in self.schedule.values():
            entry.schedule = copy(entry.schedule)  # which stays as it was declared
            entry.schedule.nowfun = self._now
            entry.last_run_at = self._now()
        #: How often something was published, or sent.
        self.published = 0
        #: When each entry is asked next whether it is due (microseconds).
        self._asks = dict.fromkeys(self.schedule, clock.at)
        self.ring()

    def _now(self) -> datetime:
        now: datetime = moment(self._clock.at).astimezone(self.app.timezone)
        return now

    def install_default_entries(self, data: Any) -> None:
        """Add none: what Celery cleans up each night is gone with the test."""

    def next(self) -> int | None:
        """Return when something may be due next (microseconds)."""
        return min(self._asks.values(), default=None)

    def ring(self) -> None:
        """Publish what is due, once, however often it was due since the last time."""
        for name, at in self._asks.items():
            if at <= self._clock.at:
                self._ask(name)

    def _ask(self, name: str) -> None:
        entry = self.schedule[name]
        is_due, seconds = entry.is_due()
        self._asks[name] = self._clock.at + max(1, round(seconds * SECOND))
        if is_due:
            self.reserve(entry)
            self.published += 1
            self.apply_async(entry, advance=False)  # apply_entry() would log what goes wrong, and go on
