"""Paths lead into the envelope, the payload and the metadata."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline import InvalidFilter
from pipeline.agents.filters import parse
from pipeline.agents.filters.paths import ALIASES, ATTRIBUTES, parse_path
from pipeline.core.event import Event
from tests.filters import event, result


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("payload.symbol", "payload.symbol"),
        ("data.symbol", "payload.symbol"),
        ("symbol", "payload.symbol"),
        ("user.name", "payload.user.name"),
        ("event.data.symbol", "payload.symbol"),
        ("event.payload.symbol", "payload.symbol"),
        ("payload", "payload"),
        ("type", "event.type"),
        ("event.type", "event.type"),
        ("payload.type", "payload.type"),
        ("`type`", "payload.type"),
        ("`event`.type", "payload.event.type"),
        ("correlation_id", "event.correlationid"),
        ("event.causation_id", "event.causationid"),
        ("event.myextension", "event.myextension"),
        ("metadata", "metadata"),
        ("metadata.session_id", "metadata.session_id"),
        ("event.metadata.session_id", "metadata.session_id"),
        ("payload.metadata", "payload.metadata"),
        ("payload.`a.b`", "payload.`a.b`"),
        ("payload.`a``b`", "payload.`a``b`"),
        ("payload.user-id", "payload.`user-id`"),
    ],
)
def test_a_path_starts_at_the_envelope_the_payload_or_the_metadata(text: str, path: str) -> None:
    assert str(parse_path(text)) == path
    assert parse_path(str(parse_path(text))) == parse_path(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is no path"),
        ("a..b", "is no path"),
        ("a.", "is no path"),
        (".a", "is no path"),
        ("`a", "is no path"),
        ("event", "'event' is the whole envelope"),
        ("event.correlaton_id", "unknown attribute of the envelope 'correlaton_id'; did you mean 'correlation_id'?"),
        ("source.name", "event.source is one value without fields; write payload.source.name for the payload's"),
        ("event.type.name", "event.type is one value without fields"),
    ],
)
def test_what_is_no_path_is_refused(text: str, message: str) -> None:
    with pytest.raises(InvalidFilter) as caught:
        parse_path(text)
    assert message in str(caught.value)


def test_every_attribute_of_an_event_is_known_by_both_of_its_names() -> None:
    roots = ("data", "data_base64", "metadata")
    names = {name: field.alias for name, field in Event.model_fields.items() if name not in roots}
    assert {alias or name for name, alias in names.items()} <= set(ATTRIBUTES)
    assert {name: alias for name, alias in names.items() if alias} == ALIASES


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("type", "alert.raised"),
        ("source", "/monitoring"),
        ("priority", 5),
        ("correlation_id", "c1"),
        ("user.name", "Ada"),
        ("payload.`user-id`", "u1"),
        ("payload.`a.b`", 1),
    ],
)
def test_the_value_is_found(path: str, value: Any) -> None:
    assert result({path: value}) is True


@pytest.mark.parametrize(
    "metadata", ['{"session_id": "s1", "user": {"id": 7}}', {"session_id": "s1", "user": {"id": 7}}]
)
def test_metadata_is_looked_into_as_text_and_as_an_object(metadata: Any) -> None:
    it = event(metadata=metadata)
    assert result({"metadata.session_id": "s1"}, it) is True
    assert result({"metadata.user.id": {"$gt": 5}}, it) is True
    assert result({"metadata.gone": "x"}, it) is None
    assert result({"metadata.session_id": "s1"}) is None
    assert result("$.metadata.user[?@ == 7]", it) is True


@pytest.mark.parametrize(
    ("metadata", "error"),
    [
        ("{", "the attribute metadata is no JSON"),
        ("[1]", "is an array, not an object"),
        (5, "is a number, not an object"),
    ],
)
def test_metadata_that_is_no_object_is_an_error(metadata: Any, error: str) -> None:
    for where in ({"metadata.a": 1}, {"metadata.a": {"$exists": False}}, "$.metadata.a"):
        assert error in str(result(where, event(metadata=metadata)))


def test_an_attribute_that_is_null_is_missing() -> None:
    assert result({"subject": {"$exists": True}}, {**event(), "subject": None}) is False
    assert result({"subject": "x"}, {**event(), "subject": None}) is None


def test_a_payload_that_is_one_value_is_compared_as_it_is() -> None:
    assert result({"payload": 5}, event(5)) is True
    assert result({"payload": {"$contains": "all"}}, event("hallo")) is True
    assert result({"payload.a": 5}, event(5)) is None


def test_a_filter_knows_its_paths() -> None:
    found = parse("a = 1 AND b > 2 * c AND type = x AND NOT a = 3")
    assert [str(path) for path in found.paths] == ["payload.a", "payload.b", "payload.c", "event.type"]
