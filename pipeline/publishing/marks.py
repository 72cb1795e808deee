"""What the broker has and the outbox has still: it is taken out with the next append, or a moment later.

A process that dies before that has its last events sent once more by the relay; the inbox knows them.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..core import forks
from ..core.observe import Log
from ..core.times import monotonic

if TYPE_CHECKING:
    from ..ledger.ledger import Ledger

logger = Log(logging.getLogger(__name__))

#: Seconds after which marks are written that no append has taken along.
SOON = 0.05
#: Seconds for which the thread that writes them goes on when there are none: a new one for each event costs more.
LINGER = 0.3
#: Marks that one append takes along.
ALONG = 500
#: Seconds between two tries to write marks into a ledger that is away, and how many: then the relay has found out.
AGAIN, TRIES = 1.0, 10


class Marks:
    """The ids of events that the broker has and the outbox has still; a forked child leaves its parent's alone."""

    def __init__(self, ledger: Ledger, *, by_hand: bool = False) -> None:
        """Take the ledger.

        Arguments:
            by_hand: whether marks wait for the next append, or for flush(), however long that is.

        """
        self._ledger, self._by_hand = ledger, by_hand
        self._begin()
        forks.watch(self)

    def _begin(self) -> None:
        self._ids: deque[str] = deque()
        self._changing, self._writing = threading.RLock(), threading.RLock()
        self._thread: threading.Thread | None = None
        self._failed = 0

    def add(self, ids: Sequence[str]) -> None:
        """Note that the broker has events; that is written soon."""
        if not ids:
            return
        with self._changing:
            self._ids.extend(ids)
            if self._by_hand or self._thread is not None:
                return
            # No daemon: the process ends when that is written, which begins as soon as the main thread has ended.
            self._thread = threading.Thread(target=self._write_soon, name="pipeline-marks")
            try:
                self._thread.start()
            except RuntimeError:  # the process has no thread left, or ends
                self._thread = None
        if self._thread is None:
            self.flush()

    def take(self, most: int = ALONG) -> list[str]:
        """Return ids for one who writes into the ledger anyhow; when that fails, add() them again."""
        ids, taken = self._ids, list[str]()
        while ids and len(taken) < most:
            try:
                taken.append(ids.popleft())
            except IndexError:  # another thread has it
                break
        return taken

    def _write_soon(self) -> None:
        main, last = threading.main_thread(), monotonic()
        while True:
            main.join(AGAIN if self._failed else SOON)
            last = monotonic() if self._ids else last
            self.flush()
            with self._changing:
                if not main.is_alive() or (not self._ids and monotonic() - last > LINGER):
                    self._thread = None
                    return

    def flush(self) -> None:
        """Write what waits; while the ledger does not take it, it waits on."""
        with self._writing:  # who closes the ledger comes after a transaction that is under way
            ids = self.take(len(self._ids))
            try:
                if ids:
                    self._ledger.mark_sent(ids)
            except Exception as exc:
                if not self._failed:
                    logger.warning("the broker has %d event(s), but that could not be noted: %s", len(ids), exc)
                self._failed += 1
                if self._failed < TRIES:
                    self._ids.extend(ids)
            else:
                self._failed = 0

    # -- forks

    def before_fork(self) -> None:
        """Do nothing: what waits is written by the parent."""

    def after_fork(self, *, child: bool) -> None:
        """Begin anew in a child."""
        if child:
            self._begin()
