"""JSONPath (RFC 9535), rooted at the envelope."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from pipeline import InvalidFilter
from pipeline.agents.filters import JsonPath, parse
from pipeline.agents.filters.jsonpath.query import _compiled
from pipeline.agents.filters.jsonpath.walk import NotSimple, along, selects
from tests.filters import event, result


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("$.data.symbol", True),
        ("$.payload.symbol", True),
        ("$['payload']['symbol']", True),
        ("$.type", True),
        ("$.payload.items[?@.price > 100]", True),
        ("$.payload.items[?@.price > 1000]", False),
        ("$.payload.items[?@.price > $.payload.volume]", False),
        ("$.payload.items[?@.price < $.data.average]", True),
        ("$.payload.items[1].sku", True),
        ("$.payload.items[2].sku", None),
        ("$.payload.gone", None),
        ("$.payload.gone[?@.price > 100]", None),
        ("$.payload.user[?@ == 'Ada']", True),
        ("$.payload..sku", True),
        ("$.payload..gone", False),
        ("$.payload.items[?match(@.sku, 'a')]", False),
        ("$.payload.items[?match(@.sku, '[AB]')]", True),
        ("$.payload.tags[?search(@, 'isk')]", True),
        ("$.payload.items[?count(@.notes[*]) == 1]", True),
    ],
)
def test_a_query_matches_where_it_selects_something(query: str, expected: bool | None) -> None:
    assert result(query) is expected
    assert result(JsonPath(query)) is expected
    assert result({"$jsonpath": query}) is expected
    assert result(JsonPath(query, negate=True)) is (None if expected is None else not expected)


def test_patterns_run_on_re2() -> None:
    it = event({"texts": ["a" * 50_000]})
    assert result("$.payload.texts[?match(@, '(a|aa)+b')]", it) is False
    assert result("$.payload.texts[?search(@, '(a|aa)+b')]", it) is False


def test_a_pattern_of_an_event_that_re2_refuses_is_an_error() -> None:
    where = "$.payload.texts[?match(@, $.payload.pattern)]"
    assert result(where, event({"texts": ["a"], "pattern": "a"})) is True
    (one, other) = (parse(where).test(event({"texts": ["a"], "pattern": pattern})) for pattern in ("(?=a)", "(?=b)"))
    assert "RE2 refuses the regular expression" in str(one)
    assert one == other
    assert result("$.payload.texts[?!match(@, $.payload.pattern)]", event({"texts": ["a"], "pattern": "("})) is not True


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("$.payload.items[?@.price >", "at character"),
        ("$", "names nothing to begin at"),
        ("$..a", "names nothing to begin at"),
        ("$.payload[?nope(@)]", "nope"),
        ("$.payload[?@ =~ /a/]", "JSONPath"),
        ("$.payload.a | $.payload.b", "JSONPath"),
        ("$.payload[?match(@, '(?=x)')]", "RE2 refuses the pattern '(?=x)'"),
        ("$.payload[?!search(@.a, '(')]", "RE2 refuses the pattern '('"),
        ("$.payload..a..b", "take too long together; 1 is allowed"),
        ("$.payload..a[?count($.payload[*]) > 1]", "take too long together"),
        ("$.payload.a[?@..b[?@..c]]", "take too long together"),
        ("$.payload" + "[*,*]" * 6, "its brackets have too many selectors"),
        ("$.type.name", "the envelope's type is one value without fields; for the payload's write $.payload.type"),
        ("$.items[?@.price > 1]", "for the payload's write $.payload.items"),
        ("$.correlation_id", "the envelope has no correlation_id; write $.correlationid"),
        ("$.payload" + "[?@" * 500 + "]" * 500, "JSONPath"),
        ("$.payload." + "a" * 5000, "is too long"),
    ],
)
def test_a_mistake_is_found_where_it_is_declared(query: str, message: str) -> None:
    with pytest.raises(InvalidFilter) as caught:
        parse(query)
    assert message in str(caught.value)


def test_a_query_is_explained_by_what_it_selects_first() -> None:
    (explained,) = parse("$.payload.items[?@.price > 100]").explain(event())
    assert explained.value == {"sku": "B", "price": 500, "notes": ["late"]}
    (missing,) = parse("$.payload.user.gone").explain(event())
    assert (missing.result, missing.value, missing.fields) == ("missing", None, ("ip", "name"))


def test_an_event_that_a_query_cannot_go_through_is_an_error() -> None:
    deep: Any = 1
    for _ in range(150):
        deep = [deep]
    assert "recursion limit exceeded" in str(result("$.payload..gone", event(deep)))


NAMES = st.sampled_from(["a", "b", "payload", "0"])
ATOMS = st.sampled_from([None, True, False, 0, 1, -1, 1.0, 2.5, "", "a", "b", "1"])
VALUES = st.recursive(
    ATOMS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3), max_leaves=12
)
INDICES = st.integers(-3, 3).map(str)
SINGULAR = st.lists(NAMES.map("['{}']".format) | INDICES.map("[{}]".format), max_size=2).map("".join)
OPERANDS = st.sampled_from(["null", "true", "false", "0", "1", "2.5", "-1", "''", "'a'", "'b'", "'1'"]) | st.one_of(
    SINGULAR.map("@{}".format), SINGULAR.map("$['payload']{}".format)
)
COMPARISONS = st.builds("{} {} {}".format, OPERANDS, st.sampled_from(["==", "!=", "<", "<=", ">", ">="]), OPERANDS)
STEPS: st.SearchStrategy[str] = st.deferred(lambda: st.lists(SEGMENTS, min_size=1, max_size=3).map("".join))
CONDITIONS: st.SearchStrategy[str] = st.deferred(
    lambda: st.one_of(
        COMPARISONS,
        STEPS.map("@{}".format),
        st.builds("({} && {})".format, CONDITIONS, CONDITIONS),
        st.builds("({} || {})".format, CONDITIONS, CONDITIONS),
        CONDITIONS.map("!({})".format),
    )
)
SELECTORS = st.one_of(NAMES.map("'{}'".format), INDICES, st.just("*"), CONDITIONS.map("?{}".format))
SEGMENTS = st.lists(SELECTORS, min_size=1, max_size=2).map(lambda several: f"[{', '.join(several)}]")


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None, max_examples=500)
@given(STEPS.map("$['payload']{}".format), VALUES)
def test_a_simple_query_selects_by_our_own_steps_what_it_selects_by_the_library(text: str, data: Any) -> None:
    # In a condition within a condition the library takes `$` for the value that the outer one looks at.
    assume("$" not in text[1:] or text.count("?") == 1)
    query, seen = _compiled(text), {"payload": data}
    says = along(query)
    assert says(seen, seen) is (next(iter(query.finditer(seen)), None) is not None)


def test_the_root_is_the_whole_event_also_in_a_condition_within_a_condition() -> None:
    """RFC 9535, 2.3.5.1: `$` is the query argument."""
    selects_same = selects(_compiled("$.items[?@.parts[?@.kind == $.kind]]"))
    assert selects_same({"kind": "a", "items": [{"parts": [{"kind": "b"}, {"kind": "a"}]}]}) is True
    assert selects_same({"kind": "a", "items": [{"parts": [{"kind": "b"}]}]}) is False


@pytest.mark.parametrize("text", ["$.a..b", "$.a[1:2]", "$.a[?match(@, 'b')]", "$.a[?length(@) == 1]", "$.a[?@]"])
def test_the_library_goes_through_what_is_not_simple(text: str) -> None:
    with pytest.raises(NotSimple):
        along(_compiled(text))
    assert selects(_compiled(text))({"a": [[], "b", {"b": 1}]}) is True
