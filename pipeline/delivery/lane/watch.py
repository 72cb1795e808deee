"""A watch over the event loop: a handler that blocks it holds up all others, and is named in the log."""

from __future__ import annotations

import asyncio
import sys
import sysconfig
import threading
from collections.abc import Callable
from types import CodeType, FrameType

from celery.utils.log import get_logger

from ...core.observe import Log
from ...core.times import monotonic

logger = Log(get_logger(__name__))
#: Seconds that a loop may be blocked before it is said, and between two looks at it.
LIMIT, EVERY = 1.0, 0.25
BLOCKED = (
    "agent %s blocks the event loop at %s, so no other async handler goes on: await what takes long, use "
    "asyncio.to_thread(), or make the agent a sync one"
)
#: Where the code is that is nobody's handler.
_LIBRARIES = tuple(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib"))


class Watch:
    """Says once for each time that a loop is blocked who does it and where, and afterwards for how long it was."""

    def __init__(self, loop: asyncio.AbstractEventLoop, marked: CodeType, name_of: Callable[[FrameType], str]) -> None:
        """Watch a loop that runs in another thread.

        Arguments:
            marked: the function that is on the stack while a handler runs.
            name_of: the agent's name, by that function's frame.

        """
        self._loop, self._marked, self._name_of = loop, marked, name_of
        self._turned = monotonic()
        self._thread = 0
        threading.Thread(target=self._watch, name="pipeline-watch", daemon=True).start()

    def _turn(self) -> None:
        self._thread = threading.get_ident()
        self._turned = monotonic()

    def _watch(self) -> None:
        pause = threading.Event()
        while not self._loop.is_closed():
            asked = monotonic()
            try:
                self._loop.call_soon_threadsafe(self._turn)
            except RuntimeError:  # it was closed just now
                return
            told = None
            while self._turned < asked and not pause.wait(EVERY):
                if told is None and monotonic() - asked > LIMIT:
                    told = self._who()
                    logger.warning(BLOCKED, *told)
            if told is not None:
                logger.warning("agent %s has blocked the event loop for %.1f s", told[0], self._turned - asked)
            pause.wait(EVERY)

    def _who(self) -> tuple[str, str]:
        """Return the agent whose handler runs in the loop's thread, and the line that its code is at."""
        frame = sys._current_frames().get(self._thread)
        name, place = "(unknown)", "an unknown place"
        inner = frame
        while frame is not None:
            if frame.f_code is self._marked:
                name = self._name_of(frame)
            if place == "an unknown place" and not frame.f_code.co_filename.startswith(_LIBRARIES):
                place = f"{frame.f_code.co_filename}:{frame.f_lineno}"
            frame = frame.f_back
        if place == "an unknown place" and inner is not None:
            place = f"{inner.f_code.co_filename}:{inner.f_lineno}"
        return name, place
