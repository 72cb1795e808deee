"""A connection to RabbitMQ on which no wait for an answer is without an end."""

from __future__ import annotations

import contextlib
import select
from collections.abc import Iterator
from typing import Any

from kombu.transport import pyamqp

from ...core.times import monotonic
from .channel import Channel, Patient
from .wire import LEAST, TCPTransport, TLSTransport

HEARTBEAT = b"\x08\x00\x00\x00\x00\x00\x00\xce"


class Connection(Patient, pyamqp.Connection):  # type: ignore[misc]  # kombu's classes are untyped
    """A connection with such channels, on which no wait for an answer is without an end.

    Attributes:
        patience: seconds within which the broker has to answer whatever it is asked; None for no limit.
        deadline: the time (monotonic) at which everything that is asked now has to be over; it goes before `patience`.

    """

    Channel = Channel

    def __init__(self, *args: Any, patience: float | None = None, **kwargs: Any) -> None:
        self.patience = patience
        self.deadline: float | None = None
        super().__init__(*args, **kwargs)

    def Transport(  # noqa: N802  # py-amqp calls it so
        self,
        host: str,
        connect_timeout: float | None,
        ssl: Any,
        read: float | None,
        write: float | None,
        **options: Any,
    ) -> Any:
        """Return the socket that is to be connected."""
        kind = TLSTransport if ssl else TCPTransport
        return kind(host, connect_timeout, read_timeout=read, write_timeout=write, ssl=ssl, **options)

    def connect(self, callback: Any = None) -> Any:
        """Connect within `connect_timeout`, the handshake included."""
        if self.connect_timeout is None:
            return super().connect(callback)
        with self.until(monotonic() + self.connect_timeout):
            return super().connect(callback)

    @contextlib.contextmanager
    def until(self, deadline: float) -> Iterator[None]:
        """Let whatever is asked meanwhile end by the deadline (monotonic time)."""
        before, self.deadline = self.deadline, deadline
        try:
            yield
        finally:
            self.deadline = before

    def limit(self, deadline: float) -> None:
        """Let whatever is asked from now on end by the deadline (monotonic time), writing included."""
        self.deadline = deadline
        if self.connected:
            self.sock.settimeout(max(deadline - monotonic(), LEAST))

    def blocking_read(self, timeout: float | None = None) -> Any:
        """Read one frame; raise ConnectionError when a deadline passes in which somebody waits for an answer."""
        if self.deadline is None:
            return super().blocking_read(timeout)
        left = max(self.deadline - monotonic(), LEAST)
        if timeout is not None:
            return super().blocking_read(min(timeout, left))
        try:
            return super().blocking_read(left)
        except TimeoutError:
            self.transport.connected = False
            raise ConnectionError("the broker did not answer in time") from None

    def has_unread(self) -> bool:
        """Say whether something has come that nobody has read yet."""
        decrypted = getattr(self.sock, "pending", int)()
        return bool(decrypted) or _is_readable(self.sock)

    def keep_alive(self) -> None:
        """Send a heartbeat: from any thread, while nobody reads."""
        if self.connected:
            self.transport.write(HEARTBEAT)

    def heartbeat_tick(self, rate: float = 2) -> None:
        """Send a heartbeat when it is time; raise when none has come, and nothing that waits to be read either."""
        if self.connected and self.has_unread():  # the loop was busy elsewhere
            self.prev_recv = None
        super().heartbeat_tick(rate)


def _is_readable(sock: Any) -> bool:
    """Say whether reading would not wait."""
    if not hasattr(select, "poll"):
        return bool(select.select([sock], [], [], 0)[0])
    poll = select.poll()  # unlike select(), it takes any number of descriptors
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(0))
