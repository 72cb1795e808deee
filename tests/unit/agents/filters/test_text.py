"""Filters as text."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline import InvalidFilter
from pipeline.agents.filters import Expression, parse
from tests.filters import event, result


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("symbol = AAPL", True),
        ("symbol == 'aapl'", True),
        ('symbol = "MSFT"', False),
        ("symbol != MSFT", True),
        ("symbol <> AAPL", False),
        ("urgency<3", True),
        ("urgency <= 1", False),
        ("urgency > -1", True),
        ("urgency >= 2e0", True),
        ("payload.urgency < 3 and symbol in (AAPL, MSFT, GOOGL)", True),
        ("symbol NOT IN [AAPL, 'MSFT']", False),
        ("priority > 5", False),
        ("payload.priority >= high", True),
        ("active = true AND nothing = null", True),
        ("headline CONTAINS volatility", True),
        ("payload CONTAINS 'is back'", True),
        ("headline NOT CONTAINS volatility", False),
        ("symbol PREFIX aa AND symbol SUFFIX pl AND symbol WILDCARD 'a*l' AND symbol LIKE 'a__l'", True),
        ("symbol MATCHES '^(AAPL|MSFT)$'", True),
        (r"symbol MATCHES '^\w{4}$'", True),
        ("user.ip CIDR '10.0.0.0/8'", True),
        ("EXISTS user.name", True),
        ("EXISTS gone", False),
        ("NOT EXISTS gone", True),
        ("type = alert.*", True),
        ("type != order.*", True),
        ("source = monitoring.*", False),
        ("correlation_id = c.*", False),
        ("payload.site = example.*", None),
        ("symbol = aapl.*", False),
        ("payload.`user-id` = u1 AND payload.`a.b` = 1", True),
        ("time < '2026-02-01T00:00:00Z'", True),
        ("3 > urgency", True),
        ("'AAPL' = symbol", True),
        ("gone = 1", None),
        ("NOT gone = 1", None),
        ("gone = 1 OR symbol = AAPL", True),
        ("gone = 1 AND symbol = MSFT", False),
        ("it = 'O\\'Hara'", None),
    ],
)
def test_a_text_says_what_a_mapping_says(text: str, expected: bool | None) -> None:
    assert result(text) is expected


def test_the_example_of_the_composite_filter_works() -> None:
    where = "(type=alert AND priority>5) OR source=monitoring"
    assert result(where, event(type="alert", priority=6, source="x")) is True
    assert result(where, event(type="alert", priority=5, source="x")) is False
    assert result(where, event(type="order", priority=6, source="x")) is False
    assert result(where, event(type="order", priority=1, source="monitoring")) is True


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("a = 1 OR b = 2 AND c = 3", "a = 1 OR (b = 2 AND c = 3)"),
        ("a = 1 AND b = 2 OR c = 3", "(a = 1 AND b = 2) OR c = 3"),
        ("NOT a = 1 AND b = 2", "(NOT a = 1) AND b = 2"),
        ("not not a = 1", "a = 1"),
        ("((a = 1))", "a = 1"),
        ("a > b + c * 2 - d / 4", "a > b + (c * 2) - (d / 4)"),
        ("a > -b * 2", "a > (0 - b) * 2"),
    ],
)
def test_not_binds_before_and_and_and_before_or(text: str, same: str) -> None:
    assert parse(text) == parse(same)


@pytest.mark.parametrize(
    ("text", "data", "expected"),
    [
        ("volume > 1.5 * average", {"volume": 1501, "average": 1000}, True),
        ("volume > 1.5 * average", {"volume": 1500, "average": 1000}, False),
        ("a - b - c = 1", {"a": 10, "b": 5, "c": 4}, True),
        ("a / b * c = 8", {"a": 8, "b": 2, "c": 2}, True),
        ("a + b * c = 7", {"a": 1, "b": 2, "c": 3}, True),
        ("(a + b) * c = 9", {"a": 1, "b": 2, "c": 3}, True),
        ("-a < payload.b", {"a": 1, "b": 0}, True),
        ("2 * a != 4", {"a": 2}, False),
        ("payload.a = payload.b", {"a": "X", "b": "x"}, True),
        ("payload.a = payload.b", {"a": "5", "b": 5}, False),
        ("payload.a != payload.b", {"a": "5", "b": 5}, True),
        ("payload.a > payload.b", {"a": "high", "b": "low"}, True),
        ("payload.a > payload.b", {"a": "2026-01-01T10:00:00Z", "b": "2026-01-01T10:30:00+01:00"}, True),
        ("payload.a = payload.b", {"a": ["x", "y"], "b": ["y"]}, True),
        ("payload.a = payload.b", {"a": ["x"], "b": "y"}, False),
        ("payload.a != payload.b", {"a": ["x"], "b": "y"}, True),
        ("payload.a > payload.b", {"a": [1, None], "b": 2}, None),
        ("a > 2 * b", {"a": 1}, None),
        ("NOT a > 2 * b", {"a": 1}, None),
        ("a > 2 * b", {"a": 1, "b": None}, None),
        ("a > 2 * b", {"a": 1, "b": "2"}, "a text is no number to compute with"),
        ("a > 2 * b", {"a": 1, "b": True}, "a boolean is no number to compute with"),
        ("a > 1 / b", {"a": 1, "b": 0}, "a division by zero"),
        ("a / b > 1", {"a": 10**400, "b": 3}, "a number is too large"),
        ("payload.a > payload.b", {"a": "x", "b": 1}, "a text cannot be compared with a number"),
        ("payload.a > payload.b", {"a": [1, "x"], "b": 2}, "a text cannot be compared with a number"),
    ],
)
def test_two_fields_are_compared_and_computed_with(text: str, data: Any, expected: Any) -> None:
    assert result(text, event(data)) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "an empty text says nothing"),
        ("  ", "an empty text says nothing"),
        ("type PREFIX user-", "the end: a word that ends with a hyphen stands in quotes: 'user-'"),
        ("type=user-*", "a word that ends with a hyphen stands in quotes: 'user-*'"),
        ("a = x OR (type PREFIX user- AND b = 1)", "a word that ends with a hyphen stands in quotes: 'user-'"),
        ("(type PREFIX a.user-)", "a word that ends with a hyphen stands in quotes: 'a.user-'"),
        ("type IN (user-, shop-)", "a word that ends with a hyphen stands in quotes: 'user-'"),
        ("a > total -", "the text ends too early"),
        ("-", "the text ends too early"),
        ("a =", "character 4, the end: the text ends too early"),
        ("(a = 1", "character 7, the end: the text ends too early"),
        ("a = 1)", "character 6, ')': this is not expected here; AND or OR would be"),
        ("a LIK 'x'", "character 3, \"LIK 'x'\": unknown operator 'LIK'; did you mean 'LIKE'?"),
        ("a => 5", "character 3, '=> 5': unknown operator '=>'"),
        ("a =~ 'x'", "unknown operator '=~'; write MATCHES"),
        ("a = 1 && b = 2", "character 7, '&& b = 2': unknown operator '&&'; write AND"),
        ("a = 1 || b = 2", "write OR"),
        ("a = 'x", "what begins with this quote has no end"),
        ("a = 1 b = 2", "unknown operator 'b'"),
        ("status = in-progress", "character 10, 'in-progress': in-progress: write quotes around a text"),
        ("high-low > 5", "character 1, 'high-low > 5': high-low: write quotes around a text"),
        ("payload.active AND b = 1", "an operator would be, such as = or CONTAINS"),
        ("source=/monitoring", "a number, or a text in quotes"),
        ("1 = 1", "two values are compared, and no field"),
        ("payload.a = payload.a", "a field is compared with itself"),
        ("a CONTAINS payload.b", "character 12, 'payload.b': a value is expected here"),
        ("a + b IN (1)", "this operator looks at one field"),
        ("a.* = 1", "a field has no `*`"),
        ("type = 'a*b'", "an event type may end with one `*`"),
        ("a = 1e999", "this number is too large"),
        ("a = 99999999999999999999", None),
        ("priority >= high", "event.priority is a number, never 'high'; write payload.priority"),
        ("a MATCHES '(?=x)'", "character 3, \"MATCHES '(?=x)'\": $regex: RE2 refuses the pattern '(?=x)'"),
        ("event.Source = x", "unknown attribute of the envelope 'Source'; did you mean 'source'?"),
        ("a = 1 OR " * 500 + "a = 1", "a filter of 4,505 bytes is too long; 4,096 are allowed"),
        ("NOT " * 800 + "a = 1", "more than 16 deep"),
        ("(" * 500 + "1 + a" + ")" * 500 + " = 1", None),
        ("1 * (" * 20 + "a" + ")" * 20 + " = 1", "more than 16 deep"),
        ("-" * 20 + "a = 1", "more than 16 deep"),
    ],
)
def test_a_mistake_in_a_text_is_found_with_its_place(text: str, message: str | None) -> None:
    if message is None:
        parse(text)
        return
    with pytest.raises(InvalidFilter) as caught:
        parse(text)
    assert message in str(caught.value)


def test_the_place_of_a_mistake_is_the_number_of_a_character() -> None:
    with pytest.raises(InvalidFilter) as caught:
        parse("a = 1 AND b PREFIX 5")
    assert caught.value.place == "character 13, 'PREFIX 5'"


def test_conditions_stand_in_each_other_sixteen_deep_at_most() -> None:
    text = "a = 1"
    for _ in range(8):
        text = f"b = 1 OR (c = 1 AND ({text}))"
    parse(text)
    with pytest.raises(InvalidFilter, match="more than 16 deep"):
        parse(f"c = 1 AND ({text})")


def test_words_of_the_language_are_fields_where_a_field_is_expected() -> None:
    assert result("contains = 1 AND payload.in = 2", event({"contains": 1, "in": 2})) is True
    assert result("android = 1 OR notes = 2", event({"android": 1})) is True


def test_upper_and_lower_case_differ_where_it_is_asked_for_alone() -> None:
    assert result(Expression("symbol = aapl")) is True
    assert result(Expression("symbol = aapl", case_sensitive=True)) is False
    assert result(Expression("payload.a = payload.b", case_sensitive=True), event({"a": "x", "b": "X"})) is False
