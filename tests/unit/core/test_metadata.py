"""Metadata, and attributes that the bus does not know: they travel with an event, and come back as they went."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline import Context, Event, InvalidEvent
from pipeline.core.door.attributes import MAX_METADATA, tags_of
from pipeline.core.event import new_event

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
PRINTABLE = st.text(st.characters(exclude_categories=["Cc", "Cs", "Cn"]), max_size=20)
SCALARS = st.booleans() | st.integers(-(2**31), 2**31 - 1) | PRINTABLE
NAMES = st.from_regex("[a-z0-9]{1,12}", fullmatch=True).filter(lambda name: name not in KNOWN)
KNOWN = {"id", "type", "source", "data", *json.loads(Event(id="1", type="a", source="/a").encode())} | {
    *(field.alias or name for name, field in Event.model_fields.items()), *Event.model_fields
}  # fmt: skip
#: Far below the limit, whatever they are.
METADATA = st.dictionaries(TEXT, st.none() | st.booleans() | st.integers(-(2**60), 2**60) | TEXT, max_size=6)


def event(**given: Any) -> Event:
    return Event(**{"id": "1", "type": "order.placed", "source": "/shop", **given})


@given(METADATA)
def test_metadata_comes_back_as_it_went_as_one_text(metadata: dict[str, Any]) -> None:
    sent = event(metadata=metadata)
    on_the_wire = json.loads(sent.encode())
    assert Event.decode(sent.encode()) == sent
    assert json.loads(on_the_wire["metadata"]) == metadata if metadata else "metadata" not in on_the_wire


def test_what_an_event_causes_inherits_its_metadata_and_what_is_given_wins() -> None:
    cause = new_event("order.placed", {}, source="/shop", metadata={"user": "ada", "session": 1})
    assert new_event("order.paid", {}, source="/shop", cause=cause).metadata == {"user": "ada", "session": 1}
    caused = new_event("order.paid", {}, source="/shop", cause=cause, metadata={"session": 2, "step": "pay"})
    assert caused.metadata == {"user": "ada", "session": 2, "step": "pay"}
    assert cause.metadata == {"user": "ada", "session": 1}


def test_a_handler_adds_to_the_metadata_of_what_it_emits() -> None:
    ctx = Context.for_test(event(metadata={"user": "ada"}))
    ctx.publish("order.paid", {}, metadata={"step": "pay"})
    assert ctx.published[0].metadata == {"user": "ada", "step": "pay"}


def test_more_than_four_kilobytes_of_metadata_are_refused() -> None:
    room = MAX_METADATA - len('{"a":""}')
    assert event(metadata={"a": "x" * room})
    with pytest.raises(ValidationError, match="metadata: 4,097 bytes are too many; 4,096 are allowed"):
        event(metadata={"a": "x" * (room + 1)})
    cause = event(metadata={"a": "x" * room})
    with pytest.raises(InvalidEvent, match="metadata: 4,"):
        new_event("order.paid", {}, source="/shop", cause=cause, metadata={"b": 1})


@pytest.mark.parametrize(
    ("metadata", "what"),
    [
        ({"a": float("nan")}, "metadata.a: JSON has no nan"),
        ({"a": 2**70}, "metadata.a: an integer has at most 64 bits"),
        ({"a": {1, 2}}, "metadata.a"),
        ({1: "a"}, "is no mapping of names to values"),
        ("user=ada", "is no mapping of names to values"),
        ({"a": "\udce9"}, "metadata.a"),
    ],
)
def test_metadata_that_is_no_json_is_refused_with_the_place(metadata: Any, what: str) -> None:
    with pytest.raises(InvalidEvent, match=what):
        new_event("order.placed", {}, source="/shop", metadata=metadata)


@pytest.mark.parametrize("said", ['"a text"', "no JSON", "[1]", 5, None, True, ""])
def test_another_programs_metadata_with_another_meaning_is_kept_and_no_metadata(said: Any) -> None:
    body = json.dumps({"specversion": "1.0", "id": "1", "type": "a", "source": "/a", "metadata": said}).encode()
    found = Event.decode(body, None)
    assert found.metadata == {}
    assert found.encode() == body


@pytest.mark.parametrize("said", [json.dumps({"a": "x" * MAX_METADATA}), '{"a": "\\u0000"}'])
def test_another_programs_metadata_that_the_bus_could_not_carry_is_left_to_it(said: str) -> None:
    body = json.dumps({"specversion": "1.0", "id": "1", "type": "a", "source": "/a", "metadata": said}).encode()
    found = Event.decode(body, None)
    assert (found.metadata, found.encode()) == ({}, body)


def test_an_event_that_was_handed_on_as_json_is_the_same(tmp_path: object) -> None:
    sent = event(metadata={"user": "ada"}, tenant="acme")
    assert Event.model_validate(sent.__json__()) == sent
    assert sent.evolve(metadata='{"user": "eve"}').metadata == {"user": "eve"}
    assert json.loads(sent.evolve(binary=b"\x00").encode())["binary"] == "AA=="
    with pytest.raises(ValueError, match="metadata: it is no object"):
        sent.evolve(metadata="[1]")


def test_what_events_are_found_by() -> None:
    metadata = {"a": "x", "b": 1, "c": True, "d": None, "e": [1], "f": "x" * 256, "g": 1.5, "h" * 256: "x"}
    assert tags_of(metadata) == [("a", "x"), ("b", "1"), ("c", "true"), ("g", "1.5")]


# -- attributes that the bus does not know


@given(st.dictionaries(NAMES, SCALARS, max_size=4))
def test_attributes_that_the_bus_does_not_know_survive(attributes: dict[str, Any]) -> None:
    sent = event(**attributes)
    assert sent.model_extra == attributes
    there = Event.decode(sent.encode())
    assert there == sent
    assert {name: json.loads(there.encode())[name] for name in attributes} == attributes


def test_all_types_of_attributes_that_cloudevents_has_are_written_as_it_says() -> None:
    when = datetime(2026, 11, 26, 12, tzinfo=UTC)
    sent = event(binary=b"\x00\xff", time1=when, uri="https://example.com/a", flag=False, number=-1, none=None)
    found = json.loads(sent.encode())
    assert (found["binary"], found["time1"]) == ("AP8=", "2026-11-26T12:00:00+00:00")
    assert (found["uri"], found["flag"], found["number"]) == ("https://example.com/a", False, -1)
    assert "none" not in found


@pytest.mark.parametrize(
    ("attribute", "what"),
    [
        ({"sessionId": "1"}, "sessionId: it is no attribute of an event"),
        ({"correlation": [1]}, "correlation: .* is no truth value"),
        ({"number": 2**31}, "number: 2147483648 is no truth value, integer of 32 bits"),
        ({"share": 0.5}, "share: 0.5"),
        ({"text": "a\nb"}, "is no character of a text"),
        ({"when": datetime(2026, 1, 1)}, "has no time zone"),  # that is the point
    ],
)
def test_what_is_no_attribute_of_cloudevents_is_refused(attribute: dict[str, Any], what: str) -> None:
    with pytest.raises(ValidationError, match=what):
        event(**attribute)
    with pytest.raises(ValueError, match=what):
        event().evolve(**attribute)


def test_what_another_program_calls_its_attributes_is_left_to_it() -> None:
    attributes = {"specversion": "1.0", "id": "1", "type": "a", "source": "/a", "sessionId": {"deep": [1]}}
    body = json.dumps({**attributes, "dataschema": "https://example.com/s"}).encode()
    found = Event.decode(body, None)
    assert found.encode() == body
    own = Event.decode(body)  # one of ours that has been archived, say
    assert json.loads(own.evolve(priority=1).encode())["sessionId"] == {"deep": [1]}
    assert json.loads(own.encode())["dataschema"] == "https://example.com/s"
