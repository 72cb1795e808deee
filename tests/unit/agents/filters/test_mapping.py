"""Filters as mappings, and the dialects of the CloudEvents Subscriptions API."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline import InvalidFilter
from pipeline.agents.filters import Fields, parse
from tests.filters import event, result


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ({"symbol": "AAPL", "urgency": 2}, True),
        ({"symbol": "AAPL", "urgency": 3}, False),
        ({"urgency": {"$gt": 1, "$lt": 3}}, True),
        ({"urgency": {"$gt": 1, "$lt": 2}}, False),
        ({"symbol": ["AAPL", "MSFT"]}, True),
        ({"symbol": ["MSFT"]}, False),
        ({"payload": {"user": {"name": "Ada"}, "urgency": {"$lt": 3}}}, True),
        ({"payload": {"user": {"name": "Bob"}}}, False),
        ({"event": {"type": "alert.*"}}, True),
        ({"$and": [{"symbol": "AAPL"}, {"urgency": 2}]}, True),
        ({"$and": [{"symbol": "AAPL"}, {"urgency": 3}]}, False),
        ({"$or": [{"symbol": "MSFT"}, {"urgency": 2}]}, True),
        ({"$or": [{"symbol": "MSFT"}, {"urgency": 3}]}, False),
        ({"$not": {"symbol": "MSFT"}}, True),
        ({"$not": {"symbol": "AAPL"}}, False),
        ({"symbol": {"$not": {"$eq": "MSFT"}}}, True),
        ({"urgency": {"$or": [{"$lt": 1}, {"$gt": 1}]}}, True),
        ({"urgency": {"$and": [{"$lt": 3}, {"$gt": 2}]}}, False),
        ({"$or": [{"symbol": "MSFT"}, {"gone": 1}], "urgency": 2}, None),
        ({"type": "alert.*"}, True),
        ({"type": "ALERT.RAISED"}, True),
        ({"type": "alert"}, False),
        ({"type": {"$ne": "order.*"}}, True),
        ({"$expr": "volume > 1.5 * average"}, True),
        ({"$jsonpath": "$.payload.items[?@.price > 100]"}, True),
    ],
)
def test_a_mapping_is_an_and_of_its_fields(where: Any, expected: bool | None) -> None:
    assert result(where) is expected


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ({}, "an empty mapping says nothing; leave the filter out to get every event"),
        ({"a": {}}, "a: an empty mapping says nothing"),
        ({"$and": []}, "$and: $and takes a list of conditions, one at least"),
        ({"$or": {"a": 1}}, "$or takes a list of conditions"),
        ({"$or": [{"a": 1}, 5]}, "$or[1]: a mapping of fields to conditions is expected, not 5"),
        ({"a": {"$gte3": 1}}, "a: unknown operator '$gte3'; did you mean '$gte'?"),
        ({"$nor": []}, "unknown operator '$nor'; did you mean '$or'?"),
        ({"$or": [{"payload.priority": {"$gtt": 1}}]}, "$or[0].payload.priority: unknown operator '$gtt'"),
        ({"$gt": 5}, "$gt looks at a field; write {'payload.field': {'$gt': ...}}"),
        ({"a": {"$not": 5}}, "a.$not: operators are expected here, such as {'$gt': 5}"),
        ({5: 1}, "the key 5 is no text"),
        ({"a": {"$case_sensitive": "yes", "$eq": 1}}, "$case_sensitive takes true or false"),
        ({"$expr": 5}, "$expr: a text is expected here, not 5"),
        ({"$expr": "a = 1"}, "$expr takes one comparison of two fields"),
        ({"$jsonpath": "$.data["}, "$jsonpath: JSONPath '$.data[' at character 8: the query ends too early"),
        ({"all": [{"sql": "FOO(a) = 1"}]}, "all[0].sql: character 1, 'FOO(a) = 1': unknown function of CESQL 'FOO'"),
        ({"sql": "a = 1 + "}, "sql: CESQL, character 9, the end: the expression ends too early"),
        ({"a": object()}, "takes a text, a number, true, false or null"),
    ],
)
def test_a_mistake_in_a_mapping_is_found_with_its_place(where: Any, message: str) -> None:
    with pytest.raises(InvalidFilter) as caught:
        parse(where)
    assert message in str(caught.value)


def test_the_place_of_a_mistake_is_the_way_into_the_mapping() -> None:
    with pytest.raises(InvalidFilter) as caught:
        parse({"$or": [{"a": 1}, {"$and": [{"b": {"$prefix": 5}}]}]})
    assert caught.value.place == "$or[1].$and[0].b.$prefix"


def test_upper_and_lower_case_differ_for_what_stands_beside_or_below_the_option() -> None:
    assert result({"symbol": "aapl", "$case_sensitive": True}) is False
    assert result({"$case_sensitive": True, "$or": [{"symbol": "aapl"}]}) is False
    assert result({"$or": [{"symbol": "aapl", "$case_sensitive": True}, {"symbol": "aapl"}]}) is True
    assert result(Fields({"symbol": "aapl"}, case_sensitive=True)) is False


def test_a_mapping_is_neither_too_deep_nor_too_large() -> None:
    deep: Any = {"a": 1}
    for _ in range(8):
        deep = {"$and": [{"$or": [deep, {"b": 1}]}, {"c": 1}]}
    parse(deep)
    with pytest.raises(InvalidFilter, match="more than 16 deep"):
        parse({"$or": [deep, {"d": 1}]})
    endless: Any = {"a": 1}
    for _ in range(5000):
        endless = {"a": endless}
    with pytest.raises(InvalidFilter, match="more than 16 deep"):
        parse(endless)
    with pytest.raises(InvalidFilter, match="65,536 bytes of JSON is too large"):
        parse({"a": {"$in": ["x" * 100] * 700}})


# -- the dialects


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ({"exact": {"type": "alert.raised", "source": "/monitoring"}}, True),
        ({"exact": {"type": "alert.raised", "source": "/other"}}, False),
        ({"exact": {"type": "Alert.raised"}}, False),
        ({"exact": {"priority": "5"}}, True),
        ({"exact": {"priority": "6"}}, False),
        ({"exact": {"time": "2026-01-31T09:30:00Z"}}, True),
        ({"prefix": {"type": "alert."}}, True),
        ({"prefix": {"type": "ALERT."}}, False),
        ({"suffix": {"type": ".raised"}}, True),
        ({"suffix": {"type": ".Raised"}}, False),
        ({"all": [{"prefix": {"type": "alert."}}, {"suffix": {"type": ".raised"}}]}, True),
        ({"all": [{"prefix": {"type": "alert."}}, {"suffix": {"type": ".gone"}}]}, False),
        ({"any": [{"prefix": {"type": "x"}}, {"suffix": {"type": ".raised"}}]}, True),
        ({"any": [{"prefix": {"type": "x"}}, {"suffix": {"type": ".gone"}}]}, False),
        ({"not": {"exact": {"type": "x"}}}, True),
        ({"not": {"exact": {"type": "alert.raised"}}}, False),
        ({"exact": {"subject": "x"}}, None),
        ({"not": {"exact": {"subject": "x"}}}, None),
        ({"sql": "type LIKE 'alert.%' AND priority < 6"}, True),
        ({"not": {"sql": "type LIKE 'alert.%'"}}, False),
        ({"any": [{"all": [{"exact": {"type": "x"}}]}, {"not": {"prefix": {"source": "/x"}}}]}, True),
    ],
)
def test_the_dialects_look_at_attributes(where: Any, expected: bool | None) -> None:
    assert result(where) is expected


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ({"exact": {}}, "exact: one attribute at least is expected"),
        ({"exact": {"type": ""}}, "exact.type: a text of one character at least is expected"),
        ({"exact": {"type": 5}}, "a text of one character at least is expected, not 5"),
        ({"exact": {"data": "x"}}, "'data' is no CloudEvents attribute"),
        ({"exact": {"payload.a": "x"}}, "'payload.a' is no CloudEvents attribute"),
        ({"exact": {"priority": "high"}}, "event.priority is a number"),
        ({"exact": "x"}, "a mapping of fields to conditions is expected"),
        ({"prefix": {"type": "x"}, "suffix": {"type": "y"}}, "is a CloudEvents dialect, and stands alone"),
        ({"all": []}, "all: a list of filters is expected, one at least"),
        ({"any": [{"exakt": {"type": "x"}}]}, "any[0]: unknown dialect 'exakt'; did you mean 'exact'?"),
        ({"not": {"symbol": "x"}}, "unknown dialect 'symbol'"),
        ({"sql": 5}, "sql: a text is expected here"),
    ],
)
def test_a_mistake_in_a_dialect_is_found_with_its_place(where: Any, message: str) -> None:
    with pytest.raises(InvalidFilter) as caught:
        parse(where)
    assert message in str(caught.value)


def test_a_field_with_the_name_of_a_dialect_is_written_with_its_root() -> None:
    assert result({"payload.prefix": "Dr."}, event({"prefix": "Dr."})) is True
