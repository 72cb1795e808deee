"""A worker's cold end begins between two turns of its loop, and never in the middle of a frame or of a transaction."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from celery.apps.worker import safe_say
from celery.exceptions import WorkerTerminate
from celery.platforms import EX_FAILURE
from celery.worker.state import maybe_shutdown

from ...brokers.bell import Bell

#: The signals that may tell Celery to end at once: its second Ctrl-C, SIGQUIT, and SIGTERM when that is remapped.
SIGNALS = (signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGQUIT", signal.SIGTERM))

Handler = Callable[[int, FrameType | None], Any]


class Ends:
    """Puts off what Celery does at a cold end until the loop is between two turns.

    Celery does it where the signal comes: it cancels consumers, waits for the broker's answers, acknowledges and stops
    the pool, and the main thread may hold a lock of each of these, or have written half a frame. A warm end only sets a
    flag, and stays as it is. Who asks a second time while the first is put off, as a handler runs in the loop, has the
    worker end at once.
    """

    def __init__(self) -> None:
        self._turning = False
        self._put_off: Callable[[], object] | None = None
        self._bell: Bell | None = None

    @contextlib.contextmanager
    def turning(self) -> Iterator[None]:
        """Say that the loop turns meanwhile; only the main thread is sent signals."""
        self._turning = True
        for number in SIGNALS:
            self._watch(number)
        try:
            yield
        finally:
            self._turning = False
            if self._bell is not None:
                self._bell.close()
                self._bell = None
            self._do()

    def attend(self, loop: Any) -> None:
        """Have a loop come round at once when a cold end was put off; others come round by themselves."""
        self._bell = Bell(loop, self.between)

    def between(self) -> None:
        """Do what was put off and end the loop, as no pool is left; called between what the loop turns to."""
        if self._do():
            maybe_shutdown()

    def _do(self) -> bool:
        put_off, self._put_off = self._put_off, None
        if put_off is not None:
            put_off()
        return put_off is not None

    def _watch(self, number: int) -> None:
        """Stand before a signal's handler, which Celery may have replaced when the signal came."""
        handler = signal.getsignal(number)
        if callable(handler) and not isinstance(handler, _Watched):
            with contextlib.suppress(ValueError):  # not in the main thread, as in tests: nothing to stand before
                signal.signal(number, _Watched(self, handler))

    def on_signal(self, handler: Handler, number: int, frame: FrameType | None) -> None:
        """Pass a signal on, now or between two turns."""

        def pass_on() -> None:
            handler(number, frame)
            self._watch(number)

        if not (self._turning and _is_cold(handler)):
            pass_on()
        elif self._put_off is None:
            self._put_off = pass_on
            told = "worker: Ending at once, after the message at hand; asked again, it is left as it is"
            safe_say(told, sys.__stdout__)
            if self._bell is not None:
                self._bell.ring()
        else:
            raise WorkerTerminate(EX_FAILURE)


class _Watched:
    def __init__(self, ends: Ends, handler: Handler) -> None:
        self._ends = ends
        self._handler = handler

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self._ends.on_signal(self._handler, number, frame)


def _is_cold(handler: Handler) -> bool:
    # Celery's handlers are closures that differ in nothing else; one that is called otherwise is passed on as before.
    return getattr(handler, "__name__", "") == "worker_Cold"
