"""Event loops that a test leaves open: whoever collects the garbage later would be blamed for them."""

from __future__ import annotations

import asyncio
from functools import wraps
from weakref import WeakSet

#: All loops that this process has made and somebody still has.
LOOPS: WeakSet[asyncio.BaseEventLoop] = WeakSet()


def watch() -> None:
    """Note every loop that is made from now on."""
    make = asyncio.BaseEventLoop.__init__

    @wraps(make)
    def made(loop: asyncio.BaseEventLoop) -> None:
        make(loop)
        LOOPS.add(loop)

    asyncio.BaseEventLoop.__init__ = made  # type: ignore[method-assign]


def left_open() -> set[asyncio.BaseEventLoop]:
    """Return the loops that nobody runs and nobody has closed."""
    return {loop for loop in LOOPS if not loop.is_running() and not loop.is_closed()}
