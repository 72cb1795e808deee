"""The gate: so many deliveries of an agent at once, and no more."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from pipeline.limits.gate import Gate


def request(number: int) -> Any:
    return SimpleNamespace(number=number, gate=None)


def test_so_many_run_at_once_and_the_others_in_their_order() -> None:
    running: list[int] = []
    gate = Gate(2, lambda each: running.append(each.number))
    for number in range(5):
        gate.enter(request(number))
    assert running == [0, 1]
    gate.leave()
    assert running == [0, 1, 2]
    for _ in range(3):
        gate.leave()
    assert running == [0, 1, 2, 3, 4]


def test_a_request_knows_the_gate_that_it_leaves() -> None:
    gate, one = Gate(1, lambda each: None), request(1)
    gate.enter(one)
    assert one.gate is gate


def test_what_waits_is_forgotten_when_the_gate_closes_and_what_runs_may_still_leave() -> None:
    running: list[int] = []
    gate = Gate(1, lambda each: running.append(each.number))
    for number in range(3):
        gate.enter(request(number))
    gate.close()
    gate.leave()
    assert running == [0]
    gate.enter(request(9))
    assert running == [0, 9], "its place is free again"


@given(st.integers(1, 4), st.lists(st.booleans(), max_size=60))
def test_the_limit_holds_and_nobody_waits_beside_a_free_place(limit: int, enters: list[bool]) -> None:
    started: list[int] = []
    gate = Gate(limit, lambda each: started.append(each.number))
    entered = left = 0
    for enter in enters:
        if enter:
            gate.enter(request(entered))
            entered += 1
        elif left < len(started):
            left += 1
            gate.leave()
        assert len(started) - left == min(limit, entered - left)
    assert started == list(range(len(started)))


def test_threads_may_leave_at_the_same_time() -> None:
    mutex, done = threading.Lock(), threading.Event()
    running = most = finished = 0

    def work(each: Any) -> None:
        threading.Thread(target=finish).start()

    def finish() -> None:
        nonlocal running, most, finished
        with mutex:
            running += 1
            most = max(most, running)
        with mutex:
            running -= 1
            finished += 1
            if finished == 200:
                done.set()
        gate.leave()

    gate = Gate(3, work)
    for number in range(200):
        gate.enter(request(number))
    assert done.wait(20)
    assert most <= 3
