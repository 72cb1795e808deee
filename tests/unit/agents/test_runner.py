"""Handlers: sync ones run in place, async ones on the one event loop of the process."""

from __future__ import annotations

import asyncio
import functools
import os
import signal
import threading
from collections.abc import Generator, Iterator
from typing import Any

import pytest

from pipeline.agents.agent import Agent
from pipeline.agents.declare import declare
from pipeline.agents.loop import EventLoop
from pipeline.agents.runner import call
from tests.servers import wait_for


@pytest.fixture
def loop() -> Iterator[EventLoop]:
    one = EventLoop()
    yield one
    if one._loop is not None:
        one._loop.call_soon_threadsafe(one._loop.stop)
        wait_for(lambda: not one._loop.is_running(), "the loop to stop")
        one._loop.close()


async def where() -> tuple[str, int]:
    return threading.current_thread().name, id(asyncio.get_running_loop())


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate()]


def test_no_thread_is_started_before_an_async_handler_runs() -> None:
    before = threads()
    EventLoop()
    assert threads() == before


def test_a_sync_handler_runs_in_the_thread_that_calls_it(loop: EventLoop) -> None:
    agent = Agent("a", lambda data: (data, threading.current_thread()))
    assert call(agent, ("data",), loop) == ("data", threading.current_thread())


def test_all_async_handlers_of_a_process_share_one_loop_in_a_thread_of_its_own(loop: EventLoop) -> None:
    found: list[Any] = []
    others = [threading.Thread(target=lambda: found.append(loop.run(where(), None))) for _ in range(4)]
    for thread in others:
        thread.start()
    for thread in others:
        thread.join()
    found.append(loop.run(where(), None))
    assert len(found) == 5
    assert len(set(found)) == 1
    assert found[0][0] == "pipeline-handlers"


def test_async_handlers_of_several_threads_run_at_the_same_time(loop: EventLoop) -> None:
    meeting = threading.Barrier(2)

    async def meet() -> int:
        return await asyncio.to_thread(meeting.wait, 20)

    other = threading.Thread(target=lambda: loop.run(meet(), None))
    other.start()
    loop.run(meet(), None)  # returns only when both have arrived
    other.join()


def test_an_async_handler_gets_its_arguments_and_its_result_comes_back(loop: EventLoop) -> None:
    async def add(one: int, two: int) -> int:
        await asyncio.sleep(0)
        return one + two

    assert call(Agent("a", add, is_async=True), (1, 2), loop) == 3


def later(function: Any) -> Any:
    @functools.wraps(function)
    def wrapper(*arguments: Any) -> Any:
        return function(*arguments)

    return wrapper


def on_a_loop_of_its_own(function: Any) -> Any:
    @functools.wraps(function)
    def wrapper(*arguments: Any) -> Any:
        return asyncio.run(function(*arguments))

    return wrapper


def unawaited(function: Any) -> Any:
    async def wrapper(data: Any) -> Any:
        return function(data)

    return wrapper


class Awaitable:
    def __init__(self, data: Any) -> None:
        self.data = data

    def __await__(self) -> Generator[Any, None, Any]:
        return answer(self.data).__await__()


async def answer(data: Any) -> str:
    await asyncio.sleep(0)
    return f"{data} on {threading.current_thread().name}"


HANDLERS = {
    "a decorator": later(answer),
    "two decorators": later(later(answer)),
    "a decorator that looks async and does not await": unawaited(answer),
    "a function that returns a coroutine": lambda data: answer(data) if data else None,
    "a function that returns something to await": Awaitable,
    "a partial of a decorated one": functools.partial(later(answer)),
}


@pytest.mark.parametrize("looks_async", [True, False])
@pytest.mark.parametrize("handler", HANDLERS.values(), ids=HANDLERS)
def test_what_has_to_be_awaited_is_awaited_however_it_is_wrapped(
    loop: EventLoop, handler: Any, looks_async: bool
) -> None:
    assert call(Agent("a", handler, is_async=looks_async), ("this",), loop) == "this on pipeline-handlers"


def test_a_decorator_that_runs_the_handler_itself_is_left_alone(loop: EventLoop) -> None:
    agent = declare(on_a_loop_of_its_own(answer), on="a.b")
    assert call(agent, ("this",), loop) == f"this on {threading.current_thread().name}"


def test_an_async_handler_behind_a_decorator_is_cancelled_when_it_takes_too_long(loop: EventLoop) -> None:
    @later
    async def endless(data: Any) -> None:
        await asyncio.Event().wait()

    with pytest.raises(TimeoutError):
        call(declare(endless, on="a.b", timeout=0.05), ("this",), loop)


def test_an_async_handlers_error_comes_back(loop: EventLoop) -> None:
    async def fail(data: Any) -> None:
        raise LookupError(data)

    with pytest.raises(LookupError, match="this"):
        call(Agent("a", fail, is_async=True), ("this",), loop)


def test_an_async_handler_that_takes_too_long_is_cancelled(loop: EventLoop) -> None:
    ended: list[str] = []

    async def endless(data: Any) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(data)

    with pytest.raises(TimeoutError):
        call(Agent("a", endless, is_async=True, timeout=0.05), ("x",), loop)
    assert ended == ["x"]
    assert loop.run(where(), None)[0] == "pipeline-handlers", "the loop goes on"


def test_a_handler_whose_waiting_thread_is_interrupted_does_not_go_on_behind_it(loop: EventLoop) -> None:
    ended = threading.Event()

    class SoftLimitError(Exception):
        pass

    def raise_it(*_: object) -> None:
        raise SoftLimitError

    async def endless() -> None:
        os.kill(os.getpid(), signal.SIGUSR1)  # which Python handles in the main thread, as a soft time limit is
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    before = signal.signal(signal.SIGUSR1, raise_it)
    try:
        with pytest.raises(SoftLimitError):
            loop.run(endless(), 20)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert ended.wait(20)
    assert loop.run(where(), None), "the loop goes on"


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
@pytest.mark.parametrize("timeout", [None, 20.0])
def test_a_handler_that_ends_its_process_ends_the_thread_that_waits(
    loop: EventLoop, error: type[BaseException], timeout: float | None
) -> None:
    async def leave() -> None:
        raise error

    with pytest.raises(error):
        loop.run(leave(), timeout)
    assert loop.run(where(), 20), "the loop goes on"


def test_after_a_fork_the_child_has_a_loop_of_its_own(loop: EventLoop) -> None:
    loop.run(where(), None)
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            name, _ = loop.run(where(), 20)
            os.write(write, name.encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        assert pipe.read() == b"pipeline-handlers"
    os.waitpid(pid, 0)
    assert loop.run(where(), None)[0] == "pipeline-handlers", "the parent's loop still runs"
