"""A connection to RabbitMQ without RabbitMQ: the test says what the broker would say, and hears what it would hear."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Sequence
from io import BytesIO
from struct import pack, unpack
from types import SimpleNamespace
from typing import Any

import amqp
from amqp.method_framing import frame_handler, frame_writer
from amqp.serialization import dumps
from kombu import Consumer
from kombu.transport import pyamqp

from pipeline.brokers.amqp.channel import Channel
from pipeline.brokers.amqp.connection import Connection
from pipeline.brokers.amqp.wire import TCPTransport

DELIVER, ACK, CANCEL_OK, CONSUME_OK, QOS_OK = (60, 60), (60, 80), (60, 31), (60, 21), (60, 11)
OPEN_OK, CLOSE = (20, 11), (20, 40)
TAG = "agents1"


def said(*messages: amqp.Message, channel: int = 1, frame_max: int = 131_072, first: int = 1, tag: str = TAG) -> bytes:
    """Return the bytes that deliver messages, tagged from `first` on, as py-amqp would write them."""
    out = BytesIO()
    broker = SimpleNamespace(frame_max=frame_max, bytes_sent=0)
    write = frame_writer(broker, SimpleNamespace(write=out.write))
    for number, message in enumerate(messages, first):
        arguments = dumps("sLbss", (tag, number, number % 3 == 0, "events", f"a.{number}"))
        write(1, channel, DELIVER, arguments, message)
    return out.getvalue()


def frame(kind: int, channel: int, payload: bytes) -> bytes:
    """Return a frame."""
    return pack(">BHI", kind, channel, len(payload)) + payload + b"\xce"


HEARTBEAT = frame(8, 0, b"")


def method(sig: tuple[int, int], arguments: bytes = b"", channel: int = 1) -> bytes:
    """Return the frame of a method without content."""
    return frame(1, channel, pack(">HH", *sig) + arguments)


def event(body: str | bytes = "{}", **headers: Any) -> amqp.Message:
    """Return a message as the bus publishes it."""
    return amqp.Message(
        body,
        content_type="application/cloudevents+json",
        content_encoding="utf-8",
        application_headers={"id": "1", "type": "a.b", "bus": {}, **headers},
        delivery_mode=2,
        priority=5,
    )


def as_told(message: Any) -> dict[str, Any]:
    """Return all of a Kombu message that anybody looks at."""
    names = ("body", "delivery_tag", "delivery_info", "headers", "properties", "content_type", "content_encoding")
    return {name: getattr(message, name) for name in names}


class Odd(amqp.Message):
    """A message whose properties are written as they are given: flags, and what they announce."""

    def __init__(self, body: str, properties: bytes) -> None:
        super().__init__(body)
        self.raw = properties

    def _serialize_properties(self) -> bytes:
        return self.raw


def _nested(depth: int) -> bytes:
    table = b""
    for _ in range(depth):
        table = b"\x01tF" + pack(">I", len(table)) + table
    return pack(">I", len(table)) + table


#: Properties that RabbitMQ takes from any publisher, and py-amqp cannot decode.
UNREADABLE = {
    "a content type that is no text": b"\x80\x00\x01\xff",
    "a time that no calendar has": b"\x20\x00" + pack(">I", 11) + b"\x01tT" + b"\xff" * 8,
    "tables in tables": b"\x20\x00" + _nested(2000),
}


class Line:
    """Both ends of a connection: ours has a channel that consumes, the broker's is the test's.

    Attributes:
        got: the messages that were handed over, as far as `on_message` has put them there.
        sent: what was written, a piece for each system call.

    """

    def __init__(
        self,
        on_message: Callable[[Any], object] | None = None,
        *,
        reference: bool = False,
        ours: socket.socket | None = None,
        transport: type = TCPTransport,
    ) -> None:
        """Connect; with `reference` all is Kombu's and py-amqp's own."""
        self.broker: socket.socket | None = None
        if ours is None:
            ours, self.broker = socket.socketpair()
        self.got: list[Any] = []
        self.sent: list[bytes] = []
        kind, channel = (pyamqp.Connection, pyamqp.Channel) if reference else (Connection, Channel)
        self.connection: Any = kind()
        self.transport: Any = amqp.transport.TCPTransport("localhost") if reference else transport("localhost")
        self.transport.sock, self.transport.connected = ours, True
        self.transport._quick_recv = ours.recv
        self.transport._write = self._write
        self.connection.transport = self.transport
        self.connection.on_inbound_frame = frame_handler(self.connection, self.connection.on_inbound_method)
        self.connection.frame_writer = frame_writer(self.connection, self.transport)
        self._kind = channel
        self.channel = self.another(1)
        self.listen(TAG, on_message or self.got.append)

    def another(self, number: int) -> Any:
        """Return a channel that is open."""
        channel: Any = self._kind(self.connection, number)
        channel.is_open = True
        return channel

    def listen(self, tag: str, on_message: Callable[[Any], object]) -> None:
        """Let what comes with a consumer's tag be handed to a function."""
        consumer = Consumer(self.channel, auto_declare=False, on_message=on_message)
        self.channel.callbacks[tag] = consumer._receive_callback

    def _write(self, data: Any) -> None:
        self.sent.append(bytes(data))

    def say(self, data: bytes) -> None:
        """Let the broker say something, which is there then to be read."""
        assert self.broker is not None
        self.broker.sendall(data)

    def burst(self, data: bytes) -> None:
        """Let the broker say something, and the loop read it."""
        self.say(data)
        self.connection.read_burst()

    def drain(self) -> None:
        """Take what is there, as one does without a loop."""
        with contextlib.suppress(TimeoutError):
            while True:
                self.connection.drain_events(timeout=0)

    def close(self) -> None:
        """End it without a word."""
        self.connection.collect()
        if self.broker is not None:
            self.broker.close()


def acked(sent: Sequence[bytes]) -> list[list[int]]:
    """Return the delivery tags that were acknowledged, a list for each write; other frames are passed over."""
    found = []
    for piece in sent:
        tags, at = [], 0
        while at < len(piece):
            kind, _, size = unpack(">BHI", piece[at : at + 7])
            if kind == 1 and unpack(">HH", piece[at + 7 : at + 11]) == ACK:
                tags.append(unpack(">Q", piece[at + 11 : at + 19])[0])
            at += size + 8
        found.append(tags)
    return found
