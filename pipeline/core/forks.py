"""Forks: nothing that is open, and no lock that another thread holds, may cross one.

A child inherits SQLite's table of file locks without the locks (sqlite.org/howtocorrupt.html, 2.6), sockets that it
must not use, and every lock as it is at that moment, with nobody left to release it; importing a module takes one too.
"""

from __future__ import annotations

import os
import threading
import weakref
from typing import Protocol

#: Seconds that a fork waits for what other threads do.
PATIENCE = 10.0


class Watched(Protocol):
    """What has to be done about something around a fork."""

    def before_fork(self) -> None:
        """Close what must not be inherited."""

    def after_fork(self, *, child: bool) -> None:
        """Go on; a child leaves what it has inherited alone."""


class Gate:
    """Lets any number of threads through, or one fork."""

    def __init__(self) -> None:
        """Stand open."""
        self._changed = threading.Condition(threading.Lock())
        self._inside = 0
        self._mine = threading.local()
        #: Several threads may fork at once.
        self._forks = 0

    def __enter__(self) -> None:
        """Wait until no fork happens."""
        mine = getattr(self._mine, "count", 0)
        with self._changed:
            while self._forks and not mine:
                self._changed.wait()
            self._inside += 1
        self._mine.count = mine + 1

    def __exit__(self, *_: object) -> None:
        """Let forks happen."""
        # What was begun in one thread may be ended in another.
        self._mine.count = max(0, getattr(self._mine, "count", 0) - 1)
        with self._changed:
            self._inside -= 1
            if self._forks:
                self._changed.notify_all()

    def close(self) -> None:
        """Keep others out until open(), once those inside have left; the calling thread's own may stay."""
        mine = getattr(self._mine, "count", 0)
        with self._changed:
            self._forks += 1
            self._changed.wait_for(lambda: self._inside <= mine, timeout=PATIENCE)

    def open(self) -> None:
        """Let threads through again."""
        with self._changed:
            self._forks -= 1
            self._changed.notify_all()


_gates = [Gate()]
_watched: weakref.WeakSet[Watched] = weakref.WeakSet()
_hooked: list[bool] = []
#: Those that are watched, from before a fork until after it.
_forking: list[Watched] = []
#: Held meanwhile too, so that nothing more is opened.
_registry = threading.RLock()


def held_off() -> Gate:
    """Return the gate of this process: no fork happens inside `with held_off():`, for at most PATIENCE."""
    _hook()
    return _gates[-1]


def watch(one: Watched) -> None:
    """Tell something about every fork from now on, for as long as it exists."""
    with _registry:
        _watched.add(one)
    _hook()


def _hook() -> None:
    if not _hooked:
        with _registry:
            if not _hooked:
                os.register_at_fork(before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child)
                _hooked.append(True)


def _before() -> None:
    _gates[-1].close()  # first: those inside may need what is taken away from them now
    _registry.acquire()
    for one in tuple(_watched):
        one.before_fork()
        _forking.append(one)


def _after_in_parent() -> None:
    try:
        _after(child=False)
    finally:
        _gates[-1].open()  # whatever has interrupted the fork


def _after_in_child() -> None:
    _gates[:] = [Gate()]
    _after(child=True)


def _after(*, child: bool) -> None:
    while _forking:
        _forking.pop().after_fork(child=child)
    _registry.release()
