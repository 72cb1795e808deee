"""The sweeper: does a worker's chores, each when it is time. No beat is needed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from celery.utils.log import get_logger

from ..core import forks
from ..core.errors import PipelineError
from ..core.observe import Log
from ..core.times import passed
from ..publishing.outbox import PAUSE
from .chores import Chore, Chores

if TYPE_CHECKING:
    from ..bus import Bus


logger = Log(get_logger(__name__))


class Sweeper:
    """Runs the chores of a worker that has a ledger, each time sweep() is called."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self.chores = Chores(bus)
        self._list: Sequence[Chore] = self.chores.all()
        self._next: dict[str, float] = {}
        self._paused: dict[str, float] = {}
        self._trouble: dict[str, str] = {}

    def sweep(self) -> int:
        """Do all that is due now; return how many things were done."""
        with forks.held_off():  # what this thread has locked, a module that it imports too, a child could never unlock
            try:
                done = self._run(chore for chore in self._list if chore.sends)
            finally:
                self.chores.close()  # an idle connection beside the worker's own would be in the way of forks
        return done + self._run(chore for chore in self._list if not chore.sends)

    def _run(self, chores: Iterable[Chore]) -> int:
        return sum(self._done(chore) for chore in chores if self._is_time(chore))

    def _done(self, chore: Chore) -> int:
        """Do a chore; one that fails is done again after a pause, and the others go on."""
        try:
            done = chore.run()
        except Exception as exc:  # what it needs is away, or it has a fault of its own
            if str(exc) not in self._trouble.values():  # a ledger that is away is so for all of them
                is_expected = isinstance(exc, (PipelineError, OSError))
                logger.warning("%s goes on in %g s: %s", chore.name, PAUSE, exc, exc_info=not is_expected)
            self._trouble[chore.name] = str(exc)
            self._paused[chore.name] = passed() + PAUSE
            return 0
        self._trouble.pop(chore.name, None)
        return done

    def _is_time(self, chore: Chore) -> bool:
        at = passed()
        if at < self._paused.get(chore.name, 0.0):
            return False
        if chore.every == 0 or chore.has_more():
            return True
        if at < self._next.get(chore.name, 0.0):
            return False
        self._next[chore.name] = at + chore.every
        return True

    def leave(self) -> None:
        """Say that the worker has ended, and close what was opened."""
        with suppress(PipelineError):
            self._bus.ledger.workers.leave(self._bus.worker_id)
        self.chores.close()
