"""A filter as a value: parsed, compared, stored, sent to another process."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline import InvalidFilter, PipelineError
from pipeline.agents.filters import Content, Failed, Filter, Regex, parse
from pipeline.agents.filters.cesql.functions import FUNCTIONS
from pipeline.agents.filters.operators import OPERATORS
from pipeline.agents.filters.values import MOST_DEPTH, MOST_FILTERS, MOST_MAPPING, MOST_REGEX, MOST_TEXT
from tests.filters import event

#: Functions that the page calls the standard ones.
STANDARD = {"LENGTH", "CONCAT", "CONCAT_WS", "LOWER", "UPPER", "TRIM", "LEFT", "RIGHT", "SUBSTRING"}


def test_filters_that_say_the_same_are_equal_however_they_are_written() -> None:
    written = ["urgency < 3", "payload.urgency<3", {"urgency": {"$lt": 3}}, {"payload": {"urgency": {"$lt": 3}}}]
    assert len({parse(where) for where in written}) == 1
    assert parse("urgency < 3") != parse("urgency < 4")
    assert parse("urgency < 3") != "urgency < 3"
    assert parse({"exact": {"type": "x"}}) != parse({"type": "x"})
    assert parse({"a": {"$eq": 1, "$case_sensitive": True}}) == parse({"a": 1})


@pytest.mark.parametrize(
    ("where", "data"),
    [
        (None, []),
        ("urgency < 3", {"payload.urgency": {"$lt": 3}}),
        ({"type": "alert.*"}, {"event.type": {"$prefix": "alert."}}),
        ({"a": [1, "x"]}, {"payload.a": {"$in": [1, "x"]}}),
        ({"exact": {"type": "x"}}, {"event.type": {"$eq": "x", "$case_sensitive": True}}),
        ("volume > 1.5*average", {"$expr": "payload.volume > 1.5 * payload.average"}),
        ("$.payload.a", {"$jsonpath": "$.payload.a"}),
        ({"sql": "type = 'x'"}, {"sql": "type = 'x'"}),
        (["a = 1", "b = 2"], [{"payload.a": {"$eq": 1}}, {"payload.b": {"$eq": 2}}]),
        ("NOT (a = 1 OR b = 2)", {"$not": {"$or": [{"payload.a": {"$eq": 1}}, {"payload.b": {"$eq": 2}}]}}),
        ("time > '2026-01-31T09:30:00Z'", {"event.time": {"$gt": "2026-01-31T09:30:00Z"}}),
    ],
)
def test_the_canonical_form_is_json_that_makes_an_equal_filter(where: Any, data: Any) -> None:
    found = parse(where)
    assert found.as_data() == data
    assert json.loads(found.text) == data
    assert parse(found.as_data()) == found
    assert hash(parse(json.loads(found.text))) == hash(found)
    assert repr(found) == f"Filter({found.text})"


def test_a_filter_can_be_sent_to_another_process() -> None:
    found = parse(["urgency < 3", Regex("^(a|b)$"), "$.payload.items[?@.price > 1]", {"sql": "hops < 3"}, "a > 2 * b"])
    again = pickle.loads(pickle.dumps(found))
    assert again == found
    assert again.test(event()) == found.test(event())


def test_filters_are_parsed_as_they_are_and_within_lists() -> None:
    found = parse("urgency < 3")
    assert parse(found) is found
    assert parse([found, "a = 1"]) == parse(["urgency < 3", "a = 1"])


def test_an_agent_has_at_most_thirty_two_filters() -> None:
    parse(["a = 1"] * 32)
    for many in (["a = 1"] * 33, [parse(["a = 1"] * 20), parse(["b = 1"] * 20)]):
        with pytest.raises(InvalidFilter, match="more than 32 filters are too many for an agent"):
            parse(many)


def test_a_mistake_in_a_list_is_found_with_the_number_of_the_filter() -> None:
    with pytest.raises(InvalidFilter) as caught:
        parse(["a = 1", {"b": {"$gtt": 1}}])
    assert str(caught.value).startswith("[1]: b: unknown operator '$gtt'")
    assert caught.value.place == "[1] b"


@pytest.mark.parametrize("where", [5, True, b"a = 1", object(), {"a = 1"}, [5], [None], lambda event: True])
def test_what_is_no_filter_is_refused(where: Any) -> None:
    with pytest.raises(InvalidFilter, match="a filter is a mapping, a text, a kind"):
        parse(where)


def test_an_invalid_filter_is_one_of_the_errors_of_the_package() -> None:
    assert issubclass(InvalidFilter, PipelineError)
    assert issubclass(InvalidFilter, ValueError)


@pytest.mark.parametrize("it", [None, 5, "text", [], {}, {"data": object()}, {"type": 5, "data": {"b": {1: 2}}}])
def test_trying_a_filter_never_raises(it: Any) -> None:
    for where in ("a > 1", "NOT a > 1", "a > 2 * b", "$.payload.a", {"sql": "type = 'x'"}, Content("x"), "type = x"):
        found = parse(where)
        assert found.matches(it) is (found.test(it) is True)
        assert found.test(it) is not True


def test_an_odd_event_is_an_error_with_the_conditions_text() -> None:
    found = parse("a > 1").test(None)  # type: ignore[arg-type]
    assert isinstance(found, Failed)
    assert found.condition == "payload.a > 1"


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        (None, True),
        ("type = x AND priority < 3 AND metadata.session_id = s1", True),
        ({"sql": "type = 'x'"}, True),
        ("type = x OR a = 1", False),
        (Content("x"), False),
        ("$.type", False),
        ("priority < 2 * a", False),
    ],
)
def test_a_filter_knows_whether_the_envelope_is_enough(where: Any, expected: bool) -> None:
    found = parse(where)
    assert found.envelope_only is expected
    if expected:
        attributes = {name: value for name, value in event().items() if name != "data"}
        assert found.test(attributes) == found.test(event())


@pytest.mark.parametrize(
    ("where", "alone"),
    [
        ("type = order.* AND a = 1", "type = order.*"),
        (
            ["a = 1", "type = x OR NOT type = y", {"sql": "type LIKE 'z%'"}],
            ["type = x OR NOT type = y", {"sql": "type LIKE 'z%'"}],
        ),
        ("type = order.* OR a = 1", None),
        ("a = 1", None),
        (None, None),
        ("$.type", "$.type"),
    ],
)
def test_a_filter_knows_what_it_asks_of_the_type_alone(where: Any, alone: Any) -> None:
    found = parse(where).of_type
    assert found == (None if alone is None else parse(alone))
    if found is not None:
        assert found.test({"type": "other"}) in (True, False)


def test_a_process_without_filters_loads_none_of_their_libraries() -> None:
    code = "import pipeline, pipeline.agents.filters, sys; print({'lark', 're2', 'jsonpath'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "set()\n"


def test_the_page_on_filters_names_every_operator_and_every_limit() -> None:
    page = (Path(__file__).parents[4] / "docs" / "filters.md").read_text()
    assert [name for name in OPERATORS if f"`{name}`" not in page] == []
    assert [each.word for each in OPERATORS.values() if each.word not in page] == []
    assert [name for name in FUNCTIONS if name not in page and name not in STANDARD] == []
    for limit in (f"| {MOST_FILTERS} |", f"| {MOST_DEPTH} deep |", "| 4 KiB |", "| 1 KiB |", "| 64 KiB |"):
        assert limit in page
    assert (MOST_TEXT, MOST_REGEX, MOST_MAPPING) == (4096, 1024, 65_536)


def test_filters_can_be_kept_in_dictionaries() -> None:
    assert {parse("a = 1"): 1}[Filter(parse({"a": 1}).nodes)] == 1
