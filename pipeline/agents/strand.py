"""Strands: code that is written as if it waited, and lets an event loop go on while it does.

A delivery on the loop is a greenlet of its own. Everything around its handler (Celery's tracing, the bookkeeping) stays
the plain code that it is in every pool; where that has to wait, the strand hands what it waits for to the loop.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import types
from collections.abc import Awaitable, Callable, Generator
from typing import Any, TypeVar

from greenlet import getcurrent, greenlet

T = TypeVar("T")


class Cancelled(BaseException):
    """The delivery was cancelled from outside: what has become of it is not the handler's doing."""


class Strand(greenlet):  # type: ignore[misc]  # greenlet is untyped
    """One piece of work on the event loop.

    Attributes:
        name: what it is, for who asks what blocks the loop.
        cancelled: whether it is to end, and nothing of it to be recorded.

    """

    def __init__(self, name: str, work: Callable[[], Any]) -> None:
        super().__init__(work)
        self.name = name
        self.cancelled = False


def current() -> Strand | None:
    """Return the strand that runs here; None in every other place."""
    here = getcurrent()
    return here if isinstance(here, Strand) else None


@types.coroutine
def to_end(strand: Strand) -> Generator[Any, Any, Any]:
    """Run a strand in the asyncio task that awaits this; return what its work returns."""
    strand.gr_context = getcurrent().gr_context  # context variables are the task's
    waits_for = strand.switch()
    while not strand.dead:
        try:
            value = yield waits_for
        except BaseException as exc:  # also the task's cancellation
            waits_for = strand.throw(exc)
        else:
            waits_for = strand.switch(value)
    return waits_for


def wait(awaitable: Awaitable[T]) -> T:
    """Wait in the current strand, step by step: what is awaited runs in it, so that thread-local state is its own."""
    loop_side = getcurrent().parent
    steps: Any = awaitable.__await__()
    go_on: Any = steps.__next__
    value: tuple[Any, ...] = ()
    try:
        while True:
            waits_for = go_on(*value)
            try:
                go_on, value = steps.send, (loop_side.switch(waits_for),)
            except BaseException as exc:
                if not hasattr(steps, "throw"):  # a future's own iterator before it has begun
                    raise
                go_on, value = steps.throw, (exc,)
    except StopIteration as end:
        result: T = end.value
        return result


def see_through(future: asyncio.Future[T]) -> T:
    """Wait in the current strand for what goes on in any case, even when the strand is cancelled meanwhile."""
    while True:
        try:
            return wait(asyncio.shield(future))
        except asyncio.CancelledError:
            if future.done():
                return future.result()


def aside(call: Callable[[], T]) -> T:
    """Make a call that blocks: in a strand in another thread, while the loop goes on; elsewhere right here."""
    if current() is None:
        return call()
    context = contextvars.copy_context()
    return see_through(asyncio.get_running_loop().run_in_executor(None, context.run, call))


def await_done(what: concurrent.futures.Future[Any], seconds: float) -> None:
    """Wait until something is done elsewhere, but not for longer than that; a strand lets the loop go on."""
    if current() is None:
        concurrent.futures.wait([what], timeout=seconds)
    elif not what.done():
        see_through(asyncio.ensure_future(asyncio.wait([asyncio.wrap_future(what)], timeout=seconds)))


def within(awaitable: Any, seconds: float | None) -> Any:
    """Wait in the current strand for an awaitable; raise TimeoutError when it takes longer.

    Raises Cancelled when the strand was cancelled, whatever the handler has made of it.
    """
    strand = current()
    assert strand is not None
    if strand.cancelled:
        awaitable.close()
        raise Cancelled
    try:
        return wait(awaitable if seconds is None else _within(awaitable, seconds))
    except asyncio.CancelledError:
        if strand.cancelled:
            raise Cancelled from None
        raise


async def _within(awaitable: Awaitable[T], seconds: float) -> T:
    async with asyncio.timeout(seconds):
        return await awaitable
