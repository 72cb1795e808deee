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
from pipeline.delivery.poison import MAX_ETA, check_event, check_task
from pipeline.publishing.link import wire_headers

EVENT = new_event("a.b", {"n": 1}, source="/test", targets=("alpha", "beta"), correlation_id="story")
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def event_message(body: Any = None, headers: Any = None, content_type: Any = CONTENT_TYPE) -> Message:
    body = EVENT.encode() if body is None else body
    return Message(body, headers=wire_headers(EVENT) if headers is None else headers, content_type=content_type)


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


def test_an_events_headers_are_enough_to_route_it() -> None:
    found = check_event(event_message(body=b"never looked at"), 1000)
    expected = {"id": EVENT.id, "type": "a.b", "correlationid": "story", "causationid": None, "targets": "alpha,beta"}
    assert found == {**expected, "bus": {}}


def test_an_event_of_a_program_that_sends_no_headers_is_read_from_its_body() -> None:
    assert check_event(event_message(headers={}), 1000) == check_event(event_message(), 1000)


@pytest.mark.parametrize("parameters", ["", "; charset=utf-8"])
def test_the_content_type_may_have_parameters(parameters: str) -> None:
    assert check_event(event_message(content_type=CONTENT_TYPE + parameters), 1000)["id"] == EVENT.id


def test_an_event_may_be_as_large_as_the_limit_and_no_larger() -> None:
    message = event_message(body=b"x" * 1000)
    check_event(message, 1000)
    with pytest.raises(EventTooLarge, match="1,000 bytes, the limit is 999"):
        check_event(message, 999)


@pytest.mark.parametrize("content_type", [None, "", "application/json", "application/x-python-serialize", 5])
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
        (b'{"id": "1", "type": "a.b", "targets": ["alpha"]}', "attribute 'targets'"),
        (b'{"id": "1", "type": "a.b", "correlationid": {}}', "attribute 'correlationid'"),
        (b"[" * 100_000, "the body is not JSON"),
    ],
)
def test_a_body_that_is_no_event_is_refused_with_the_reason(body: bytes, message: str) -> None:
    with pytest.raises(InvalidEvent, match=message):
        check_event(event_message(body=body, headers={}), 1_000_000)


@given(st.dictionaries(st.sampled_from(["id", "type", "targets", "correlationid", "causationid"]), ANY_JSON))
def test_whatever_stands_in_the_headers_only_texts_come_out(headers: dict[str, Any]) -> None:
    try:
        found = check_event(event_message(headers=headers), 10_000)
    except InvalidEvent:
        return
    assert isinstance(found["id"], str)
    assert isinstance(found["type"], str)
    assert found.pop("bus") == {}
    assert all(value is None or isinstance(value, str) for value in found.values())


@pytest.mark.parametrize(
    ("bus", "expected"),
    [
        ({}, {}),
        ({"attempt": 2, "ledger": "l1"}, {"attempt": 2, "ledger": "l1"}),
        ({"replay": "r1", "broadcast": False, "direct": True}, {"replay": "r1", "broadcast": False, "direct": True}),
        ({"task": "os.system"}, {}),
    ],
)
def test_what_the_bus_says_about_a_message_is_taken_by_name(bus: dict[str, Any], expected: dict[str, Any]) -> None:
    assert check_event(event_message(headers={**wire_headers(EVENT), "bus": bus}), 1000)["bus"] == expected


@pytest.mark.parametrize("bus", ["", 7, [], {"attempt": "2"}, {"replay": {}}, {"ledger": None}, {"broadcast": 1}])
def test_what_the_bus_cannot_have_said_is_refused(bus: Any) -> None:
    with pytest.raises(InvalidEvent, match="header 'bus'"):
        check_event(event_message(headers={**wire_headers(EVENT), "bus": bus}), 1000)


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
