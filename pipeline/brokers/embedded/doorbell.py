"""A worker that sleeps is woken through a pipe beside the file, which it has open for reading only while it sleeps.

So whoever publishes learns from the kernel, in one call, that nobody sleeps there, and a busy worker is not disturbed.
A ring is a hint and may be lost with the process that owed it: who sleeps looks at the file now and then.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from ...core import forks


def doorbell_of(database: Path, owner: int) -> str:
    """Return the path of an owner's pipe."""
    return f"{database}.bell-{owner}"


def ring(doorbells: Iterable[str]) -> None:
    """Wake those who sleep."""
    for path in doorbells:
        # Nobody has it open: awake, or gone. Nothing else may keep a publisher from its work either.
        with contextlib.suppress(OSError):
            pipe = _opened(path, os.O_WRONLY)
            try:
                os.write(pipe, b"\0")
            finally:
                os.close(pipe)


def _opened(path: str, how: int) -> int:
    """Return a descriptor of a pipe; raise OSError where there is something else, or nobody at its other end."""
    pipe = os.open(path, how | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
    if not stat.S_ISFIFO(os.fstat(pipe).st_mode):
        os.close(pipe)
        raise FileExistsError(errno.EEXIST, "there is no pipe, but something else", path)
    return pipe


def take_down(path: str) -> None:
    """Delete the pipe of an owner that is gone."""
    with contextlib.suppress(OSError):
        os.unlink(path)


class Doorbell:
    """The sleeper's end, in an event loop of Kombu."""

    def __init__(self, loop: Any, answer: Callable[[], object]) -> None:
        """Hang it up.

        Arguments:
            loop: the loop.
            answer: called in the loop when it was rung; it is silent then until listen().

        """
        self._loop = loop
        self._answer = answer
        self._pipe: int | None = None
        forks.watch(self)

    @property
    def hears(self) -> bool:
        """Whether a ring would be answered."""
        return self._pipe is not None

    def listen(self, path: str) -> bool:
        """Hear what is rung at `path` from now on; return False where the file's place can hold no pipe."""
        try:
            with contextlib.suppress(FileExistsError):
                os.mkfifo(path, 0o600)
            with forks.held_off():  # a child that had it, too, would keep it open
                self._pipe = _opened(path, os.O_RDONLY)
        except OSError:
            return False
        self._loop.add_reader(self._pipe, self._on_ring)
        return True

    def _on_ring(self, *_: Any) -> None:
        if self._pipe is not None:
            with contextlib.suppress(OSError):  # while anybody has an end of it, it would keep what was written
                os.read(self._pipe, 4096)
        self.close()
        self._answer()

    def close(self) -> None:
        """Hear nothing any more."""
        if self._pipe is None:
            return
        # A loop that was closed has forgotten it, and would open a poller once more to take it out.
        if self._pipe in self._loop.readers:
            self._loop.remove(self._pipe)
        self._hang_up()

    def _hang_up(self) -> None:
        if self._pipe is not None:
            os.close(self._pipe)
            self._pipe = None

    def before_fork(self) -> None:
        """Go on listening."""

    def after_fork(self, *, child: bool) -> None:
        """Do not listen in the parent's place: nobody would hear it, and those who ring would think so."""
        if child:
            self._hang_up()  # the loop is the parent's, and stays as it is
