"""A condition on a field: what each operator says of values, and of what is missing, null or of another kind."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from pipeline import InvalidFilter
from pipeline.agents.filters import parse
from pipeline.agents.filters.conditions import condition
from pipeline.agents.filters.operators import EQUATING
from pipeline.agents.filters.paths import Path
from tests.filters import event, result


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ({"symbol": "AAPL"}, True),
        ({"symbol": {"$eq": "MSFT"}}, False),
        ({"symbol": {"$ne": "MSFT"}}, True),
        ({"symbol": {"$ne": "AAPL"}}, False),
        ({"urgency": {"$lt": 3}}, True),
        ({"urgency": {"$lt": 2}}, False),
        ({"urgency": {"$lte": 2}}, True),
        ({"urgency": {"$gt": 1.5}}, True),
        ({"urgency": {"$gt": 2}}, False),
        ({"urgency": {"$gte": 2}}, True),
        ({"urgency": {"$gte": 3}}, False),
        ({"average": 1000}, True),
        ({"symbol": {"$in": ["AAPL", "MSFT", "GOOGL"]}}, True),
        ({"symbol": {"$in": ["MSFT"]}}, False),
        ({"urgency": {"$in": ["AAPL", 2]}}, True),
        ({"symbol": {"$nin": ["MSFT"]}}, True),
        ({"symbol": {"$nin": ["AAPL"]}}, False),
        ({"symbol": {"$exists": True}}, True),
        ({"symbol": {"$exists": False}}, False),
        ({"gone": {"$exists": True}}, False),
        ({"gone": {"$exists": False}}, True),
        ({"symbol": {"$prefix": "AA"}}, True),
        ({"symbol": {"$prefix": "PL"}}, False),
        ({"symbol": {"$suffix": "PL"}}, True),
        ({"symbol": {"$suffix": "AA"}}, False),
        ({"headline": {"$contains": "volatility"}}, True),
        ({"headline": {"$contains": "calm"}}, False),
        ({"headline": {"$wildcard": "volatility*back"}}, True),
        ({"headline": {"$wildcard": "volatility"}}, False),
        ({"headline": {"$like": "vol%b_ck"}}, True),
        ({"headline": {"$like": "vol%b_k"}}, False),
        ({"symbol": {"$regex": "^(AAPL|MSFT|GOOGL)$"}}, True),
        ({"symbol": {"$regex": "^MSFT"}}, False),
        ({"user.ip": {"$cidr": "10.0.0.0/8"}}, True),
        ({"user.ip": {"$cidr": "192.168.0.0/16"}}, False),
        ({"user.ip": {"$cidr": "2001:db8::/32"}}, False),
        ({"active": True}, True),
        ({"active": False}, False),
    ],
)
def test_an_operator_compares_a_field_with_a_value(where: Any, expected: bool) -> None:
    assert result(where) is expected


@pytest.mark.parametrize("op", ["$eq", "$ne", "$gt", "$lt", "$in", "$nin", "$prefix", "$contains", "$regex", "$like"])
def test_a_missing_field_is_not_false(op: str) -> None:
    value: Any = ["a"] if op in ("$in", "$nin") else "a"
    assert result({"gone": {op: value}}) is None
    assert result({"$not": {"gone": {op: value}}}) is None
    assert result({"user.gone.deeper": {op: value}}) is None
    assert result({"gone": {op: value}}, event(None)) is None
    assert result({"gone": {op: value}}, event("text")) is None


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ({"nothing": None}, True),
        ({"nothing": {"$exists": True}}, True),
        ({"nothing": "x"}, False),
        ({"nothing": {"$ne": "x"}}, True),
        ({"nothing": {"$in": [None, 1]}}, True),
        ({"symbol": None}, False),
        ({"nothing": {"$gt": 1}}, None),
        ({"$not": {"nothing": {"$gt": 1}}}, None),
        ({"nothing": {"$prefix": "x"}}, None),
        ({"nothing": {"$contains": "x"}}, None),
    ],
)
def test_null_is_a_value_that_equals_itself_and_has_no_order(where: Any, expected: bool | None) -> None:
    assert result(where) is expected


@pytest.mark.parametrize(
    ("value", "literal"), [("5", 5), (5, "5"), (True, 1), (1, True), (False, 0), ("true", True), ({}, "x")]
)
def test_values_of_different_kinds_are_never_equal(value: Any, literal: Any) -> None:
    assert result({"it": literal}, event({"it": value})) is False
    assert result({"it": {"$ne": literal}}, event({"it": value})) is True
    assert result({"it": {"$in": [literal]}}, event({"it": value})) is False


@pytest.mark.parametrize(
    ("value", "condition", "error"),
    [
        ("5", {"$gt": 3}, "a text cannot be compared with a number"),
        (5, {"$gt": "a"}, "a number cannot be compared with a text"),
        (True, {"$gt": 0}, "a boolean cannot be compared with a number"),
        ({"a": 1}, {"$lt": 3}, "an object cannot be compared with a number"),
        ("urgent", {"$gte": "high"}, "a text cannot be compared with low ... critical"),
        (3, {"$gte": "high"}, "a number cannot be compared with low ... critical"),
        ("soon", {"$lt": "2026-01-31T09:30:00Z"}, "a text cannot be compared with a date"),
        (5, {"$prefix": "5"}, "a number is no text"),
        (5, {"$contains": "5"}, "a number is no text"),
        (5, {"$regex": "5"}, "a number is no text"),
        ("ada", {"$cidr": "10.0.0.0/8"}, "the text is no IP address"),
    ],
)
def test_what_cannot_be_compared_is_an_error_and_neither_it_nor_its_negation_matches(
    value: Any, condition: Any, error: str
) -> None:
    it = event({"it": value})
    assert result({"it": condition}, it) == error
    assert result({"$not": {"it": condition}}, it) == error
    assert not parse({"$not": {"it": condition}}).matches(it)


def test_an_error_is_the_same_for_every_event_so_that_it_can_be_counted() -> None:
    where = parse({"it": {"$gt": 3}})
    first, second = where.test(event({"it": "5"})), where.test(event({"it": "6"}))
    assert first == second
    assert len({first, second}) == 1
    assert str(first) == "payload.it > 3: a text cannot be compared with a number"
    assert first.value == "5"  # type: ignore[union-attr]
    assert not first


@pytest.mark.parametrize(
    ("value", "literal", "expected"),
    [
        ("low", "medium", False),
        ("medium", "medium", True),
        ("Critical", "HIGH", True),
        ("high", "critical", False),
    ],
)
def test_ordinals_are_compared_by_rank(value: str, literal: str, expected: bool) -> None:
    assert result({"payload.priority": {"$gte": literal}}, event({"priority": value})) is expected


def test_the_example_of_priorities_and_domains_works() -> None:
    where = {"payload.priority": {"$gte": "high"}, "payload.domain": "financial"}
    assert result(where) is True
    assert result(where, event({"priority": "medium", "domain": "financial"})) is False
    assert result(where, event({"priority": "critical", "domain": "legal"})) is False


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ({"tags": "risk"}, True),
        ({"tags": "other"}, False),
        ({"tags": {"$ne": "risk"}}, False),
        ({"tags": {"$ne": "other"}}, True),
        ({"tags": {"$nin": ["other", "risk"]}}, False),
        ({"tags": {"$prefix": "ri"}}, True),
        ({"tags": {"$contains": "dail"}}, True),
        ({"tags.0": "risk"}, True),
        ({"tags.1": "risk"}, False),
        ({"tags.2": "risk"}, None),
        ({"scores": {"$gt": 4}}, True),
        ({"scores": {"$gt": 5}}, False),
        ({"empty": "x"}, False),
        ({"$not": {"empty": "x"}}, True),
        ({"items.sku": "B"}, True),
        ({"items.sku": "C"}, False),
        ({"items.price": {"$gt": 100}}, True),
        ({"items.1.sku": "A"}, False),
        ({"items.notes": "late"}, True),
        ({"items.notes": "early"}, None),
        ({"items.gone": "x"}, None),
        ({"items": {"$contains": "LATE"}}, True),
        ({"items.notes": {"$contains": "LATE"}}, True),
        ({"items.notes": {"$contains": "early"}}, None),
    ],
)
def test_one_element_of_an_array_is_enough(where: Any, expected: bool | None) -> None:
    assert result(where) is expected


def test_an_array_with_an_element_that_cannot_be_compared_errs_where_no_other_one_matches() -> None:
    assert result({"it": {"$gt": 3}}, event({"it": ["x", 5]})) is True
    assert result({"it": {"$gt": 3}}, event({"it": ["x", 1]})) == "a text cannot be compared with a number"
    assert result({"it": {"$gt": 3}}, event({"it": [None, 1]})) is None


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("2026-01-31T09:30:00Z", True),
        (datetime(2026, 1, 31, 9, 30, tzinfo=UTC), True),
        (datetime(2026, 1, 31, 10, 30, tzinfo=timezone(timedelta(hours=1))), True),
        ({"$ne": "2026-01-31T10:30:00+01:00"}, False),
        ({"$gt": "2026-01-31T09:29:59.999Z"}, True),
        ({"$lt": "2026-01-31T10:00:00+01:00"}, False),
        ({"$in": ["2026-01-31T10:30:00+01:00"]}, True),
    ],
)
@pytest.mark.parametrize("path", ["time", "payload.due"])
def test_dates_are_compared_as_moments_whatever_their_zone(path: str, condition: Any, expected: bool) -> None:
    assert result({path: condition}) is expected


def test_a_time_that_is_not_encoded_yet_is_a_date_too() -> None:
    it = event(time=datetime(2026, 1, 31, 9, 30, tzinfo=UTC))
    assert result({"time": {"$gte": "2026-01-31T09:30:00Z"}}, it) is True


def test_a_text_that_is_no_date_equals_none() -> None:
    assert result({"due": "2026-01-31T09:30:00Z"}, event({"due": "2026-01-31T99:30:00Z"})) is False


def test_upper_and_lower_case_differ_where_it_is_asked_for_alone() -> None:
    for wanted in ({"$eq": "aapl"}, {"$in": ["aapl"]}, {"$prefix": "aa"}, {"$regex": "^aa"}, {"$wildcard": "aa*"}):
        assert result({"symbol": wanted}) is True
        assert result({"symbol": {**wanted, "$case_sensitive": True}}) is False
    assert result({"symbol": {"$gt": "aapk"}}) is True
    assert result({"symbol": {"$gt": "aapk", "$case_sensitive": True}}) is False


def test_contains_and_regex_look_at_texts_of_any_depth() -> None:
    assert result({"payload": {"$contains": "volatility"}}) is True
    assert result({"payload": {"$contains": "1600"}}) is False
    assert result({"user": {"$regex": "^Ada$"}}) is True
    assert result({"items": {"$regex": "^C$"}}) is False


def test_a_wildcard_can_be_escaped() -> None:
    assert result({"it": {"$wildcard": r"a\*c"}}, event({"it": "a*c"})) is True
    assert result({"it": {"$wildcard": r"a\*c"}}, event({"it": "abc"})) is False
    assert result({"it": {"$like": r"5\%"}}, event({"it": "5%"})) is True
    assert result({"it": {"$like": r"5\%"}}, event({"it": "55"})) is False
    assert result({"it": {"$like": "a.c"}}, event({"it": "abc"})) is False


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ({"a": {"$in": []}}, "a.$in: $in takes a list of values, one at least"),
        ({"a": {"$in": "x"}}, "takes a list of values"),
        ({"a": {"$eq": ["x"]}}, "write $in for one of several"),
        ({"a": {"$eq": {"b": 1}}}, "takes a text, a number, true, false or null"),
        ({"a": {"$gt": True}}, "a boolean has no order"),
        ({"a": {"$gt": None}}, "null has no order"),
        ({"a": {"$prefix": ""}}, "a text of one character at least"),
        ({"a": {"$contains": 5}}, "a text of one character at least, not 5"),
        ({"a": {"$exists": 1}}, "$exists takes true or false, not 1"),
        ({"a": {"$cidr": "10.0.0.1/8"}}, "write a network such as 10.0.0.0/8"),
        ({"a": {"$regex": "(a"}}, "RE2 refuses the pattern '(a': missing )"),
        ({"a": {"$regex": r"(?=a)"}}, "look-around and back-references do not exist there"),
        ({"a": {"$regex": "a" * 1025}}, "1,025 bytes is too long; 1,024 are allowed"),
        ({"a": {"$eq": float("nan")}}, "nan is nothing that an event can have"),
        ({"a": {"$eq": 2**70}}, "is nothing that an event can have"),
        ({"a": {"$eq": "\ud800"}}, "is nothing that an event can have"),
        ({"a": {"$eq": "x" * 4097}}, "a text of more than 4,096 bytes is too long"),
        ({"a": {"$gt": datetime(2026, 1, 31)}}, "has no time zone; use an aware datetime"),
        ({"time": {"$gt": "2026-01-31"}}, "event.time is a date; '2026-01-31' is none, or has no time zone"),
        ({"priority": {"$gte": "high"}}, "event.priority is a number, never 'high'; write payload.priority"),
        ({"priority": {"$prefix": "1"}}, "event.priority is a number, and $prefix looks at texts"),
        ({"id": 5}, "event.id is a text, never 5"),
        ({"type": None}, "event.type is a text, never None"),
    ],
)
def test_what_could_never_work_is_found_where_it_is_declared(where: Any, message: str) -> None:
    with pytest.raises(InvalidFilter) as caught:
        parse(where)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("pattern", "instead"),
    [
        ("^AAPL|MSFT|GOOGL$", "^(AAPL|MSFT|GOOGL)$"),
        ("^a[|)]|b$", "^(a[|)]|b)$"),
        (r"^a\||b$", r"^(a\||b)$"),
        ("^(AAPL|MSFT)$", None),
        ("^AAPL$|^MSFT$", None),
        ("AAPL|MSFT", None),
        ("^(a)|(b)", None),
        (r"^[a|b]$", None),
        (r"^a|b\$", None),
    ],
)
def test_alternatives_that_share_their_anchors_want_a_group(pattern: str, instead: str | None) -> None:
    where = {"symbol": {"$regex": pattern}}
    if instead is None:
        assert result(where) in (True, False)
        return
    with pytest.raises(InvalidFilter, match="belongs to the first alternative alone") as caught:
        parse(where)
    assert f"write {instead!r}" in str(caught.value)


def test_a_pattern_that_makes_others_hang_takes_linear_time() -> None:
    assert result({"it": {"$regex": "^(a|aa)+b$"}}, event({"it": "a" * 100_000})) is False
    assert result({"it": {"$wildcard": "a*" * 200 + "b"}}, event({"it": "a" * 10_000})) is False


@pytest.mark.parametrize("op", sorted(EQUATING))
@pytest.mark.parametrize("value", ["", "a", "high", "2026-01-31T09:30:00Z", 1, 2.5, True, None])
def test_every_value_can_be_compared_for_being_equal(op: str, value: Any) -> None:
    made = condition(Path("payload", ("a",)), op, [value] if op in ("$in", "$nin") else value)
    assert made.check()(value) is True
