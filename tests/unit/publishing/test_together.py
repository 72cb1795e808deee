"""Threads and tasks that publish at the same time: in few batches, and each with its own outcome."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, cast

import pytest

from pipeline import Event
from pipeline.core.errors import BrokerUnavailable, IdTaken, LedgerUnavailable
from pipeline.core.event import new_event
from pipeline.publishing import together as module
from pipeline.publishing.direct import Outgoing
from pipeline.publishing.together import AT_ONCE, Together
from tests.servers import wait_for
from tests.threads import in_threads


class Way:
    """A way to the broker that can be held up, and that refuses what it is told to."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.timeouts: list[float] = []
        self.wrong: dict[int, Exception] = {}
        self.gates: dict[int, threading.Event] = {}

    def close(self, *numbers: int) -> threading.Event:
        """Hold up batches with such events, until the gate is set that is returned."""
        gate = threading.Event()
        self.gates.update(dict.fromkeys(numbers, gate))
        return gate

    def publish(self, events: Sequence[Event], *, timeout: float, shared: bool = False) -> list[Event]:
        numbers = [event.data for event in events]
        self.batches.append(numbers)
        self.timeouts.append(timeout)
        for number in numbers:
            assert number not in self.gates or self.gates[number].wait(20), "nobody has opened it"
        for number in numbers:
            if number in self.wrong:
                raise self.wrong[number]
        return [event.marked(sent=True) for event in events]


@pytest.fixture
def way() -> Way:
    return Way()


@pytest.fixture
def together(way: Way) -> Together:
    return Together(lambda: cast(Outgoing, way), 60.0)


def event(number: int) -> Event:
    return new_event("order.placed", number, source="/test")


def publish(together: Together, way: Way, number: int, timeout: float | None = None) -> int:
    """Publish as an app does."""
    if (call := together.enter(event(number), timeout)) is not None:
        return int(together.wait(call).data)
    try:
        return int(way.publish([event(number)], timeout=60.0 if timeout is None else timeout)[0].data)
    finally:
        together.leave()


class Crowd:
    """Threads that publish while the way is held up by as many as may be under way at a time."""

    def __init__(self, together: Together, way: Way) -> None:
        self._together, self._way = together, way
        self._pool = ThreadPoolExecutor(50)
        self._gate = way.close(*(-1 - number for number in range(AT_ONCE)))
        self.first = [self.comes(-1 - number) for number in range(AT_ONCE)]
        wait_for(lambda: len(way.batches) == AT_ONCE, "they hold it up", 20)

    def comes(self, number: int, timeout: float | None = None) -> Future[int]:
        """Let one more publish."""
        return self._pool.submit(publish, self._together, self._way, number, timeout)

    def come(self, *numbers: int) -> list[Future[int]]:
        """Let more publish, one after the other, and wait until they wait."""
        before = len(self._together._waiting)
        found = []
        for number in numbers:
            found.append(self.comes(number))
            wait_for(lambda: len(self._together._waiting) == before + len(found), "it waits", 20, interval=0.001)
        return found

    def go_on(self) -> None:
        """Hold up nobody any longer."""
        self._gate.set()
        for future in self.first:
            future.result(20)

    def end(self) -> None:
        """End the threads."""
        self._gate.set()
        self._pool.shutdown()


@pytest.fixture
def crowd(together: Together, way: Way) -> Iterator[Crowd]:
    one = Crowd(together, way)
    yield one
    one.end()


def test_one_alone_publishes_himself(together: Together, way: Way) -> None:
    assert [publish(together, way, number) for number in range(3)] == [0, 1, 2]
    assert way.batches == [[0], [1], [2]]
    assert together._threads == {}


def test_who_comes_meanwhile_is_in_the_next_batch(crowd: Crowd, way: Way) -> None:
    calls = crowd.come(*range(10))
    crowd.go_on()
    assert [call.result(20) for call in calls] == list(range(10))
    assert way.batches[AT_ONCE:] == [list(range(10))]


@pytest.mark.parametrize("place", [0, 3, 9])
def test_an_error_is_that_events_own(crowd: Crowd, way: Way, place: int) -> None:
    way.wrong[place] = IdTaken("that one")
    calls = crowd.come(*range(10))
    crowd.go_on()
    for number, call in enumerate(calls):
        if number == place:
            with pytest.raises(IdTaken, match="that one"):
                call.result(20)
        else:
            assert call.result(20) == number
    assert sorted(way.batches[AT_ONCE:]) == sorted([list(range(10)), *([number] for number in range(10))])


def test_a_ledger_that_is_away_is_asked_once_for_all(crowd: Crowd, way: Way) -> None:
    way.wrong[4] = LedgerUnavailable("away")
    calls = crowd.come(*range(10))
    crowd.go_on()
    errors = [call.exception(20) for call in calls]
    assert all(isinstance(error, LedgerUnavailable) for error in errors)
    assert len({id(error) for error in errors}) == 10, "each has an error of its own"
    assert way.batches[AT_ONCE:] == [list(range(10))]


def test_what_is_no_error_of_ours_is_raised_where_it_happened_and_the_others_are_published(
    crowd: Crowd, way: Way
) -> None:
    class TimeLimit(BaseException):
        pass

    limits: list[BaseException] = [TimeLimit()]
    plain = way.publish

    def limited(events: Sequence[Event], **options: Any) -> list[Event]:
        if len(events) > 1 and limits:
            raise limits.pop()
        return plain(events, **options)

    way.publish = limited  # type: ignore[method-assign]
    calls = crowd.come(*range(5))
    crowd.go_on()
    assert isinstance(calls[0].exception(20), TimeLimit), "the first one published for all"
    assert [call.result(20) for call in calls[1:]] == [1, 2, 3, 4]


def test_who_has_waited_long_goes_alone(crowd: Crowd, way: Way) -> None:
    late = crowd.comes(7, timeout=0.2)
    wait_for(lambda: [7] in way.batches, "it goes alone", 20)
    assert 0 <= way.timeouts[-1] <= 0.1, "what is left"
    crowd.go_on()
    assert late.result(20) == 7


def test_who_gives_the_broker_another_time_is_in_another_batch(crowd: Crowd, way: Way) -> None:
    calls = [*crowd.come(0, 1), crowd.comes(2, timeout=50.0)]
    wait_for(lambda: len(crowd._together._waiting) == 3, "it waits", 20)
    crowd.go_on()
    assert [call.result(20) for call in calls] == [0, 1, 2]
    # Two threads go on at once: which of them is the first to say so is nobody's promise.
    (together, left), (alone, less) = sorted(zip(way.batches[AT_ONCE:], way.timeouts[AT_ONCE:], strict=True))
    assert (together, alone) == ([0, 1], [2])
    assert less <= 50 < left <= 60


def test_a_batch_is_bounded(crowd: Crowd, way: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST", 4)
    calls = crowd.come(*range(10))
    crowd.go_on()
    assert [call.result(20) for call in calls] == list(range(10))
    assert sorted(way.batches[AT_ONCE:]) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_nobody_waits_for_ever_in_a_crowd_with_errors(together: Together, way: Way) -> None:
    for number in range(0, 2000, 7):
        way.wrong[number] = BrokerUnavailable(f"not {number}")

    def work(thread: int) -> list[int]:
        failed = []
        for number in range(thread * 100, thread * 100 + 100):
            if number in way.wrong:
                with pytest.raises(BrokerUnavailable, match=f"^not {number}$"):
                    publish(together, way, number)
                failed.append(number)
            else:
                assert publish(together, way, number) == number
        return failed

    failed = [number for found in in_threads(20, work) for number in found]
    assert sorted(failed) == sorted(way.wrong)
    assert (together._under_way, len(together._waiting)) == (0, 0)


# -- tasks


def test_tasks_share_few_batches(together: Together, way: Way) -> None:
    before = set(threading.enumerate())

    gate = way.close(*range(100))

    async def main() -> list[Event]:
        return await asyncio.gather(*(together.publish(event(number), None) for number in range(100)))

    def open_when_all_have_come() -> None:
        wait_for(lambda: sum(map(len, way.batches)) + len(together._waiting) == 100, "all to publish", 20)
        gate.set()

    opener = threading.Thread(target=open_when_all_have_come)
    opener.start()
    assert [one.data for one in asyncio.run(main())] == list(range(100))
    opener.join()
    assert len(way.batches) <= AT_ONCE + 1, "those under way, and what came meanwhile"
    mine = set(threading.enumerate()) - before
    assert len([one for one in mine if one.name.startswith("pipeline-publish")]) <= 2, "in turns"
    together.close()
    assert [one.data for one in asyncio.run(main())] == list(range(100)), "another thread has begun"
    together.close()


def test_a_tasks_error_is_its_own(together: Together, way: Way) -> None:
    way.wrong = {3: IdTaken("three"), 5: IdTaken("five")}

    async def main() -> list[Event | BaseException]:
        calls = (together.publish(event(number), None) for number in range(10))
        return await asyncio.gather(*calls, return_exceptions=True)

    found = asyncio.run(main())
    assert [str(one) if isinstance(one, Exception) else one.data for one in found if not isinstance(one, type)] == [
        0, 1, 2, "three", 4, "five", 6, 7, 8, 9,
    ]  # fmt: skip
    together.close()


async def begins(way: Way, number: int) -> None:
    """Wait until a batch with an event is under way."""
    await asyncio.to_thread(wait_for, lambda: any(number in batch for batch in way.batches), "it begins", 20)


def test_a_task_that_is_cancelled_before_anybody_began_publishes_nothing(together: Together, way: Way) -> None:
    async def main() -> None:
        gate = way.close(0)
        first = asyncio.create_task(together.publish(event(0), None))
        await begins(way, 0)
        other = asyncio.create_task(together.publish(event(1), None))
        await asyncio.sleep(0)
        other.cancel()
        with pytest.raises(asyncio.CancelledError):
            await other
        gate.set()
        await first

    asyncio.run(main())
    together.close()
    assert way.batches == [[0]]
    assert (together._under_way, len(together._waiting)) == (0, 0)


def test_a_task_that_is_cancelled_while_its_batch_is_under_way_harms_nobody(together: Together, way: Way) -> None:
    async def main() -> list[Event | BaseException]:
        gates = way.close(0), way.close(3)
        tasks = [asyncio.create_task(together.publish(event(0), None))]
        await begins(way, 0)
        tasks += [asyncio.create_task(together.publish(event(number), None)) for number in range(1, 5)]
        await asyncio.sleep(0)
        gates[0].set()
        await begins(way, 3)
        tasks[3].cancel()
        gates[1].set()
        return await asyncio.gather(*tasks, return_exceptions=True)

    found = asyncio.run(main())
    together.close()
    assert way.batches == [[0], [1, 2, 3, 4]]
    assert [one.data for one in found if isinstance(one, Event)] == [0, 1, 2, 4]


def test_a_loop_that_has_ended_harms_nobody(together: Together, way: Way) -> None:
    gate = way.close(0)

    async def main() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await asyncio.gather(begins(way, 0), together.publish(event(0), None))

    asyncio.run(main())
    gate.set()
    wait_for(lambda: not together._under_way, "it has ended", 20)
    assert publish(together, way, 1) == 1
    together.close()


def test_threads_and_tasks_are_in_one_batch(crowd: Crowd, together: Together, way: Way) -> None:
    async def main() -> list[Event]:
        tasks = [asyncio.create_task(together.publish(event(number), None)) for number in (10, 11)]
        await asyncio.sleep(0)
        threads = await asyncio.to_thread(crowd.come, 12)
        crowd.go_on()
        assert threads[0].result(20) == 12
        return await asyncio.gather(*tasks)

    assert [one.data for one in asyncio.run(main())] == [10, 11]
    assert way.batches[AT_ONCE:] == [[10, 11, 12]]
    together.close()


def test_a_child_begins_anew(crowd: Crowd, together: Together, way: Way) -> None:
    calls = crowd.come(1, 2)
    if (pid := os.fork()) == 0:
        code = 1
        try:
            way.batches.clear()
            assert publish(together, way, 3) == 3
            assert asyncio.run(together.publish(event(4), None)).data == 4
            assert way.batches == [[3], [4]]
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    crowd.go_on()
    assert [call.result(20) for call in calls] == [1, 2]
    assert way.batches[AT_ONCE:] == [[1, 2]]
