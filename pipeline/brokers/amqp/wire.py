"""What py-amqp calls transports: sockets, with TLS or without, that read and write much at once."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from typing import Any

from amqp import transport as sockets

from ...core.times import monotonic
from .frames import Unread

#: Seconds that a call still gets whose time is up: what has arrived already is read.
LEAST = 0.001
#: Bytes that are read at once, and gathered at most before they are written.
MOST = 256 * 1024
PIECE = 64 * 1024
#: Records of TLS, of 16 KiB at most, that are read at once.
RECORDS = 16
#: Reads what is there, whatever the socket's timeout is; what has no such flag is read when it is known to be there.
AT_ONCE: int = getattr(socket, "MSG_DONTWAIT", 0)


class _Bounded:
    """Mixed into py-amqp's transports: connecting is bounded as a whole, and what has failed is not tried again.

    Attributes:
        unread: what has come and was not read; py-amqp's reads, which wait, take from it too.

    """

    connected: bool
    sock: Any
    _write: Any
    _deadline: float | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.unread = Unread()
        self._writing = threading.Lock()
        self._gathers = False
        self._gathered = bytearray()
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

    def read_more(self) -> None:
        """Read what comes next, and wait for it as long as the socket does."""
        self._keep(lambda: self.sock.recv(MOST))

    def look(self) -> None:
        """Read what is there without waiting for it; raise TimeoutError when that is nothing."""
        self._keep(self._recv_at_once)

    def _recv_at_once(self) -> bytes:
        data: bytes = self.sock.recv(MOST, AT_ONCE)
        return data

    def _keep(self, recv: Callable[[], bytes]) -> None:
        self._check()
        try:
            data = recv()
            if not data:
                raise OSError("Server unexpectedly closed connection")
        except (TimeoutError, BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise TimeoutError from None
        except OSError:
            self.connected = False
            raise
        self.unread.add(data)

    def write(self, data: Any) -> None:
        """Write, or keep it for the next flush() while it is gathered."""
        self._check()
        with self._writing:
            if self._gathers:
                self._gathered += data
                if len(self._gathered) >= PIECE:
                    self._send_gathered()
            else:
                self._send(data)

    def write_now(self, data: bytes) -> None:
        """Write, and before it what is gathered."""
        self._check()
        with self._writing:
            self._gathered += data
            self._send_gathered()

    @contextlib.contextmanager
    def gathering(self) -> Iterator[None]:
        """Gather what is written, in order, and write it at the end in one piece."""
        if self._gathers:
            yield
            return
        self._gathers = True
        try:
            yield
        finally:
            self._gathers = False
            self.flush()

    def flush(self) -> None:
        """Write what is gathered."""
        if self._gathered:
            self._check()
            with self._writing:
                self._send_gathered()

    def _check(self) -> None:
        if not self.connected:
            raise ConnectionError("the connection to the broker is lost")

    def _send_gathered(self) -> None:
        gathered, self._gathered = self._gathered, bytearray()
        self._send(gathered)

    def _send(self, data: Any) -> None:
        """Write; what could not be written whole ends the connection, as the rest would make no sense."""
        try:
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

    def _recv_at_once(self) -> bytes:
        # A call takes one record, and nothing is left decrypted: what has not been read is where epoll sees it.
        pieces: list[bytes] = []
        timeout = self.sock.gettimeout()
        self.sock.settimeout(0)
        try:
            while len(pieces) < RECORDS and (data := self.sock.recv(MOST)):
                pieces.append(data)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            if not pieces:
                raise
        finally:
            self.sock.settimeout(timeout)
        return b"".join(pieces)
