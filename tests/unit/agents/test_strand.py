"""Code that is written as if it waited, and lets an event loop go on while it does."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from pipeline.agents.strand import Cancelled, Strand, aside, current, see_through, to_end, wait, within

whose = contextvars.ContextVar("whose", default=0)


async def run(work: Callable[[], Any]) -> Any:
    return await to_end(Strand("work", work))


def test_a_strand_waits_and_the_loop_goes_on() -> None:
    order: list[str] = []

    def work() -> str:
        order.append("begun")
        within(asyncio.sleep(0.05), None)
        order.append("ended")
        return "done"

    async def main() -> str:
        running = asyncio.ensure_future(run(work))
        await asyncio.sleep(0.01)
        order.append("meanwhile")
        answer: str = await running
        return answer

    assert asyncio.run(main()) == "done"
    assert order == ["begun", "meanwhile", "ended"]
    assert current() is None


def test_each_strand_has_its_own_context_variables_which_its_tasks_see() -> None:
    async def handler(number: int) -> int:
        whose.set(number)
        async with asyncio.TaskGroup() as group:
            child = group.create_task(asyncio.sleep(0.01, result=whose.get()))
        await asyncio.sleep(0.01)
        return child.result() + whose.get()

    def work(number: int) -> int:
        answer: int = within(handler(number), 5)
        return answer + whose.get()

    async def main() -> list[int]:
        return await asyncio.gather(*(run(lambda n=n: work(n)) for n in range(20)))  # type: ignore[misc]

    assert asyncio.run(main()) == [3 * n for n in range(20)]


def test_what_is_awaited_runs_in_the_strand_itself() -> None:
    async def handler() -> object:
        await asyncio.sleep(0)
        return current()

    def work() -> bool:
        return within(handler(), None) is current()

    assert asyncio.run(run(work))


def test_an_error_comes_out_where_it_is_waited_for() -> None:
    async def handler() -> None:
        await asyncio.sleep(0)
        raise ValueError("no")

    def work() -> str:
        try:
            within(handler(), None)
        except ValueError as exc:
            return str(exc)
        return ""

    assert asyncio.run(run(work)) == "no"
    with pytest.raises(ValueError, match=r"^no$"):
        asyncio.run(run(lambda: within(handler(), None)))


def test_what_takes_too_long_is_cancelled_and_a_timeout() -> None:
    cleaned: list[str] = []

    async def handler() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            cleaned.append("up")

    with pytest.raises(TimeoutError):
        asyncio.run(run(lambda: within(handler(), 0.02)))
    assert cleaned == ["up"]


def cancelled(work: Callable[[], Any], *, before: bool = False) -> Any:
    """Run work that is cancelled while it waits, or before it does."""

    async def main() -> Any:
        strand = Strand("work", work)
        task = asyncio.ensure_future(_end(strand))
        if not before:
            await asyncio.sleep(0.02)
        strand.cancelled = True
        if not before:
            task.cancel()
        return await task

    async def _end(strand: Strand) -> Any:
        return await to_end(strand)

    return asyncio.run(main())


def test_a_cancelled_strand_says_so_after_its_handler_has_cleaned_up() -> None:
    seen: list[str] = []

    async def handler() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    with pytest.raises(Cancelled):
        cancelled(lambda: within(handler(), None))
    assert seen == ["cancelled"]


def test_a_handler_that_ends_all_the_same_has_ended() -> None:
    async def handler() -> str:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            return "all the same"
        return "never"

    assert cancelled(lambda: within(handler(), None)) == "all the same"


def test_a_strand_that_was_cancelled_before_its_handler_does_not_call_it() -> None:
    called: list[str] = []

    async def handler() -> None:
        called.append("yes")

    with pytest.raises(Cancelled):
        cancelled(lambda: within(handler(), None), before=True)
    assert called == []


def test_what_must_not_be_interrupted_is_seen_through() -> None:
    def work() -> str:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[str] = loop.create_future()
        loop.call_later(0.1, future.set_result, "recorded")
        return see_through(future)

    assert cancelled(work) == "recorded"


def test_a_call_that_blocks_is_made_in_another_thread_with_the_same_context() -> None:
    def work() -> tuple[bool, int]:
        whose.set(7)
        return aside(lambda: (threading.current_thread() is not threading.main_thread(), whose.get()))

    async def main() -> tuple[Any, int]:
        turns = 0
        running = asyncio.ensure_future(run(lambda: (aside(lambda: time.sleep(0.1)), work())[1]))
        while not running.done():
            turns += 1
            await asyncio.sleep(0.005)
        return await running, turns

    answer, turns = asyncio.run(main())
    assert answer == (True, 7)
    assert turns > 3, "the loop has gone on"
    assert aside(threading.current_thread) is threading.current_thread()


def test_a_future_can_be_waited_for_too() -> None:
    def work() -> int:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[int] = loop.create_future()
        loop.call_soon(future.set_result, 3)
        return wait(future)

    assert asyncio.run(run(work)) == 3
