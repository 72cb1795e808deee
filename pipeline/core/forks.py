"""Forks: nothing that is open, and no lock that another thread holds, may cross one.

A child inherits SQLite's table of file locks without the locks (sqlite.org/howtocorrupt.html, 2.6), sockets that it
must not use, and every lock as it is at that moment, with nobody left to release it; importing a module takes one too.
So each thread has a lock of its own for what no fork may happen in the middle of, and a fork takes all of them first.
"""

from __future__ import annotations

import os
import threading
import weakref
from contextlib import AbstractContextManager
from typing import Any, Protocol

from .times import monotonic

#: Seconds that a fork waits for what other threads do.
PATIENCE = 10.0


class Watched(Protocol):
    """What has to be done about something around a fork."""

    def before_fork(self) -> None:
        """Close what must not be inherited."""

    def after_fork(self, *, child: bool) -> None:
        """Go on; a child leaves what it has inherited alone."""


class Own(threading.local):
    """Each thread's own lock: taking it costs next to nothing, as nobody but a fork ever wants it too."""

    def __init__(self) -> None:
        self.lock: Any = threading.RLock()
        with _roster:
            _locks.add(self.lock)


class Hold:
    """What no fork may happen in the middle of, begun in one thread and perhaps ended in another."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._thread = threading.get_ident()

    def __enter__(self) -> None:
        with held_off():  # a fork that has begun comes first
            self._lock.acquire()
            _holds.add(self)

    def __exit__(self, *_: object) -> None:
        _holds.discard(self)
        self._lock.release()

    def wait(self, deadline: float) -> bool:
        """Say whether it has ended before the deadline; what the calling thread holds itself counts as ended."""
        if self._thread == threading.get_ident():
            return True
        if not self._lock.acquire(timeout=max(0, deadline - monotonic())):
            return False
        self._lock.release()
        return True


class Generation:
    """How often this process's line was forked: who counts another number than before is a child."""

    number = 0


GENERATION = Generation()
#: Held while the set of locks changes, and during a fork: a thread that is new waits for its end.
_roster = threading.RLock()
_locks: weakref.WeakSet[Any] = weakref.WeakSet()
_holds: set[Hold] = set()
_watched: weakref.WeakSet[Watched] = weakref.WeakSet()
#: What a fork has taken, and those that are watched, from before it until after it.
_taken: list[Any] = []
_forking: list[Watched] = []
#: Held meanwhile too, so that nothing more is opened.
_registry = threading.RLock()


def held_off() -> AbstractContextManager[Any]:
    """Return this thread's lock: no fork happens inside `with held_off():`, for at most PATIENCE."""
    own: AbstractContextManager[Any] = OWN.lock
    return own


def watch(watched: Watched) -> None:
    """Tell something about every fork from now on, for as long as it exists."""
    with _registry:
        _watched.add(watched)


def _before() -> None:
    _roster.acquire()
    _take_locks(monotonic() + PATIENCE)  # first: those inside may need what is taken away from them now
    _registry.acquire()
    for watched in tuple(_watched):
        watched.before_fork()
        _forking.append(watched)


def _take_locks(deadline: float) -> None:
    """Take every thread's lock while nothing is held; who holds something needs his own lock to come to its end."""
    while True:
        seen = tuple(_holds)
        over = [hold.wait(deadline) for hold in seen]
        for lock in tuple(_locks):
            if lock.acquire(timeout=max(0, deadline - monotonic())):
                _taken.append(lock)  # noqa: PERF401 - at once: whatever interrupts the next one, it is given back
        if not all(over) or not {*_holds} - {*seen} or monotonic() > deadline:
            return
        _give_back()


def _give_back() -> None:
    while _taken:
        _taken.pop().release()


def _after_in_parent() -> None:
    try:
        _after(child=False)
    finally:
        _give_back()  # whatever has interrupted the fork
        _roster.release()


def _after_in_child() -> None:
    GENERATION.number += 1
    _holds.clear()
    try:
        _after(child=True)
    finally:
        _give_back()
        _roster.release()


def _after(*, child: bool) -> None:
    while _forking:
        _forking.pop().after_fork(child=child)
    _registry.release()


os.register_at_fork(before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child)
OWN = Own()
