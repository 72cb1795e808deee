"""AMQP's frames, cut from the bytes that have come; a plain delivery's three are decoded in one go."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator
from functools import lru_cache
from struct import Struct
from typing import Any, NamedTuple

from amqp.basic_message import Message
from amqp.exceptions import FrameError, UnexpectedFrame

#: The kinds of frames; what is no heartbeat belongs to a channel.
METHOD, HEADER, BODY, HEARTBEAT = 1, 2, 3, 8
#: What every frame ends with, and how many bytes there are around its payload.
END, AROUND = 0xCE, 8
#: The largest frame (bytes) until both sides have agreed on one.
LARGEST = 131_072
_BASIC, _DELIVER = 60, 60
_DELIVERS = struct.pack(">HH", _BASIC, _DELIVER)
_HEAD = Struct(">BHI")
_METHOD = Struct(">BHIHHB")
_TAG = Struct(">QBB")
_CONTENT = Struct(">BHIHHQH")
_LONG = Struct(">I")
_TEXT, _TABLE = ord("S"), ord("F")
#: How the modules begin that stand between bytes and whom a message is handed to.
_DECODING = ("amqp.", f"{__package__}.")
#: The properties of a message whose own ones nobody can decode: a content type that no consumer takes.
_UNREADABLE = b"\x80\x00\x15unreadable properties"
#: What py-amqp raises over bytes that make no sense to it, beside errors of its own.
UNDECODED = (struct.error, LookupError, ValueError, TypeError, ArithmeticError, RecursionError)
#: A frame's kind, channel and payload.
Frame = tuple[int, int, bytes]


class Delivery(NamedTuple):
    """A delivery, as much of py-amqp's message as Kombu makes its own of, and where the next frame begins."""

    channel: int
    delivery_tag: int
    delivery_info: dict[str, Any]
    properties: dict[str, Any]
    body: bytes | str
    end: int


class NotPlain(Exception):
    """What has come has to be decoded by py-amqp."""


class Unread:
    """Bytes that have come and that nobody has read; whole frames are taken from it.

    Attributes:
        largest: the size (bytes) that no frame may exceed.
        at: where the next frame begins.

    """

    def __init__(self) -> None:
        self.largest = LARGEST
        self.at = 0
        self._data = b""
        self._aside: bytearray | None = None
        self._delivering: set[int] = set()  # channels on which more of what was put aside is to come

    def add(self, data: bytes) -> None:
        """Put what has come behind what is there."""
        self._data = self._data[self.at :] + data if self.at < len(self._data) else data
        self.at = 0

    def has_frame(self) -> bool:
        """Say whether cut() would not answer None."""
        _, end = self._next()
        return 0 < end < len(self._data) or end - self.at >= self.largest

    def cut(self) -> Frame | None:
        """Take the next frame as (kind, channel, payload); None as long as it is not whole.

        Raises FrameError for one that is too large, and UnexpectedFrame for one without an end.
        """
        while (frame := self._cut()) is not None and self._aside is not None and self._is_of_delivery(frame):
            self._aside += self._data[self.at - len(frame[2]) - AROUND : self.at]
        return frame

    def _cut(self) -> Frame | None:
        begin, end = self._next()
        if end - self.at >= self.largest:
            raise FrameError(f"a frame of {end + 1 - self.at:,} bytes has come; {self.largest:,} were agreed on")
        if not 0 < end < len(self._data):
            return None
        if self._data[end] != END:
            raise UnexpectedFrame(f"a frame ends with {self._data[end]:#04x} instead of {END:#04x}")
        kind, channel, _ = _HEAD.unpack_from(self._data, self.at)
        self.at = end + 1
        return kind, channel, self._data[begin:end]

    @contextlib.contextmanager
    def without_deliveries(self) -> Iterator[None]:
        """Let cut() pass over deliveries meanwhile; afterwards they are there again."""
        if self._aside is not None:
            yield
            return
        self._aside = bytearray()
        try:
            yield
        finally:
            self._data, self.at = bytes(self._aside) + self._data[self.at :], 0
            self._aside = None
            self._delivering.clear()

    def _is_of_delivery(self, frame: Frame) -> bool:
        kind, channel, payload = frame
        if kind == METHOD and payload.startswith(_DELIVERS):
            self._delivering.add(channel)
        elif kind == METHOD:
            self._delivering.discard(channel)
        return kind in {METHOD, HEADER, BODY} and channel in self._delivering

    def _next(self) -> tuple[int, int]:
        """Return where the next frame's payload begins and ends; zeros as long as it does not say so."""
        begin = self.at + _HEAD.size
        if len(self._data) < begin:
            return 0, 0
        return begin, begin + _HEAD.unpack_from(self._data, self.at)[2]

    def delivery(self) -> Delivery | None:
        """Return the delivery that comes next, if it is whole and plain; it is taken by going on `at` its end."""
        try:
            found = _delivery(self._data, self.at)
        except (NotPlain, IndexError, struct.error, UnicodeDecodeError):
            return None  # py-amqp says what is wrong, or waits for the rest
        return found if found.end - self.at <= self.largest else None


def without_properties(frame: Frame) -> Frame | None:
    """Return a header frame as it is passed on when its properties cannot be decoded; None for anything else."""
    kind, channel, payload = frame
    size = _CONTENT.size - _HEAD.size - 2
    if kind != HEADER or payload[size:] == _UNREADABLE:
        return None
    return kind, channel, payload[:size] + _UNREADABLE


def is_py_amqps(exc: BaseException) -> bool:
    """Say whether an error was raised by what decodes, below who asks, and not by whom a message was handed to."""
    at = exc.__traceback__ and exc.__traceback__.tb_next
    while at is not None and str(at.tb_frame.f_globals.get("__name__")).startswith(_DECODING):
        at = at.tb_next
    return at is None


def _delivery(data: bytes, at: int) -> Delivery:
    """Decode the three frames of a delivery; whatever else is there raises one of several errors."""
    kind, channel, size, section, method, length = _METHOD.unpack_from(data, at)
    if kind != METHOD or section != _BASIC or method != _DELIVER:
        raise NotPlain
    end = at + _HEAD.size + size
    at += _METHOD.size
    consumer = data[at : at + length].decode()
    at += length
    tag, redelivered, length = _TAG.unpack_from(data, at)
    at += _TAG.size
    exchange = data[at : at + length].decode()
    at += length
    length = data[at]
    key = data[at + 1 : at + 1 + length].decode()
    _check(data, at + 1 + length, end)
    kind, same, size, section, _, length, flags = _CONTENT.unpack_from(data, end + 1)
    at, end = end + 1 + _CONTENT.size, end + AROUND + size
    if kind != HEADER or same != channel or section != _BASIC or not length:
        raise NotPlain
    properties, at = _properties(data, at, flags)
    _check(data, at, end)
    begin = end + 1 + _HEAD.size
    if _HEAD.unpack_from(data, end + 1) != (BODY, channel, length):  # a large body has several
        raise NotPlain
    end = begin + length
    _check(data, end, end)
    info = {
        "consumer_tag": consumer,
        "delivery_tag": tag,
        "redelivered": redelivered & 1 == 1,
        "exchange": exchange,
        "routing_key": key,
    }
    return Delivery(channel, tag, info, properties, _text(data[begin:end], properties), end + 1)


def _text(body: bytes, properties: dict[str, Any]) -> bytes | str:
    """Decode a body that is text, as py-amqp's channels do."""
    try:
        return body.decode(properties["content_encoding"])
    except Exception:  # "binary" for instance: it stays as it is
        return body


def _check(data: bytes, at: int, end: int) -> None:
    """Raise NotPlain unless a frame's payload was read up to its end, and ends there."""
    if at != end or data[end] != END:
        raise NotPlain


@lru_cache(maxsize=256)
def _named(flags: int) -> list[tuple[str, str]]:
    """Return the properties that are there, with their types."""
    return [each for n, each in enumerate(Message.PROPERTIES) if flags & 1 << 15 - n]


def _properties(data: bytes, at: int, flags: int) -> tuple[dict[str, Any], int]:
    properties: dict[str, Any] = {}
    for name, kind in _named(flags):
        if kind == "s":
            end = at + 1 + data[at]
            properties[name] = data[at + 1 : end].decode()
            at = end
        elif kind == "o":
            properties[name] = data[at]
            at += 1
        elif kind == "F":
            properties[name], at = _table(data, at)
        else:
            raise NotPlain
    if flags & 0b11:  # more flags follow, or one that nobody knows
        raise NotPlain
    return properties, at


def _table(data: bytes, at: int, *, within: bool = False) -> tuple[dict[str, Any], int]:
    """Decode a table of texts, and of tables of texts."""
    limit = at + 4 + _LONG.unpack_from(data, at)[0]
    at += 4
    table: dict[str, Any] = {}
    while at < limit:
        end = at + 1 + data[at]
        key = data[at + 1 : end].decode()
        kind = data[end]
        at = end + 1
        if kind == _TEXT:
            end = at + 4 + _LONG.unpack_from(data, at)[0]
            table[key] = data[at + 4 : end].decode()
            at = end
        elif kind == _TABLE and not within:
            table[key], at = _table(data, at, within=True)
        else:
            raise NotPlain
    if at != limit:
        raise NotPlain
    return table, at
