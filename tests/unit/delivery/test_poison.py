"""Messages that would crash or stall a worker's main process are told from those that are fine."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kombu.exceptions import ContentDisallowed
from kombu.message import Message

from pipeline import EventTooLarge, InvalidEvent
from pipeline.core.event import CONTENT_TYPE, new_event
from pipeline.core.ids import Seal, foreign_id
from pipeline.delivery.poison import MAX_ETA, check_event, check_task
from pipeline.publishing.link import wire_headers

EVENT = new_event("a.b", {"n": 1}, source="/test", targets=("alpha", "beta"), correlation_id="story")
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


SEAL = Seal("l1", b"secret")


def signed(marks: dict[str, Any], agent: str | None = None) -> Message:
    sealed = EVENT.encoded(1000, marks, SEAL)._replace(agent=agent)
    return event_message(sealed.body, wire_headers(sealed))


def event_message(body: Any = None, headers: Any = None, content_type: Any = CONTENT_TYPE) -> Message:
    body = EVENT.encode() if body is None else body
    return Message(body, headers={} if headers is None else headers, content_type=content_type)


def task_message(body: Any = None, content_type: str = "application/json", **headers: Any) -> Message:
    body = json.dumps([["{}"], {}, {}]) if body is None else body
    return Message(
        body,
        headers={"task": "agent.alpha", "id": "1", **headers},
        content_type=content_type,
        content_encoding="utf-8",
        accept={"application/json"},
    )


# -- events


def test_what_the_bus_has_signed_is_routed_by_its_headers_alone() -> None:
    found = check_event(signed({"ledger": "l1"}), 1000, SEAL)
    expected = {"id": EVENT.id, "type": "a.b", "correlationid": "story", "causationid": None, "targets": "alpha,beta"}
    assert found == {**expected, "bus": {"ledger": "l1"}}


def test_another_programs_event_is_known_by_its_body_and_no_header_wins_over_that() -> None:
    own = {"id": "7", "type": "not.this", "targets": "gamma", "correlationid": "other", "source": "/elsewhere"}
    found = check_event(event_message(headers=own), 1000, SEAL)
    assert found == check_event(event_message(headers={}), 1000)
    assert (found["id"], found["type"], found["bus"]) == (foreign_id("/test", EVENT.id), "a.b", {})
    assert (found["correlationid"], found["targets"]) == ("story", "alpha,beta")


def test_without_a_ledger_a_bus_header_that_says_nothing_spares_the_look_into_the_body() -> None:
    sent = EVENT.encoded(1000)
    message = event_message(b"not looked at", wire_headers(sent))
    assert check_event(message, 1000)["id"] == EVENT.id
    with pytest.raises(InvalidEvent, match="not JSON"):
        check_event(message, 1000, SEAL)  # with one that is no signature
    with pytest.raises(InvalidEvent, match="'type' is None"):
        check_event(event_message(headers={"id": "1", "bus": {}}), 1000)


@pytest.mark.parametrize(
    "content_type",
    [
        "application/cloudevents+json; charset=utf-8",
        "Application/CloudEvents+JSON",
        " application/cloudevents+json ;v=1",
    ],
)
def test_the_content_type_has_no_case_and_may_have_parameters(content_type: str) -> None:
    assert check_event(event_message(content_type=content_type), 1000)["type"] == "a.b"


@pytest.mark.parametrize("content_type", [None, ""])
def test_the_content_type_may_be_missing_where_the_body_is_a_cloudevent(content_type: Any) -> None:
    assert check_event(event_message(content_type=content_type), 1000)["type"] == "a.b"
    with pytest.raises(InvalidEvent, match="no 'specversion'"):
        check_event(event_message(b'{"id": "1", "type": "a.b", "source": "/t"}', {}, content_type), 1000)


@pytest.mark.parametrize("name", ["cloudEvents:id", "cloudEvents_type", "ce-source", "CE_ID"])
@pytest.mark.parametrize("content_type", [None, "application/json", "application/octet-stream"])
def test_binary_mode_is_refused_with_the_way_out(name: str, content_type: str | None) -> None:
    with pytest.raises(InvalidEvent, match="binary mode; send structured mode"):
        check_event(event_message(b'{"order_id": "A1"}', {name: "x"}, content_type), 1000)


def test_an_event_may_be_as_large_as_the_limit_and_no_larger() -> None:
    size = len(EVENT.encode())
    check_event(event_message(), size)
    with pytest.raises(EventTooLarge, match=f"{size} bytes, the limit is {size - 1}"):
        check_event(event_message(), size - 1)


@pytest.mark.parametrize(
    "content_type",
    ["application/json", "application/cloudevents-batch+json", "application/cloudevents+jsonx", "text", 5],
)
def test_other_content_types_are_refused(content_type: Any) -> None:
    with pytest.raises(InvalidEvent, match="content type"):
        check_event(event_message(content_type=content_type), 1000)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "the body is not JSON"),
        (b"{", "the body is not JSON"),
        (b"\xff", "the body is not JSON"),
        (b"[]", "not a JSON object"),
        (b"null", "not a JSON object"),
        (b"{}", "attribute 'id' is None, not text"),
        (b'{"id": 5, "type": "a.b"}', "attribute 'id' is 5, not text"),
        (b'{"id": "1"}', "attribute 'type' is None"),
        (b'{"id": "", "type": "a.b"}', "must not be empty"),
        (b'{"id": "1", "type": ""}', "must not be empty"),
        (b'{"id": "1", "type": "a.b"}', "attribute 'source' is None"),
        (b'{"id": "1", "type": "a.b", "source": "/t", "targets": ["alpha"]}', "attribute 'targets'"),
        (b'{"id": "1", "type": "a.b", "source": "/t", "correlationid": {}}', "attribute 'correlationid'"),
        (b"[" * 100_000, "the body is not JSON"),
    ],
)
def test_a_body_that_is_no_event_is_refused_with_the_reason(body: bytes, message: str) -> None:
    with pytest.raises(InvalidEvent, match=message):
        check_event(event_message(body=body, headers={}), 1_000_000)


NAMES = ["id", "type", "source", "specversion", "targets", "correlationid", "causationid", "data"]


@given(st.dictionaries(st.sampled_from([*NAMES, "bus", "task", "x"]), ANY_JSON), ANY_JSON | st.text(), st.booleans())
def test_whatever_a_stranger_sends_only_texts_come_out(headers: dict[str, Any], body: Any, is_typed: bool) -> None:
    message = event_message(json.dumps(body).encode(), headers, CONTENT_TYPE if is_typed else None)
    try:
        found = check_event(message, 10_000, SEAL, "alpha")
    except InvalidEvent:
        return
    assert found.pop("bus") == {}
    assert all(isinstance(found[name], str) and found[name] for name in ("id", "type", "source"))
    assert all(value is None or isinstance(value, str) for value in found.values())


MARKS = [
    {"ledger": "l1"},
    {"ledger": "l1", "attempt": 1, "requeued": 2, "direct": True},
    {"ledger": "l1", "direct": True, "replay": "r1", "broadcast": False},
]


@pytest.mark.parametrize("marks", MARKS)
def test_what_the_bus_says_about_its_own_message_is_believed(marks: dict[str, Any]) -> None:
    agent = "alpha" if "direct" in marks else None
    message = signed(marks, agent)
    assert check_event(message, 1000, SEAL, "alpha")["bus"] == marks
    assert check_event(message, 1000, SEAL, "beta")["bus"] == ({} if agent else marks), "it was for alpha's queue"
    assert check_event(message, 1000, Seal("l1", b"another"))["bus"] == {}
    assert check_event(message, 1000, Seal("l2", SEAL.secret))["bus"] == {}
    assert check_event(message, 1000, None)["bus"] == {}, "without a ledger nobody can know"


@given(st.sampled_from(MARKS), st.data())
def test_what_was_signed_cannot_be_changed(marks: dict[str, Any], data: st.DataObject) -> None:
    message = signed(marks, "alpha" if "direct" in marks else None)
    part = data.draw(st.sampled_from([*sorted(message.headers), *sorted(message.headers["bus"]), "body", "new mark"]))
    if part == "body":
        message.body = message.body.replace(b'"n":1', b'"n":2')
    elif part in message.headers and part != "bus":
        message.headers[part] = data.draw(ANY_JSON.filter(lambda value: value != message.headers[part]))
    else:
        bus = dict(message.headers["bus"])
        bus[part] = data.draw((ANY_JSON | st.text()).filter(lambda value: value != bus.get(part, ...)))
        message.headers["bus"] = data.draw(st.sampled_from([bus, [bus], None])) if part == "bus" else bus
    found = check_event(message, 1000, SEAL, "alpha")
    assert (found["bus"], found["id"]) == ({}, foreign_id("/test", EVENT.id)), f"another {part} makes it a stranger's"


@given(st.dictionaries(st.sampled_from([*MARKS[2], "attempt", "signature"]), ANY_JSON | st.just("l1")))
def test_what_others_claim_about_their_messages_is_not_even_read(bus: dict[str, Any]) -> None:
    assert check_event(event_message(headers={"bus": bus}), 1000, SEAL, "alpha")["bus"] == {}


# -- tasks


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"root_id": "r", "parent_id": "p", "group": "g"},
        {"timelimit": [None, None]},
        {"timelimit": (10, 5.5)},
        {"timelimit": None, "retries": None},
        {"retries": 3},
        {"eta": "2026-01-01T00:00:00+00:00", "expires": "9999-12-31T23:59:59"},
        {"eta": (datetime.now(UTC) + MAX_ETA / 2).isoformat()},
        {"stamped_headers": ["a"], "stamps": {"a": 1}},
        {"stamped_headers": None, "stamps": None},
    ],
)
def test_a_task_message_as_celery_sends_it_passes(headers: dict[str, Any]) -> None:
    check_task(task_message(**headers))


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        ({"id": None}, "task header 'id' is None, not text"),
        ({"id": 5}, "'id' is 5"),
        ({"task": None}, "'task' is None"),
        ({"task": ["agent.alpha"]}, "'task'"),
        ({"root_id": 5}, "'root_id'"),
        ({"parent_id": {}}, "'parent_id'"),
        ({"group": []}, "'group'"),
        ({"timelimit": "ab"}, "'timelimit' is 'ab', not a pair of seconds"),
        ({"timelimit": [1]}, "'timelimit'"),
        ({"timelimit": ["1", None]}, "'timelimit'"),
        ({"timelimit": {"soft": 1, "hard": 2}}, "'timelimit'"),
        ({"retries": "three"}, "'retries' is 'three', not a number"),
        ({"retries": 1.5}, "'retries'"),
        ({"eta": 5}, "'eta' is 5, not an ISO 8601 time"),
        ({"eta": "tomorrow"}, "tomorrow"),
        ({"eta": "9999-01-01T00:00:00+00:00"}, "more than 365 days away"),
        ({"eta": "9999-01-01T00:00:00"}, "more than 365 days away"),
        ({"eta": (datetime.now(UTC) + MAX_ETA + timedelta(hours=1)).isoformat()}, "more than 365 days away"),
        ({"expires": 10}, "'expires'"),
        ({"expires": "never"}, "never"),
        ({"stamped_headers": "a"}, "'stamped_headers'"),
        ({"stamped_headers": [1]}, "'stamped_headers'"),
        ({"stamps": ["a"]}, "'stamps'"),
    ],
)
def test_a_task_message_that_would_harm_celery_is_refused_by_its_header(headers: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        check_task(task_message(**headers))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("{}", "not .args, kwargs, options."),
        ("[]", "not .args, kwargs, options."),
        ("[[], {}]", "not .args, kwargs, options."),
        ('"abc"', "not .args, kwargs, options."),
        ("5", "not .args, kwargs, options."),
        ("[5, {}, {}]", "a list, a mapping, a mapping"),
        ("[[], [], {}]", "a list, a mapping, a mapping"),
        ("[[], {}, 5]", "a list, a mapping, a mapping"),
        ("[[], {}", "Expecting"),
        ("", "body"),
    ],
)
def test_a_task_body_that_would_harm_celery_is_refused(body: str, message: str) -> None:
    with pytest.raises(Exception, match=message):
        check_task(task_message(body=body))


def test_a_task_in_a_format_that_is_not_accepted_is_refused_unread() -> None:
    with pytest.raises(ContentDisallowed):
        check_task(task_message(body=b"\x80\x04N.", content_type="application/x-python-serialize"))


def test_what_is_neither_an_event_nor_a_task_is_refused() -> None:
    with pytest.raises(InvalidEvent, match="neither an event nor a task message"):
        check_task(Message("{}", headers={}, content_type="application/json"))


def test_a_checked_body_is_not_decoded_again() -> None:
    message = task_message(body='[["x"], {}, {}]')
    check_task(message)
    message.body = "no JSON any more"
    assert message.payload == [["x"], {}, {}]


@given(
    st.dictionaries(
        st.sampled_from(["id", "task", "timelimit", "retries", "eta", "expires", "stamps", "stamped_headers", "group"]),
        ANY_JSON,
    )
)
def test_whatever_stands_in_a_tasks_headers_is_passed_or_refused_but_never_crashes(headers: dict[str, Any]) -> None:
    message = task_message(**headers)
    try:
        check_task(message)
    except (ValueError, TypeError):
        return
    assert isinstance(message.headers["id"], str)
    assert isinstance(message.headers["task"], str)
