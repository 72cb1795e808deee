"""The kinds of filters and their options."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline import InvalidFilter
from pipeline.agents.filters import Content, EventType, Expression, Fields, JsonPath, Kind, Regex, parse
from tests.filters import event, result


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (EventType("alert.raised"), True),
        (EventType("ALERT.raised"), True),
        (EventType("ALERT.raised", case_sensitive=True), False),
        (EventType("alert"), False),
        (EventType("alert.*"), True),
        (EventType("al*"), True),
        (EventType("order.*"), False),
        (EventType("*"), True),
        (Content("volatility"), True),
        (Content("volatility", case_sensitive=True), False),
        (Content("Volatility", case_sensitive=True), True),
        (Content("volatility", path="payload.user"), False),
        (Content("/monitor", path="event.source"), True),
        (Regex("^(AAPL|MSFT|GOOGL)$", path="payload.symbol"), True),
        (Regex("^(aapl)$", path="payload.symbol", case_sensitive=True), False),
        (Regex("vol.*back"), True),
        (JsonPath("$.payload.items[?@.price > 100]"), True),
        (Expression("urgency < 3 AND symbol IN (AAPL, MSFT, GOOGL)"), True),
        (Fields({"urgency": {"$lt": 3}}), True),
    ],
)
def test_a_kind_matches_and_negated_it_does_not(kind: Any, expected: bool) -> None:
    assert result(kind) is expected
    options = {name: value for name, value in vars(kind).items() if name != "negate"}
    if isinstance(kind, JsonPath):
        options.pop("case_sensitive", None)
    assert result(type(kind)(**options, negate=True)) is not expected


@pytest.mark.parametrize(
    "kind",
    [
        Content("x", path="payload.gone", negate=True),
        Regex("x", path="payload.gone", negate=True),
        Regex("x", path="payload.urgency", negate=True),
        JsonPath("$.payload.gone[?@ > 1]", negate=True),
        Expression("gone = 1", negate=True),
        Expression("symbol > 1", negate=True),
        Fields({"gone": 1}, negate=True),
        Content("x", path="metadata.session", negate=True),
    ],
)
def test_a_negated_filter_does_not_match_what_is_missing_or_errs(kind: Kind) -> None:
    assert not parse(kind).matches(event())
    assert parse(kind).test(event()) is not False


def test_several_filters_are_anded_and_none_means_all() -> None:
    assert result([EventType("alert.*"), "urgency < 3", {"symbol": "AAPL"}]) is True
    assert result([EventType("alert.*"), "urgency < 2", {"symbol": "AAPL"}]) is False
    assert result([EventType("alert.*"), "gone < 2"]) is None
    assert result([]) is True
    assert result(None) is True


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (EventType("a*b"), "an event type may end with one `*`"),
        (EventType(5), "EventType takes a text, not 5"),  # type: ignore[arg-type]
        (EventType("a", negate="no"), "case_sensitive and negate are true or false"),  # type: ignore[arg-type]
        (Content(""), "Content: $contains: it takes a text of one character at least"),
        (Content("a", path="a..b"), "Content: 'a..b' is no path"),
        (Regex("(?<=a)b"), "RE2 refuses the pattern '(?<=a)b'"),
        (Regex("^AAPL|MSFT|GOOGL$"), "write '^(AAPL|MSFT|GOOGL)$'"),
        (Fields({}), "an empty mapping says nothing"),
        (Expression(""), "an empty text says nothing"),
        (JsonPath("x"), "JSONPath 'x'"),
    ],
)
def test_a_mistake_is_found_where_it_is_declared(kind: Kind, message: str) -> None:
    with pytest.raises(InvalidFilter) as caught:
        parse(kind)
    assert message in str(caught.value)


def test_a_kind_refuses_options_that_it_does_not_have() -> None:
    with pytest.raises(TypeError, match="insensitive"):
        Regex("a", insensitive=True)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="case_sensitive"):
        JsonPath("$.type", case_sensitive=True)  # type: ignore[call-arg]
