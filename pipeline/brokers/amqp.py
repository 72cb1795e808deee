"""RabbitMQ: Kombu's AMQP transport, bounded in time, refusing compressed messages, with many confirms in flight."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
from collections.abc import Iterator
from typing import Any

from amqp import spec
from amqp import transport as sockets
from kombu.exceptions import OperationalError
from kombu.transport import pyamqp

from ..core.times import monotonic
from .compression import RefusesCompression

#: Bytes that are gathered before they are written.
PIECE = 64 * 1024
HEARTBEAT = b"\x08\x00\x00\x00\x00\x00\x00\xce"
#: Seconds that a call still gets whose time is up: what has arrived already is read.
LEAST = 0.001


class Message(RefusesCompression, pyamqp.Message):  # type: ignore[misc]  # kombu's classes are untyped
    """A message from RabbitMQ."""


class _Patient:
    """Mixed into channels and connections: a wait for an answer ends when the connection's patience does."""

    connection: Any

    def wait(self, method: Any, callback: Any = None, timeout: float | None = None, returns_tuple: bool = False) -> Any:
        """Wait for an answer; raise ConnectionError when none comes, as the connection is of no use then."""
        connection = self.connection
        if connection is None or connection.patience is None or timeout or connection.deadline is not None:
            return super().wait(method, callback, timeout, returns_tuple)  # type: ignore[misc]  # a mixin: the class beside it has the method
        with connection.until(monotonic() + connection.patience):
            return super().wait(method, callback, None, returns_tuple)  # type: ignore[misc]  # a mixin: the class beside it has the method


class Channel(_Patient, pyamqp.Channel):  # type: ignore[misc]  # kombu's classes are untyped
    """A channel that can publish many messages and wait for all their confirms together."""

    Message = Message

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Start without confirms; the first confirmed batch asks for them."""
        super().__init__(*args, **kwargs)
        self._owner = self.connection  # RabbitMQ closes a channel after an error, and then it has none
        self._confirming = False
        self._published = 0
        self._unconfirmed: set[int] = set()
        self._refused: set[int] = set()

    def limit(self, deadline: float) -> None:
        """Let whatever is asked of the connection end by the deadline (monotonic time), until another one is set."""
        self._owner.limit(deadline)

    def publish_many(self, messages: list[tuple[Any, str, str]], deadline: float, *, confirm: bool = True) -> None:
        """Send (message, exchange, routing key) several times, then wait until the broker has taken all.

        Raises an OSError when it has not by the deadline (monotonic time), and BatchRefused when it refused messages.

        """
        self.limit(deadline)
        if not confirm:
            self._write(messages)
            return
        self._select_confirms()
        first = self._published + 1
        self._published += len(messages)
        self._unconfirmed.update(range(first, self._published + 1))
        self._write(messages)
        while self._unconfirmed:
            self.connection.drain_events()
        if self._refused:
            refused, self._refused = sorted(tag - first for tag in self._refused), set()
            raise BatchRefused(refused)

    def _write(self, messages: list[tuple[Any, str, str]]) -> None:
        """Write all messages with as few system calls as possible; py-amqp makes three for each."""
        with contextlib.suppress(TimeoutError):
            while self.connection.has_unread():  # "connection blocked" and the like
                self.connection.drain_events(timeout=0)
        with corked(self.connection.transport):
            for message, exchange, routing_key in messages:
                self.send_method(spec.Basic.Publish, "Bssbb", (0, exchange, routing_key, False, False), message)

    def _select_confirms(self) -> None:
        if not self._confirming:
            self._confirming = True
            self.events["basic_ack"].add(self._on_confirm)
            self.events["basic_nack"].add(self._on_refusal)
            self.confirm_select()
            self._confirm_selected = True

    def _settled(self, tag: int, multiple: bool) -> set[int]:
        tags = {t for t in self._unconfirmed if t <= tag} if multiple else {tag}
        self._unconfirmed -= tags
        return tags

    def _on_confirm(self, tag: int, multiple: bool) -> None:
        self._settled(tag, multiple)

    def _on_refusal(self, tag: int, multiple: bool) -> None:
        self._refused |= self._settled(tag, multiple)


@contextlib.contextmanager
def corked(transport: Any) -> Iterator[None]:
    """Gather what is written to a py-amqp transport, and send it in large pieces."""
    write, waiting = transport._write, bytearray()

    def gather(data: bytes) -> None:
        waiting.extend(data)
        if len(waiting) >= PIECE:
            write(waiting)
            waiting.clear()

    transport._write = gather
    try:
        yield
    finally:
        transport._write = write
    if waiting:
        transport.write(waiting)


class BatchRefused(OperationalError):  # type: ignore[misc]  # kombu's classes are untyped
    """The broker refused the messages at `positions` of a batch (0 is its first)."""

    def __init__(self, positions: list[int]) -> None:
        super().__init__(f"the broker refused {len(positions)} messages")
        self.positions = positions


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


class Connection(_Patient, pyamqp.Connection):  # type: ignore[misc]  # kombu's classes are untyped
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


class Transport(pyamqp.Transport):  # type: ignore[misc]  # kombu's classes are untyped
    """The transport behind amqp:// and pyamqp://."""

    Connection = Connection


class SSLTransport(pyamqp.SSLTransport):  # type: ignore[misc]  # kombu's classes are untyped
    """The transport behind amqps://."""

    Connection = Connection
