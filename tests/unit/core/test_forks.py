"""What a forked child may rely on: no lock of its parent's other threads is held in it."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline import Pipeline
from pipeline.core import forks
from pipeline.ledger.due import Look
from pipeline.workers.sweeper import Sweeper

Holder = Callable[[], None]


@pytest.fixture
def lock() -> threading.Lock:
    return threading.Lock()


@pytest.fixture
def hold(lock: threading.Lock) -> tuple[Holder, threading.Event]:
    """A function that has the lock for a while, and what tells when."""
    begun = threading.Event()

    def do() -> None:
        with lock:
            begun.set()
            time.sleep(0.3)  # long enough for the fork to come in the middle

    return do, begun


def is_free_in_a_child(lock: threading.Lock) -> bool:
    """Fork, and let the child take the lock."""
    pid = os.fork()
    if pid == 0:
        os._exit(0 if lock.acquire(timeout=5) else 1)
    return os.waitpid(pid, 0)[1] == 0


def test_a_fork_waits_for_what_holds_it_off(lock: threading.Lock, hold: tuple[Holder, threading.Event]) -> None:
    do, begun = hold

    def work() -> None:
        with forks.held_off(), forks.held_off():
            do()

    thread = threading.Thread(target=work)
    thread.start()
    assert begun.wait(10)
    assert is_free_in_a_child(lock)
    thread.join()


def test_a_fork_does_not_wait_for_its_own_thread_nor_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forks, "PATIENCE", 0.1)
    free = threading.Lock()
    with forks.held_off():
        assert is_free_in_a_child(free)
    entered, leave = threading.Event(), threading.Event()

    def stay() -> None:
        with forks.held_off():
            entered.set()
            leave.wait(20)

    thread = threading.Thread(target=stay)
    thread.start()
    assert entered.wait(10)
    assert is_free_in_a_child(free)
    leave.set()
    thread.join()
    with forks.held_off():
        pass


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_fork_whose_preparation_fails_leaves_the_gate_open() -> None:
    class Failing:
        def before_fork(self) -> None:
            raise ZeroDivisionError  # which Python reports, and goes on

        def after_fork(self, *, child: bool) -> None:
            raise AssertionError("it was never prepared")

    failing = Failing()
    forks.watch(failing)
    is_free_in_a_child(threading.Lock())
    del failing
    entered = threading.Event()

    def enter() -> None:
        with forks.held_off():
            entered.set()

    thread = threading.Thread(target=enter, daemon=True)
    thread.start()
    assert entered.wait(10)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_fork_that_a_signal_interrupts_keeps_no_thread_from_its_own_lock() -> None:
    class Interrupted(Exception):
        pass

    def interrupt(*_: object) -> None:
        raise Interrupted

    leave, regained = threading.Event(), []

    def stay() -> None:
        with forks.held_off():
            ready.wait()
            leave.wait(20)

    def come_back() -> None:
        with forks.held_off():
            pass
        ready.wait()
        leave.wait(20)
        regained.append(forks.OWN.lock.acquire(timeout=5))

    ready = threading.Barrier(9)
    threads = [threading.Thread(target=stay), *(threading.Thread(target=come_back) for _ in range(7))]
    for thread in threads:
        thread.start()
    ready.wait(20)
    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.2)  # while the fork waits for the thread that stays
    try:
        is_free_in_a_child(threading.Lock())
    finally:
        signal.signal(signal.SIGALRM, before)
    leave.set()
    for thread in threads:
        thread.join()
    assert regained == [True] * 7


def test_no_fork_happens_in_the_middle_of_a_sweep(
    tmp_path: Path, lock: threading.Lock, hold: tuple[Holder, threading.Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    do, begun = hold
    app = Pipeline("forking", directory=tmp_path)

    def look() -> Look:
        do()
        return Look(outbox=False, timers=False, at_once=False)

    sweeper = Sweeper(app.bus)
    monkeypatch.setattr(app.ledger.due, "look", look)
    monkeypatch.setattr(sweeper, "_list", [chore for chore in sweeper.chores.all() if chore.name == "look"])
    thread = threading.Thread(target=sweeper.sweep)
    thread.start()
    assert begun.wait(10)
    assert is_free_in_a_child(lock)
    thread.join()
    app.close()


def test_read_models_catch_up_without_keeping_forks_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app = Pipeline("forking", directory=tmp_path)
    held: dict[str, bool] = {}

    def note(name: str) -> int:
        held[name] = forks.OWN.lock._is_owned()
        return 0

    sweeper = Sweeper(app.bus)
    chores = [replace(each, every=0, run=lambda name=each.name: note(name)) for each in sweeper.chores.all()]
    monkeypatch.setattr(sweeper, "_list", chores)
    sweeper.sweep()
    assert held.pop("project") is False
    assert set(held.values()) == {True}
    app.close()
