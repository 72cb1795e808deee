"""The lines between a worker's main process and the host of its lane: in a process of its own, or in this one."""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import socket
import struct
import threading
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from billiard import Process
from billiard.pool import MaybeEncodingError
from celery.concurrency.prefork import process_destructor, process_initializer
from celery.platforms import signals

from ..raised import info_of
from .host import Host
from .messages import Answer, End, How, Message

if TYPE_CHECKING:
    from celery import Celery

    from ...bus import Bus

#: Bytes that are read at once.
PIECE = 256 * 1024
#: Seconds that a process gets to end by itself.
GRACE = 5.0
_HEAD = struct.Struct("!I")


class Frames:
    """Cuts what has been read into the objects that were written."""

    def __init__(self) -> None:
        self._data = bytearray()

    def cut(self, data: bytes) -> list[Any]:
        """Return the objects that are complete now."""
        self._data += data
        found, begin = [], 0
        while len(self._data) - begin >= _HEAD.size:
            end = begin + _HEAD.size + _HEAD.unpack_from(self._data, begin)[0]
            if end > len(self._data):
                break
            found.append(pickle.loads(memoryview(self._data)[begin + _HEAD.size : end]))  # noqa: S301  # our own process's
            begin = end
        del self._data[:begin]
        return found


def framed(what: Any) -> bytes:
    """Return an object as it is written."""
    data = pickle.dumps(what, pickle.HIGHEST_PROTOCOL)
    return _HEAD.pack(len(data)) + data


class Apart:
    """A host in a process of its own: whatever a handler does to its process, the worker goes on."""

    def __init__(self, bus: Bus, celery: Celery, hostname: str) -> None:
        """Start the process."""
        self._ours, theirs = socket.socketpair()
        self._process = Process(
            target=run_host, args=(bus, celery, hostname, theirs, self._ours), name="AsyncLane", daemon=True
        )
        self._process.start()
        theirs.close()
        self._ours.setblocking(False)
        self.writer = os.dup(self._ours.fileno())
        self._frames = Frames()
        self._unsent = bytearray()
        self.pid: int = self._process.pid

    def send(self, message: Message) -> None:
        """Say something to the host."""
        self._unsent += framed(message)
        self.flush()

    def flush(self) -> None:
        """Write what is still unsent, as far as that goes."""
        try:
            while self._unsent:
                del self._unsent[: self._ours.send(self._unsent)]
        except BlockingIOError:
            pass
        except OSError:  # it has died, which receive() finds out
            self._unsent.clear()

    def has_unsent(self) -> bool:
        """Say whether something is still unsent."""
        return bool(self._unsent)

    def fileno(self) -> int:
        """Return what is readable when there are answers."""
        return self._ours.fileno()

    def receive(self) -> list[Answer]:
        """Return the answers that have come."""
        try:
            data = self._ours.recv(PIECE)
        except BlockingIOError:
            return []
        except OSError:
            data = b""
        if not data:
            raise EOFError
        return [answer for answers in self._frames.cut(data) for answer in answers]

    def kill(self) -> bool:
        """Kill the process."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        return True

    def close(self) -> None:
        """Let the process end by itself, if it does so soon."""
        self._unsent += framed(End())
        self._ours.settimeout(GRACE)
        with suppress(OSError):
            self._ours.sendall(self._unsent)
        self._process.join(GRACE)
        if self._process.is_alive():
            self.kill()
            self._process.join(GRACE)
        self._ours.close()
        os.close(self.writer)


class Wire(asyncio.Protocol):
    """The host's end of the line to the main process."""

    def __init__(self) -> None:
        self.host: Host | None = None
        self.ended = threading.Event()
        self._frames = Frames()
        self._transport: Any = None

    def connection_made(self, transport: Any) -> None:
        """Keep the transport."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Do what the main process says."""
        messages = self._frames.cut(data)
        assert self.host is not None
        self.host.take(messages)
        if any(isinstance(message, End) for message in messages):
            self.ended.set()

    def connection_lost(self, exc: Exception | None) -> None:
        """End: the worker has."""
        self.ended.set()

    def say(self, answers: list[Answer]) -> None:
        """Write answers; what cannot be pickled is a failure."""
        try:
            self._transport.write(framed(answers))
        except Exception:
            for answer in answers:
                self._transport.write(framed([_passable(answer)]))


def _passable(answer: Answer) -> Answer:
    try:
        pickle.dumps(answer)
    except Exception as exc:
        number, _, what = answer
        return number, How.ENDED, (1, info_of(MaybeEncodingError(exc, what)), 0.0)
    return answer


def run_host(bus: Bus, celery: Celery, hostname: str, ours: socket.socket, other: socket.socket) -> None:
    """Be the process of a host, until the main process says so or ends."""
    other.close()
    process_initializer(celery, hostname)
    # The worker's main process ends this one: a signal that everybody in its terminal or service gets is not for it.
    signals.ignore("SIGTERM", "SIGQUIT")
    wire = Wire()
    wire.host = Host(bus, celery, wire.say, hostname)
    connecting = wire.host.loop.create_unix_connection(lambda: wire, sock=ours)
    asyncio.run_coroutine_threadsafe(connecting, wire.host.loop).result()
    wire.ended.wait()
    bus.loop.close()
    bus.close()
    process_destructor(os.getpid(), 0)


class Here:
    """A host in this process, beside a pool of threads or none."""

    def __init__(self, bus: Bus, celery: Celery, hostname: str) -> None:
        """Start the loop's thread."""
        self.pid, self.writer = os.getpid(), -1  # nothing is ever unsent
        self._bus = bus
        self._answers: deque[Answer] = deque()
        self._messages: deque[Message] = deque()
        self._bell, self._ear = socket.socketpair()
        self._ear.setblocking(False)
        self._bell.setblocking(False)
        self._host = Host(bus, celery, self._say, hostname)

    def send(self, message: Message) -> None:
        """Say something to the host."""
        self._messages.append(message)
        if len(self._messages) == 1:
            self._host.loop.call_soon_threadsafe(self._take)

    def _take(self) -> None:
        messages = []
        while self._messages:
            messages.append(self._messages.popleft())
        self._host.take(messages)

    def _say(self, answers: list[Answer]) -> None:
        self._answers.extend(answers)
        with suppress(OSError):  # it has been rung already, or nobody listens any more
            self._bell.send(b"\0")

    def flush(self) -> None:
        """Do nothing: all is said."""

    def has_unsent(self) -> bool:
        """Say that all is said."""
        return False

    def fileno(self) -> int:
        """Return what is readable when there are answers."""
        return self._ear.fileno()

    def receive(self) -> list[Answer]:
        """Return the answers that have come."""
        with suppress(BlockingIOError):
            self._ear.recv(PIECE)
        answers = []
        while self._answers:
            answers.append(self._answers.popleft())
        return answers

    def kill(self) -> bool:
        """Say that nothing is killed: it would be the worker."""
        return False

    def close(self) -> None:
        """Leave what was entered on the loop."""
        self._host.close()
        self._bus.loop.close()
        self._bell.close()
        self._ear.close()
