"""What goes over bridges, and the way of an event."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import Event, EventTooLarge, InvalidEvent
from pipeline.bridges.wire import FORMATS, arrived, incoming, outgoing, way_of
from pipeline.core.event import VIA, new_event

TEXTS = st.text(st.characters(exclude_categories=["C", "Zl", "Zp"]), min_size=1, max_size=30)


@dataclass(frozen=True)
class Came:
    """A message that has come."""

    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    type: str = "stock.low"
    id: str = "m1"

    async def done(self) -> None: ...

    async def hold(self) -> None: ...

    async def put_aside(self, reason: str) -> None: ...


def read(body: bytes, **about: Any) -> Event:
    return incoming(Came(body, **about), "/shop/bridges/wms", 10_000)


@pytest.mark.parametrize("format", FORMATS)
@given(subject=TEXTS, text=TEXTS, priority=st.integers(1, 10))
def test_what_goes_out_can_come_in(format: str, subject: str, text: str, priority: int) -> None:
    event = new_event("stock.low", {"text": text}, source="/shop", subject=subject, priority=priority)
    sent = outgoing(event, format, "a:b")
    assert all(value.isascii() and value.isprintable() for value in sent.headers.values())
    found = read(sent.body, headers=sent.headers)
    assert (found.id, found.type, found.data, way_of(found)) == (event.id, event.type, event.data, ["a:b"])
    assert found.time == event.time
    if format != "envelope":
        assert found.attributes() == {**json.loads(event.encode()), VIA: "a:b"} or format == "binary"
        assert (found.source, found.subject, found.priority) == (event.source, event.subject, event.priority)


@pytest.mark.parametrize(
    ("about", "path", "key"),
    [
        ({"subject": "a"}, "data.sku", "tea"),
        ({"subject": "a"}, "data.none", "a"),
        ({"subject": "a", "partitionkey": "p"}, None, "p"),
        ({"subject": "a"}, None, "a"),
        ({"correlationid": "c"}, None, "c"),
    ],
)
def test_the_key_is_what_events_of_one_order_have_in_common(about: dict[str, Any], path: str | None, key: str) -> None:
    said = {"specversion": "1.0", "id": "s1", "source": "/wms", "type": "stock.low", "data": {"sku": "tea"}, **about}
    assert outgoing(read(json.dumps(said).encode()), "binary", "a:b", path).key == key


def test_what_is_of_one_bus_only_does_not_go_out() -> None:
    event = new_event("stock.low", 1, source="/shop", targets=("billing",)).evolve(replyby="later")
    told = json.loads(outgoing(event, "cloudevents", "a:b").body)
    assert "targets" not in told
    assert "replyby" not in told


@pytest.mark.parametrize(
    ("body", "data", "id", "type"),
    [
        (b'{"n": 1}', {"n": 1}, "m1", "stock.low"),
        (b"[1]", [1], "m1", "stock.low"),
        (b'{"Type": "a.b", "Payload": 2, "MessageID": "x"}', 2, "x", "a.b"),
        (b'{"Type": "a.b", "Payload": null}', None, "m1", "a.b"),
        (b'{"Type": "a.b"}', {"Type": "a.b"}, "m1", "stock.low"),
    ],
)
def test_plain_json_and_envelopes_are_events(body: bytes, data: Any, id: str, type: str) -> None:
    event = read(body)
    assert (event.data, event.id, event.type, event.source) == (data, id, type, "/shop/bridges/wms")


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (b"", {}),
        (b"no json", {}),
        (b"\xff", {}),
        (b"NaN", {}),
        (b'{"Type": 7, "Payload": 1}', {}),
        (b'{"Type": "a b", "Payload": 1}', {}),
        (b'{"Type": "a.b", "Payload": 1, "Timestamp": "noon"}', {}),
        (b'{"specversion": "1.0"}', {}),
        (b'{"specversion": "2.0", "id": "1", "source": "/a", "type": "a.b"}', {}),
        (b"1", {"ce-specversion": "1.0", "ce-type": "a.b"}),
        (b"[" * 3000 + b"]" * 3000, {}),
    ],
)
def test_what_no_event_can_be_made_of_is_refused(body: bytes, headers: dict[str, str]) -> None:
    with pytest.raises(InvalidEvent):
        read(body, headers=headers)


def test_a_message_without_a_type_is_refused() -> None:
    with pytest.raises(InvalidEvent, match="type"):
        read(b"1", type="")


def test_a_message_that_is_too_large_is_not_read() -> None:
    with pytest.raises(EventTooLarge, match="10,001 bytes"):
        read(b"x" * 10_001)


def test_the_same_message_is_the_same_event_and_another_source_has_another() -> None:
    assert read(b"1").key == read(b"1").key
    assert incoming(Came(b"1"), "/shop/bridges/other", 10).key != read(b"1").key


def test_an_event_that_has_been_on_a_bus_does_not_come_in_there_again() -> None:
    event = new_event("stock.low", 1, source="/one")
    there = arrived(read(outgoing(event, "cloudevents", "bus1:a").body), "bus2:b")
    assert there is not None
    assert way_of(there) == ["bus1:a", "bus2:b"]
    back = read(outgoing(there, "cloudevents", "bus2:c").body)
    assert arrived(back, "bus1:other") is None
    elsewhere = arrived(back, "bus3:d")
    assert elsewhere is not None
    assert (elsewhere.id, elsewhere.key) == (event.id, there.key)


def test_an_event_goes_over_sixteen_bridges_at_most() -> None:
    def over(number: int) -> bytes:
        via = ",".join(f"bus{n}:a" for n in range(number))
        return json.dumps({"specversion": "1.0", "id": "1", "source": "/a", "type": "a.b", VIA: via}).encode()

    assert arrived(read(over(15)), "here:a") is not None
    with pytest.raises(InvalidEvent, match="16 bridges"):
        arrived(read(over(16)), "here:a")
