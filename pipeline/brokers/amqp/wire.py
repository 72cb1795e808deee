"""What py-amqp calls transports: sockets, with TLS or without, on which nothing waits without an end."""

from __future__ import annotations

import socket
import threading
from typing import Any

from amqp import transport as sockets

from ...core.times import monotonic

#: Seconds that a call still gets whose time is up: what has arrived already is read.
LEAST = 0.001


class _Bounded:
    """Mixed into py-amqp's transports: connecting is bounded as a whole, and what has failed is not tried again."""

    connected: bool
    _deadline: float | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._writing = threading.Lock()
        super().__init__(*args, **kwargs)

    @property
    def connect_timeout(self) -> float | None:
        """Seconds that are left for connecting, the TLS handshake included; None for no limit."""
        return None if self._deadline is None else max(self._deadline - monotonic(), LEAST)

    @connect_timeout.setter
    def connect_timeout(self, seconds: float | None) -> None:
        self._deadline = None if seconds is None else monotonic() + seconds

    def _connect(self, host: str, port: int, timeout: float | None) -> None:
        """Try a name's addresses one after the other, each with its share of the time."""
        found = socket.getaddrinfo(host, port, socket.AF_UNSPEC, socket.SOCK_STREAM, sockets.SOL_TCP)
        addresses = list(dict.fromkeys(str(address[4][0]) for address in found))
        for left, address in zip(range(len(addresses), 0, -1), addresses, strict=True):
            share = self.connect_timeout
            try:
                super()._connect(address, port, share and share / left)  # type: ignore[misc]  # a mixin: the class beside it has the method
            except OSError:
                if left == 1:
                    raise
            else:
                return

    def write(self, data: Any) -> None:
        """Write; what could not be written whole ends the connection, as the rest would make no sense."""
        if not self.connected:
            raise ConnectionError("the connection to the broker is lost")
        try:
            with self._writing:
                super().write(data)  # type: ignore[misc]  # a mixin: the class beside it has the method
        except OSError:
            self.connected = False
            raise

    def _shutdown_transport(self) -> None:
        """Say goodbye in TLS, unless nobody answers."""
        if self.connected:
            super()._shutdown_transport()  # type: ignore[misc]  # a mixin: the class beside it has the method


class TCPTransport(_Bounded, sockets.TCPTransport):  # type: ignore[misc]  # py-amqp's classes are untyped
    """A socket."""


class TLSTransport(_Bounded, sockets.SSLTransport):  # type: ignore[misc]  # py-amqp's classes are untyped
    """A socket with TLS."""
