"""Data: what is accepted is JSON that everybody on the way reads, and what is not is named with its place."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from pipeline import Event, EventTooLarge, InvalidEvent
from pipeline.core.door.data import MAX_DEPTH, MAX_INTEGER, MIN_INTEGER
from pipeline.core.event import new_event


def encode(data: Any) -> bytes:
    return Event(id="1", type="a.b", source="/test", data=data).encode()


def raw(data: str) -> str:
    return f'{{"specversion": "1.0", "id": "1", "type": "a.b", "source": "/test", "data": {data}}}'


def nested(levels: int, *, leaf: Any = 1, key: str | None = None) -> Any:
    for _ in range(levels):
        leaf = [leaf] if key is None else {key: leaf}
    return leaf


@dataclass
class Reading:
    value: float


class Color(Enum):
    RED = "red"
    NOT = float("nan")


class Clock(datetime):
    """A datetime of a library's own, as those have that let time stand still."""


class Name(str):
    __slots__ = ()


class Table(dict):  # type: ignore[type-arg]
    pass


LOOP: list[Any] = []
LOOP.append(LOOP)

FLAWS = [
    pytest.param(float("nan"), "data: JSON has no nan", id="nan"),
    pytest.param({"score": float("inf")}, "data.score: JSON has no inf", id="infinity"),
    pytest.param({"a": [1, {"b": -float("inf")}]}, "data.a[1].b: JSON has no -inf", id="deep inside"),
    pytest.param({"a b": {"c": float("nan")}}, "data['a b'].c: JSON has no nan", id="beside a key that is no word"),
    pytest.param(Reading(float("nan")), "data.value: JSON has no nan", id="in a dataclass"),
    pytest.param({"color": Color.NOT}, "data.color: JSON has no nan", id="in an enum"),
    pytest.param(Table(x=float("nan")), "data.x: JSON has no nan", id="in a subclass of dict"),
    pytest.param({"n": None, "x": (1, float("nan"))}, "data.x[1]: JSON has no nan", id="beside a null"),
    pytest.param({"n": MAX_INTEGER + 1}, "data.n: an integer has at most 64 bits", id="large"),
    pytest.param({"n": MIN_INTEGER - 1}, "data.n: an integer has at most 64 bits", id="small"),
    pytest.param([2**64], "data[0]: an integer has at most 64 bits", id="larger"),
    pytest.param([10**400], "data[0]: an integer has at most 64 bits", id="huge"),
    pytest.param({"t": "a\0b"}, "data.t: databases take no NUL", id="NUL"),
    pytest.param({"a\0b": 1}, "data: in the key 'a\\x00b' databases take no NUL", id="NUL in a key"),
    pytest.param({"t": "\ud800"}, "data.t: a lone surrogate", id="surrogate"),
    pytest.param({"\udfff": 1}, "data: in the key '\\udfff' a lone surrogate", id="surrogate in a key"),
    pytest.param({"t": {1: 2}}, "data.t: the key 1 is no text", id="number as a key"),
    pytest.param({"t": {1, 2}}, "data.t: a set is no JSON", id="set"),
    pytest.param({"t": [b"x"]}, "data.t[0]: a bytes is no JSON", id="bytes"),
    pytest.param({"t": Decimal(1)}, "data.t: a Decimal is no JSON", id="decimal"),
    pytest.param({"t": object()}, "data.t: a object is no JSON", id="object"),
    pytest.param({"t": 1j}, "data.t: a complex is no JSON", id="complex"),
    pytest.param(LOOP, f"more than {MAX_DEPTH} levels", id="endless"),
    pytest.param(nested(MAX_DEPTH), f"more than {MAX_DEPTH} levels", id="deep"),
    pytest.param(nested(MAX_DEPTH, key="child"), f"more than {MAX_DEPTH} levels", id="deep objects"),
    pytest.param([["]" * 500], nested(MAX_DEPTH)], f"more than {MAX_DEPTH} levels", id="deep, with brackets in a text"),
    pytest.param([nested(9)] * 50 + [nested(MAX_DEPTH)], f"more than {MAX_DEPTH} levels", id="wide and deep"),
    pytest.param(nested(253, key="child"), f"more than {MAX_DEPTH} levels", id="as deep as orjson goes"),
    pytest.param(nested(5000), f"more than {MAX_DEPTH} levels", id="deeper than Python goes"),
]


@pytest.mark.parametrize(("data", "message"), FLAWS)
def test_what_not_everybody_reads_is_refused_with_its_place(data: Any, message: str) -> None:
    with pytest.raises(InvalidEvent) as caught:
        encode(data)
    assert message in str(caught.value)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    "data",
    [
        MAX_INTEGER, MIN_INTEGER, 1.7976931348623157e308, 5e-324, -0.0, "", "\x01\x1f", "\U0010ffff", "null", "NaN",
        "\\u0000", "0" * 100, "[" * 1000, {"null": None}, {"": ""}, {"NaN": "Infinity"}, [None] * 500, [[]] * 500,
        ["{[" * 200, {}], [1234567890123456789] * 3, nested(MAX_DEPTH - 1), nested(MAX_DEPTH - 1, key="child"),
        nested(MAX_DEPTH - 3, leaf=["]}" * 300, [None]]),
    ],
)  # fmt: skip
def test_what_everybody_reads_is_accepted_up_to_the_limits(data: Any) -> None:
    body = encode(data)
    readers = (json.loads, orjson.loads, TypeAdapter(Any).validate_json)
    assert all(read(body)["data"] == data for read in readers)
    assert Event.decode(body).data == data


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Clock(2026, 3, 1, tzinfo=UTC), "2026-03-01T00:00:00+00:00"),
        (datetime(2026, 3, 1, tzinfo=UTC), "2026-03-01T00:00:00Z"),
        (date(2026, 3, 1), "2026-03-01"),
        (time(12, 30), "12:30:00"),
        (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (Color.RED, "red"),
        (Name("Ada"), "Ada"),
        (Reading(1.5), {"value": 1.5}),
        (Table(a=1), {"a": 1}),
    ],
)
def test_what_has_one_way_to_be_json_is_written_that_way(value: Any, text: Any) -> None:
    assert Event.decode(encode({"x": value})).data == {"x": text}


def test_an_event_has_the_time_of_a_clock_that_stands_still() -> None:
    sent = Event(id="1", type="a.b", source="/test", time=Clock(2026, 3, 1, 12, tzinfo=UTC))
    assert Event.decode(sent.encode()).time == datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    "text",
    [
        "NaN", "Infinity", "-Infinity", "1e999", "-1e999", "1" * 400, str(2**63), str(-(2**63) - 1), str(2**64),
        "1" * 30,
        '"\\ud800"', '"\\u0000"', '{"a\\u0000": 1}', "[" * 150 + "]" * 150, '{"a":' * 150 + "1" + "}" * 150,
        "[" * 2000 + "]" * 2000, "[1,]", "01", "+1", "'a'", '"\x01"',
    ],
)  # fmt: skip
def test_what_came_from_elsewhere_passes_the_same_door(text: str) -> None:
    with pytest.raises(InvalidEvent, match=r"event"):
        Event.decode(raw(text))


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.text(st.characters()) | st.just("\ud800"),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.text(st.characters()), inner) | inner.map(lambda x: nested(60, leaf=x))
    ),
    max_leaves=30,
)


@given(VALUES)
def test_whatever_is_accepted_arrives_and_whatever_is_not_is_named(data: Any) -> None:
    try:
        body = encode(data)
    except InvalidEvent as exc:
        refused = str(exc)
    else:
        refused = ""
    if refused:
        assert refused.startswith("data")
        return
    text = body.decode()
    assert Event.decode(body).data == data
    assert (
        json.loads(text)["data"] == data == orjson.loads(body)["data"] == TypeAdapter(Any).validate_json(text)["data"]
    )
    assert "\\u0000" not in text.replace("\\\\", "")


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=300) | st.sampled_from(["NaN", "1e999", "9" * 25]))
def test_whatever_json_is_read_is_written_again(text: str) -> None:
    try:
        event = Event.decode(raw(text))
    except InvalidEvent:
        return
    assert Event.decode(event.encode()) == event


def test_an_event_that_is_too_large_names_the_part_that_makes_it_so() -> None:
    data = {"n": 1, "report": {"title": "t", "pages": ["short", "x" * 500]}}
    with pytest.raises(EventTooLarge, match=r"^data.report.pages.1: event 'a.b' takes \d+ bytes, 502 of them here"):
        new_event("a.b", data, source="/t").encoded(600)
    with pytest.raises(EventTooLarge, match=r"^data.rows: event 'a.b' takes [\d,]+ bytes, 801 of them here, the limit"):
        new_event("a.b", {"rows": [*range(100, 300)]}, source="/t").encoded(600)
    with pytest.raises(EventTooLarge, match=r"^data: event 'a.b' takes \d+ bytes, 502 of them here"):
        new_event("a.b", "x" * 500, source="/t").encoded(600)
