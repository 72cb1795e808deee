"""The sweeper: does a worker's chores, each when it is time. No beat is needed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from ..core import forks
from ..core.errors import PipelineError
from ..core.times import monotonic
from .chores import Chore, Chores

if TYPE_CHECKING:
    from ..bus import Bus


class Sweeper:
    """Runs the chores of a worker that has a ledger, each time sweep() is called."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self.chores = Chores(bus)
        self._list: Sequence[Chore] = self.chores.all()
        self._next: dict[str, float] = {}

    def sweep(self) -> int:
        """Do all that is due now; return how many things were done."""
        with forks.held_off():  # what this thread has locked, a module that it imports too, a child could never unlock
            try:
                done = self._run(chore for chore in self._list if chore.sends)
            finally:
                self.chores.close()  # an idle connection beside the worker's own would be in the way of forks
        return done + self._run(chore for chore in self._list if not chore.sends)

    def _run(self, chores: Iterable[Chore]) -> int:
        return sum(chore.run() for chore in chores if self._is_time(chore))

    def _is_time(self, chore: Chore) -> bool:
        if chore.every == 0 or chore.has_more():
            return True
        at = monotonic()
        if at < self._next.get(chore.name, 0.0):
            return False
        self._next[chore.name] = at + chore.every
        return True

    def leave(self) -> None:
        """Say that the worker has ended, and close what was opened."""
        with suppress(PipelineError):
            self._bus.ledger.workers.leave(self._bus.worker_id)
        self.chores.close()
