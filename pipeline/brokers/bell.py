"""A bell in a worker's event loop: who rings it is answered at the loop's next turn, which waits for nothing then."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable
from typing import Any


class Bell:
    """Wakes an event loop of Kombu, whose `call_soon` does so only in other threads.

    Arguments:
        loop: the loop.
        answer: called in the loop, once for all that have rung since.

    """

    def __init__(self, loop: Any, answer: Callable[[], object]) -> None:
        """Hang it up; that takes two descriptors."""
        self._loop = loop
        self._answer = answer
        self._owner = os.getpid()
        self._heard, self._rung = socket.socketpair()
        for end in (self._heard, self._rung):
            end.setblocking(False)
        self._ringing = False
        loop.add_reader(self._heard.fileno(), self._on_ring)

    def ring(self) -> None:
        """Have it answered; safe from any thread."""
        if not self._ringing:
            self._ringing = True
            with contextlib.suppress(OSError):  # full, which is loud enough; or taken down meanwhile
                self._rung.send(b"\0")

    def _on_ring(self, *_: Any) -> None:
        # Emptied, then silenced, then answered: what is rung for meanwhile is done by the answer, or rings again.
        with contextlib.suppress(OSError):
            self._heard.recv(4096)
        self._ringing = False
        self._answer()

    def close(self) -> None:
        """Take it down; in a process that was forked the loop is the parent's, and stays as it is."""
        # A loop that was closed has forgotten it, and would open a poller once more to take it out.
        if os.getpid() == self._owner and self._heard.fileno() in self._loop.readers:
            self._loop.remove(self._heard.fileno())
        for end in (self._heard, self._rung):
            end.close()
