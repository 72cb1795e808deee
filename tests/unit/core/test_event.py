"""Events: a frozen CloudEvents envelope around data."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID, uuid5

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline import Event, InvalidEvent, Payload
from pipeline.core.errors import explain
from pipeline.core.event import new_event
from pipeline.core.ids import caused_id, delivery_id


class UserQuery(Payload, type="user.query", version="1.2.0"):
    user_id: str
    query: str = ""


class Untyped(Payload):
    n: int = 0


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
#: No control characters, surrogates, or code points that will never be characters: CloudEvents has none in attributes.
CHARACTERS = st.characters(exclude_categories=["Cc", "Cs", "Cn"])
NUMBERS = st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)
NAMES = st.from_regex(r"[a-z][a-z0-9_-]{0,8}", fullmatch=True)


def event(**given: Any) -> Event:
    return Event(**{"id": "1", "type": "a.b", "source": "/test", **given})


def on_the_wire(given: Event) -> dict[str, Any]:
    found = json.loads(given.encode())
    assert isinstance(found, dict)
    return found


# -- the envelope


def test_an_event_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        event().type = "c.d"


def test_evolve_returns_a_changed_copy_and_validates_it() -> None:
    first = event(data={"n": 1}, subject="s")
    second = first.evolve(type="c.d")
    assert (first.type, second.type) == ("a.b", "c.d")
    assert (second.id, second.data, second.subject) == (first.id, first.data, first.subject)
    with pytest.raises(ValueError, match="type"):
        first.evolve(type="not a type")


def test_the_encoded_event_is_cloudevents_1_0() -> None:
    found = on_the_wire(event(data={"n": 1}))
    assert {"specversion", "id", "type", "source"} <= set(found)
    assert (found["specversion"], found["datacontenttype"], found["data"]) == ("1.0", "application/json", {"n": 1})
    assert all(name.isalnum() and name == name.lower() for name in found), "attribute names are a-z and 0-9 only"
    scalars = {name: value for name, value in found.items() if name != "data"}
    assert all(isinstance(value, (str, int)) for value in scalars.values()), scalars


def test_the_time_on_the_wire_has_an_offset_as_rfc_3339_wants() -> None:
    text = on_the_wire(event(time=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)))["time"]
    assert text == "2026-01-02T03:04:05Z"


def test_absent_attributes_are_not_on_the_wire() -> None:
    absent = {"subject", "causationid", "targets", "traceparent", "tracestate"}
    assert not absent & set(on_the_wire(event()))


def test_targets_are_one_text_on_the_wire_and_names_in_the_model() -> None:
    sent = event(targets=("alpha", "beta"))
    assert on_the_wire(sent)["targets"] == "alpha,beta"
    assert Event.decode(sent.encode()).targets == ("alpha", "beta")


def test_an_event_from_elsewhere_needs_only_what_cloudevents_requires() -> None:
    found = Event.decode(
        b'{"specversion": "1.0", "id": "x", "type": "a.b", "source": "urn:x", "unknownext": "kept out"}'
    )
    assert (found.priority, found.correlation_id, found.hops, found.targets, found.data) == (5, "x", 0, (), None)


@given(
    data=JSON,
    id=st.text(CHARACTERS, min_size=1, max_size=40),
    subject=st.none() | st.text(CHARACTERS, min_size=1, max_size=20),
    priority=st.integers(1, 10),
    targets=st.lists(NAMES, max_size=3).map(tuple),
    hops=st.integers(0, 1000),
    time=st.datetimes(timezones=st.just(UTC), min_value=datetime(1970, 1, 1), max_value=datetime(9000, 1, 1)),
)
def test_what_was_encoded_is_decoded_to_an_equal_event(**attributes: Any) -> None:
    sent = event(**attributes)
    assert Event.decode(sent.encode()) == sent
    assert Event.model_validate(sent.__json__()) == sent


@pytest.mark.parametrize("hours", [14, -12, 5.75])
def test_the_time_on_the_wire_is_in_utc(hours: float) -> None:
    time = datetime(2026, 1, 2, 12, 0, tzinfo=timezone(timedelta(hours=hours, seconds=7)))
    sent = event(time=time)
    assert on_the_wire(sent)["time"].endswith("Z")
    assert Event.decode(sent.encode()).time == time


# -- what does not validate


@pytest.mark.parametrize(
    ("field", "attributes"),
    [
        ("id", {"id": ""}),
        ("id", {"id": "x" * 256}),
        ("type", {"type": "no type"}),
        ("source", {"source": ""}),
        ("specversion", {"specversion": "0.3"}),
        ("time", {"time": "yesterday"}),
        ("priority", {"priority": 0}),
        ("priority", {"priority": 11}),
        ("priority", {"priority": 2.5}),
        ("hops", {"hops": -1}),
        ("correlationid", {"correlationid": 5}),
        ("correlationid", {"correlationid": "x" * 256}),
        ("causationid", {"causationid": "x" * 256}),
        ("subject", {"subject": "x" * 256}),
        ("source", {"source": "x" * 256}),
        ("schemaversion", {"schemaversion": "x" * 256}),
        ("datacontenttype", {"datacontenttype": ""}),
        ("traceparent", {"traceparent": "x" * 256}),
        ("tracestate", {"tracestate": "x" * 1025}),
        ("targets", {"targets": ",".join(["x" * 200] * 100)}),
        ("hops", {"hops": 2**31}),
        ("time", {"time": "9999-12-31T23:59:59-01:00"}),
        ("time", {"time": "0001-01-01T00:00:00+01:00"}),
        ("id", {"id": "a\x00b"}),
        ("source", {"source": "/a\nb"}),
        ("subject", {"subject": "\x1b[31mred"}),
        ("correlationid", {"correlationid": "a\x7fb"}),
        ("causationid", {"causationid": "a\x85b"}),
        ("tracestate", {"tracestate": "a\x00"}),
        ("schemaversion", {"subject": "\xa0", "schemaversion": "\x00"}),
    ],
)
def test_a_wrong_attribute_is_named(field: str, attributes: dict[str, Any]) -> None:
    raw = {"specversion": "1.0", "id": "1", "type": "a.b", "source": "/s", **attributes}
    with pytest.raises(InvalidEvent, match=rf"^event does not validate: {field}: "):
        Event.decode(json.dumps(raw))


@pytest.mark.parametrize("missing", ["id", "type", "source"])
def test_a_missing_attribute_is_named(missing: str) -> None:
    raw = {"specversion": "1.0", "id": "1", "type": "a.b", "source": "/s"}
    del raw[missing]
    with pytest.raises(InvalidEvent, match=rf"{missing}: Field required"):
        Event.decode(json.dumps(raw))


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"null", b"5", b"\xff\xfe", "[" * 100_000])
def test_what_is_no_event_is_refused(raw: bytes | str) -> None:
    with pytest.raises(InvalidEvent, match="event does not validate"):
        Event.decode(raw)


@pytest.mark.parametrize("priority", [1, 10])
def test_both_ends_of_the_priority_range_are_allowed(priority: int) -> None:
    assert new_event("a.b", source="/s", priority=priority).priority == priority


def test_an_explanation_names_three_fields_and_counts_the_rest() -> None:
    with pytest.raises(ValidationError) as caught:
        Event.model_validate({"priority": 99, "hops": -1, "specversion": "2"})
    text = explain(caught.value, "it")
    assert text.startswith("it does not validate: ")
    assert text.endswith("(and 3 more)")


# -- typed payloads


def test_a_payload_brings_its_type_version_and_data() -> None:
    found = new_event(UserQuery(user_id="7", query="?"), source="/s")
    assert (found.type, found.schema_version, found.data) == ("user.query", "1.2.0", {"user_id": "7", "query": "?"})


def test_payloads_are_frozen_and_refuse_unknown_fields() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        UserQuery(user_id="7").user_id = "8"
    with pytest.raises(ValidationError, match="has no such field"):
        UserQuery(user_id="7", nobody_knows=1)  # type: ignore[call-arg]


def test_a_payload_class_with_a_wrong_type_or_version_is_refused_when_it_is_declared() -> None:
    with pytest.raises(InvalidEvent, match="type: 'no type'"):
        type("Wrong", (Payload,), {}, type="no type")
    with pytest.raises(InvalidEvent, match="version: '1' of Wrong is not a semantic version"):
        type("Wrong", (Payload,), {}, type="a.b", version="1")


def test_a_subclass_with_a_type_of_its_own_leaves_its_parent_alone() -> None:
    class More(UserQuery, type="user.query.more", version="3.0.0"):
        extra: int = 1

    assert (More.event_type, More.schema_version) == ("user.query.more", "3.0.0")
    assert (UserQuery.event_type, UserQuery.schema_version) == ("user.query", "1.2.0")
    assert new_event(More(user_id="7"), source="/s").data == {"user_id": "7", "query": "", "extra": 1}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: new_event(Untyped(), source="/s"), "Untyped has no event type"),
        (
            lambda: new_event(UserQuery(user_id="7"), {"n": 1}, source="/s"),
            "^data: a typed payload already is the data",
        ),
        (lambda: new_event({"n": 1}, source="/s"), "^payload: a dict cannot be published"),  # type: ignore[arg-type]
        (lambda: new_event(UserQuery, source="/s"), "cannot be published; pass a Payload instance"),  # type: ignore[arg-type]
        (lambda: new_event("a.b", source="/s", priority=11), "priority: "),
        (lambda: new_event("a b", source="/s"), "type: "),
    ],
)
def test_what_cannot_be_published_is_refused_with_a_hint(make: Callable[[], Event], message: str) -> None:
    with pytest.raises(InvalidEvent, match=message):
        make()


# -- ids and causes


def test_a_first_event_starts_its_own_correlation() -> None:
    first = new_event("a.b", source="/s")
    assert (first.correlation_id, first.causation_id, first.hops) == (first.id, None, 0)


def test_an_event_inherits_from_its_cause_what_belongs_to_the_story() -> None:
    cause = event(
        id="c", correlation_id="story", priority=2, hops=3, traceparent="00-1-2-01", tracestate="v=1", subject="s"
    )
    found = new_event("c.d", source="/s", cause=cause)
    inherited = (found.correlation_id, found.causation_id, found.priority, found.hops)
    assert inherited == ("story", "c", 2, 4)
    assert (found.traceparent, found.tracestate) == ("00-1-2-01", "v=1")
    assert (found.subject, found.targets) == (None, ())
    assert found.id != cause.id


def test_what_is_given_wins_over_what_is_inherited() -> None:
    found = new_event("c.d", source="/s", cause=event(priority=2), priority=9, correlation_id="mine", subject="s")
    assert (found.priority, found.correlation_id, found.subject) == (9, "mine", "s")


def test_every_new_event_has_an_id_of_its_own() -> None:
    assert len({new_event("a.b", source="/s").id for _ in range(100)}) == 100


def test_a_deliverys_id_follows_from_event_and_agent_and_its_events_ids_from_it() -> None:
    id = "5f0c1f4e-6a0a-4c59-8a3e-2f6f8d5f1c11"
    delivery = delivery_id(id, "alpha")
    assert delivery == str(uuid5(UUID(id), "alpha"))
    assert delivery != delivery_id(id, "beta")
    assert caused_id(delivery, 0) == caused_id(delivery, 0) != caused_id(delivery, 1)


@given(TEXT.filter(bool), NAMES)
def test_a_foreign_event_id_gives_a_delivery_id_too(id: str, agent: str) -> None:
    assert UUID(delivery_id(id, agent)) == UUID(delivery_id(id, agent))
    assert delivery_id(id, agent) != delivery_id(id + "x", agent)
