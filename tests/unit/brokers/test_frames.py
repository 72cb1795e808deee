"""Frames are cut and decoded as py-amqp does it, however the bytes come; what no broker says ends the connection."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import amqp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from pipeline.brokers.amqp.connection import Connection
from pipeline.brokers.amqp.frames import Unread
from tests.amqp import HEARTBEAT, UNREADABLE, Line, Odd, as_told, event, frame, method, said

TEXT = some.text(max_size=20)
KEYS = some.text(max_size=30)
PLAIN = some.dictionaries(KEYS, TEXT, max_size=4)
VALUES = some.one_of(
    TEXT,
    some.integers(-(2**62), 2**62),
    some.booleans(),
    some.none(),
    some.floats(allow_nan=False),
    some.just(Decimal("1.5")),
    some.just(datetime(2026, 1, 1, tzinfo=UTC)),
    some.lists(TEXT, max_size=2),
    PLAIN,
    some.dictionaries(KEYS, PLAIN, max_size=2),
)
HEADERS = some.one_of(
    PLAIN,
    some.builds(lambda texts, bus: {**texts, "bus": bus}, PLAIN, PLAIN),
    some.dictionaries(KEYS, VALUES, max_size=4),
)
SHORT = some.text(max_size=20)
PROPERTIES = some.fixed_dictionaries(
    {},
    optional={
        "content_type": SHORT,
        "content_encoding": some.sampled_from(["utf-8", "binary", "ascii", ""]),
        "application_headers": HEADERS,
        "delivery_mode": some.integers(1, 2),
        "priority": some.integers(0, 9),
        "correlation_id": SHORT,
        "reply_to": SHORT,
        "expiration": SHORT,
        "message_id": SHORT,
        "timestamp": some.just(1_700_000_000),
        "type": SHORT,
        "app_id": SHORT,
    },
)
#: The largest frame of these streams: larger bodies come in several.
FRAME_MAX = 4096
MESSAGES = some.builds(
    lambda body, properties: amqp.Message(body, **properties),
    some.one_of(some.binary(max_size=60), some.sampled_from([b"", b"{}", "é".encode(), b"x" * 10_000])),
    PROPERTIES,
)
STREAMS = some.lists(some.one_of(MESSAGES, some.just(HEARTBEAT)), min_size=1, max_size=6)


def stream(parts: list[Any]) -> bytes:
    numbers = itertools.count(1)
    return b"".join(
        part if isinstance(part, bytes) else said(part, frame_max=FRAME_MAX, first=next(numbers)) for part in parts
    )


@contextmanager
def line(**options: Any) -> Iterator[Line]:
    one = Line(**options)
    if not options:
        one.transport.unread.largest = FRAME_MAX
    try:
        yield one
    finally:
        one.close()


def read_all(one: Line) -> None:
    """Read what is there, as a loop does: twice, so that an end of the connection is seen after what came before it."""
    for _ in range(2):
        one.connection.read_burst()
        while (
            one.connection.connected and one.transport.unread.has_frame()
        ):  # there is more than a burst may take of the loop's time
            one.connection.hand_over()


def as_py_amqp_reads(data: bytes) -> list[dict[str, Any]]:
    with line(reference=True) as one:
        one.say(data)
        one.drain()
        return [as_told(message) for message in one.got]


@settings(max_examples=100, deadline=None)
@given(parts=STREAMS, cuts=some.lists(some.floats(0, 1), max_size=5), waits=some.booleans())
def test_however_the_bytes_come_the_messages_are_those_that_py_amqp_reads(
    parts: list[Any], cuts: list[float], waits: bool
) -> None:
    data = stream(parts)
    places = sorted({0, len(data), *(int(cut * len(data)) for cut in cuts)})
    with line() as one:
        for begin, end in itertools.pairwise(places):
            one.say(data[begin:end])
            one.drain() if waits else one.connection.read_burst()
        read_all(one)
        assert [as_told(message) for message in one.got] == as_py_amqp_reads(data)
        assert one.connection.bytes_recv == data_frames(data)


def data_frames(data: bytes) -> int:
    unread = Unread()
    unread.add(data)
    return len(list(iter(unread.cut, None)))


@settings(max_examples=150, deadline=None)
@given(parts=STREAMS, at=some.floats(0, 1, exclude_max=True), byte=some.integers(0, 255))
def test_one_wrong_byte_is_another_message_or_the_end_of_the_connection_and_nothing_else(
    parts: list[Any], at: float, byte: int
) -> None:
    data = bytearray(stream(parts))
    data[int(at * len(data))] = byte
    with line() as one:
        one.say(bytes(data))
        with suppress(Connection.connection_errors):
            read_all(one)
        assert len(one.got) <= len(parts)


def content(message: amqp.Message) -> bytes:
    """Return a delivery's frames but the first."""
    data = said(message)
    return data[data.index(b"\xce\x02") + 1 :]


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (said(event())[:-1] + b"\x00", "ends with 0x00 instead of 0xce"),
        (frame(3, 1, b"x" * FRAME_MAX), "a frame of 4,104 bytes has come; 4,096 were agreed on"),
        (b"\x01\x00\x01\xff\xff\xff\xff", "a frame of 4,294,967,303 bytes has come"),
        (frame(1, 1, b"\x00\x3c\x00\x3c\x30"), "Received frame 1 while expecting type"),
        (frame(2, 1, b"\x00\x3c"), "Received frame 2 while expecting type"),
        (frame(5, 1, b""), "Received frame 5"),
        (frame(1, 1, b"\x00\x3c\x00\x3c\x01t") + content(event()), "cannot be read: error"),
        (method((60, 31), b"\x01\xff"), "cannot be read: UnicodeDecodeError"),
        (method((60, 31), b"\x01t", channel=7), "cannot be read: KeyError"),
        (frame(1, 1, b"\x00"), "cannot be read: error"),
    ],
)  # fmt: skip
def test_what_no_broker_says_ends_the_connection_and_the_error_says_what_it_was(data: bytes, error: str) -> None:
    with line() as one:
        one.burst(said(event()))
        one.say(data + said(event(), first=2))
        with pytest.raises(Connection.connection_errors, match=error):
            read_all(one)
        assert [message.delivery_tag for message in one.got] == [1]


@pytest.mark.parametrize("properties", UNREADABLE.values(), ids=UNREADABLE)
def test_a_message_with_properties_that_cannot_be_decoded_is_its_consumers_to_set_aside(properties: bytes) -> None:
    with line() as one:
        one.say(said(event(), Odd("{}", properties), event()))
        one.transport.unread.largest = 131_072
        read_all(one)
        assert [message.delivery_tag for message in one.got] == [1, 2, 3]
        odd = one.got[1]
        assert (odd.content_type, odd.headers, odd.body) == ("unreadable properties", {}, b"{}")


def test_a_message_with_a_routing_key_that_is_no_text_is_rejected() -> None:
    with line() as one:
        data = said(event()).replace(b"\x03a.1", b"\x03a.\xff")
        one.say(data + said(event(), first=2))
        read_all(one)
        assert [message.delivery_tag for message in one.got] == [2]
        assert one.sent == [method((60, 90), b"\0" * 7 + b"\x01\0")]


def test_a_message_that_is_cut_off_is_handed_to_nobody() -> None:
    with line() as one:
        one.say(said(event())[:-1])
        one.broker.close()
        with pytest.raises(OSError, match="closed connection"):
            read_all(one)
        assert one.got == []


def test_an_error_of_a_consumer_is_its_own_and_not_the_connections() -> None:
    def fails(message: Any) -> None:
        raise KeyError(message.body)

    for message in (event(), event(number=7)):  # decoded here, and by py-amqp
        with line(on_message=fails) as one, pytest.raises(KeyError, match=r"\{\}"):
            one.burst(said(message))
