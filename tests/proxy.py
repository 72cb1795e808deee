"""A TCP proxy that can fall silent, which nobody is told, and change what the server says."""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
from collections.abc import Callable
from typing import Self


class Proxy:
    """Forwards what comes to a port of its own to another port on this machine, as long as it is not silent.

    Attributes:
        change: makes of what the server says what is forwarded; the connection ends after less than that.

    """

    def __init__(self, target: int) -> None:
        """Listen on a free port."""
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=100)
        self.port: int = self._listener.getsockname()[1]
        self.accepted = 0
        self.change: Callable[[bytes], bytes] = lambda data: data
        self._is_silent = threading.Event()
        self._peers: dict[socket.socket, socket.socket] = {}
        self._servers: set[socket.socket] = set()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._wake, self._woken = socket.socketpair()
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._ended = False
        self._lock = threading.Lock()  # held while something is forwarded
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._ended = True
        self._wake.send(b"x")
        self._thread.join()
        for one in (*self._peers, self._listener, self._wake, self._woken):
            one.close()
        self._selector.close()

    def fall_silent(self) -> None:
        """Forward nothing any more, in neither direction; connections stay, and new ones are taken too.

        What was under way is lost for good: no connection that is open now ever speaks again.
        """
        with self._lock:
            self._is_silent.set()
            for one in self._peers:
                with contextlib.suppress(KeyError):
                    self._selector.unregister(one)

    def speak(self) -> None:
        """Forward what new connections say."""
        self._is_silent.clear()

    def _run(self) -> None:
        while not self._ended:
            for key, _ in self._selector.select():
                with self._lock:
                    self._handle(key.fileobj)  # type: ignore[arg-type]

    def _handle(self, one: socket.socket) -> None:
        if one is self._listener:
            self._accept()
        elif one is not self._woken and (self._is_silent.is_set() is False) and one in self._peers:
            self._forward(one)

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        self.accepted += 1
        if self._is_silent.is_set():
            self._peers[client] = client
            return
        try:
            server = socket.create_connection(("127.0.0.1", self._target), timeout=20)
        except OSError:
            client.close()
            return
        self._servers.add(server)
        for one, other in ((client, server), (server, client)):
            one.settimeout(20)
            self._peers[one] = other
            self._selector.register(one, selectors.EVENT_READ)

    def _forward(self, one: socket.socket) -> None:
        other = self._peers[one]
        try:
            data = one.recv(65536)
            if data:
                said = self.change(data) if one in self._servers else data
                other.sendall(said)
                if len(said) == len(data):
                    return
        except OSError:
            pass
        for end in (one, other):
            with contextlib.suppress(KeyError, ValueError):
                self._selector.unregister(end)
            self._peers.pop(end, None)
            self._servers.discard(end)
            end.close()
