"""Channels: messages that are refused when they are compressed, and many confirms in flight."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from struct import Struct
from typing import Any

from amqp import spec
from amqp.exceptions import RecoverableConnectionError
from amqp.serialization import loads
from kombu import Consumer
from kombu.exceptions import OperationalError
from kombu.transport import pyamqp

from ...core.observe import Log
from ...core.times import monotonic
from ..apart import Apart
from ..compression import RefusesCompression
from .frames import END, METHOD, Delivery, is_py_amqps

logger = Log(logging.getLogger(__name__))

#: Bytes that are gathered before they are written.
PIECE = 64 * 1024
#: Answers after which consumers go on as before: deliveries that come before them wait.
ASKED = (
    spec.Channel.OpenOk, spec.Exchange.DeclareOk, spec.Exchange.BindOk, spec.Queue.DeclareOk, spec.Queue.BindOk,
    spec.Basic.QosOk, spec.Basic.ConsumeOk, spec.Confirm.SelectOk,
)  # fmt: skip
#: A whole frame: kind, channel, size, Basic.Ack, delivery tag, whether all before it are meant too, end.
_ACK = Struct(">BHIHHQBB")


class Message(RefusesCompression, pyamqp.Message):  # type: ignore[misc]  # kombu's classes are untyped
    """A message from RabbitMQ."""


class Patient:
    """Mixed into channels and connections: a wait for an answer ends when the connection's patience does."""

    connection: Any

    def wait(self, method: Any, callback: Any = None, timeout: float | None = None, returns_tuple: bool = False) -> Any:
        """Wait for an answer; raise ConnectionError when none comes, as the connection is of no use then."""
        connection = self.connection
        with contextlib.ExitStack() as stack:
            if connection is not None and connection.connected and method in ASKED:
                stack.enter_context(connection.asking())
            may_last = connection is None or connection.patience is None or timeout or connection.deadline is not None
            if not may_last:
                stack.enter_context(connection.until(monotonic() + connection.patience))
            return super().wait(method, callback, timeout, returns_tuple)  # type: ignore[misc]  # a mixin: the class beside it has the method


class Channel(Patient, Apart, pyamqp.Channel):  # type: ignore[misc]  # kombu's classes are untyped
    """A channel that can publish many messages and wait for all their confirms together."""

    Message = Message

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Start without confirms; the first confirmed batch asks for them."""
        super().__init__(*args, **kwargs)
        self._owner = self.connection  # RabbitMQ closes a channel after an error, and then it has none
        self._other: Channel | None = None
        self._confirming = False
        self._published = 0
        self._unconfirmed: set[int] = set()
        self._refused: set[int] = set()

    def taker(self, delivery: Delivery) -> Callable[[Delivery], None] | None:
        """Return what hands over a delivery that is decoded already; None where py-amqp has to do that."""
        taken = self.callbacks.get(delivery.delivery_info["consumer_tag"])
        is_plain = isinstance(getattr(taken, "__self__", None), Consumer) and not self.is_closing
        return taken if is_plain and self.auto_decode else None

    def message_to_python(self, raw_message: Any) -> Any:
        """Return Kombu's message, of the channel on which it has come: that one acknowledges it."""
        channel = raw_message.channel
        return self.Message(raw_message, self._owner.channels[channel] if isinstance(channel, int) else channel or self)

    def dispatch_method(self, method_sig: tuple[int, int], payload: bytes, content: Any) -> None:
        """Let a listener have what the broker says; set aside a delivery with a routing key that is no text."""
        try:
            super().dispatch_method(method_sig, payload, content)
        except UnicodeDecodeError as exc:
            if method_sig != spec.Basic.Deliver or not is_py_amqps(exc):
                raise
            (consumer, tag), _ = loads("sL", payload, 4)
            logger.error("set aside a message of consumer %s: its routing key is no text", consumer)
            if consumer not in self.no_ack_consumers:
                self.basic_reject(tag, requeue=False)

    def _channel_for(self, queue: str) -> Any:
        # One for all: RabbitMQ counts for each consumer what is held, if it is told to before that consumes.
        if self._other is None:
            self._other = self._owner.channel()
        return self._other

    def basic_ack(self, delivery_tag: int, multiple: bool = False, argsig: str = "Lb") -> None:
        """Acknowledge a message."""
        connection = self.connection
        if connection is None:
            raise RecoverableConnectionError("connection already closed")
        connection.transport.write(_ACK.pack(METHOD, self.channel_id, 13, *spec.Basic.Ack, delivery_tag, multiple, END))
        connection.bytes_sent += 1

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
