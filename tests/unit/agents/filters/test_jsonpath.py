"""JSONPath (RFC 9535), rooted at the envelope."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from jsonpath import JSONPathEnvironment

from pipeline import InvalidFilter
from pipeline.agents.filters import JsonPath, parse
from pipeline.agents.filters.jsonpath.reading import Reader
from pipeline.agents.filters.jsonpath.walk import exists, nodes
from tests.filters import event, result

SUITE = json.loads((Path(__file__).parents[3] / "data" / "jsonpath-compliance.json").read_text())["tests"]
#: Where RE2 differs: its `.` is every character but a newline, and I-Regexp's is no carriage return either.
ON_RE2 = {
    f"functions, {function}, dot matcher on \\u{code}" for function in ("match", "search") for code in (2028, 2029)
}


def selected(text: str, data: Any) -> list[Any]:
    """Return what a query selects; it says of itself whether that is something."""
    segments = Reader(text).read()
    found = list(nodes(segments)(data, data))
    assert exists(segments)(data, data) is bool(found)
    return found


@pytest.mark.parametrize("case", SUITE, ids=[case["name"] for case in SUITE])
def test_queries_are_those_of_the_compliance_suite(case: dict[str, Any]) -> None:
    if case.get("invalid_selector"):
        with pytest.raises(InvalidFilter, match="at character"):
            Reader(case["selector"]).read()
        return
    found = json.dumps(selected(case["selector"], case["document"]))
    expected = {json.dumps(each) for each in case.get("results", [case.get("result")])}
    assert (found in expected) is (case["name"] not in ON_RE2)


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
        ("$.payload.items[?@.price >", "at character 27: the query ends too early"),
        ("$.payload.items[?@.price => 1]", "at character 26: this is not expected here"),
        ("$.payload.items[?@.a == 1 && @.b === 2]", "at character 36: this is not expected here"),
        (" $.payload", "at character 1: there is no space before a query"),
        ("$.payload ", "at character 10: there is no space before a query"),
        ("$.payload['a\\q']", "at character 11: what stands in these quotes is no text"),
        ("$.payload[9007199254740992]", "at character 11: index out of range"),
        ("$.payload[?@.* == 1]", "at character 12: a query that may select several values is no value"),
        ("$.payload[?count(1) == 1]", "at character 12: count() takes a query"),
        ("$.payload[?count() == 1]", "at character 12: count() takes 1, not 0 arguments"),
        ("$.payload[?length(@.a)]", "what length() returns is a value, and has to be compared"),
        ("$.payload[?match(@.a, 'b') == true]", "what match() returns is a condition, and no value"),
        ("$.payload[?lenght(@.a) == 1]", "unknown function of JSONPath 'lenght'; did you mean 'length'"),
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
        ("$.payload" + "[?@" * 500 + "]" * 500, "it is too deep"),
        ("$.payload." + "a" * 5000, "is too long"),
    ],
)
def test_a_mistake_is_found_where_it_is_declared(query: str, message: str) -> None:
    with pytest.raises(InvalidFilter) as caught:
        parse(query)
    assert message in str(caught.value)


@pytest.mark.parametrize(("before", "behind", "selects"), [("@[?", "]", True), ("!(", ")", False)])
def test_conditions_stand_in_each_other_64_deep(before: str, behind: str, selects: bool) -> None:
    data: Any = 1
    for _ in range(64):
        data = [data]
    assert bool(selected(f"$[?{before * 63}@{behind * 63}]", data)) is selects
    with pytest.raises(InvalidFilter, match="it is too deep"):
        Reader(f"$[?{before * 64}@{behind * 64}]").read()


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
COUNTED: st.SearchStrategy[str] = st.deferred(
    lambda: st.one_of(
        OPERANDS,
        STEPS.map("count(@{})".format),
        STEPS.map("value(@{})".format),
        OPERANDS.map("length({})".format),
    )
)
STEPS: st.SearchStrategy[str] = st.deferred(lambda: st.lists(SEGMENTS, min_size=1, max_size=3).map("".join))
CONDITIONS: st.SearchStrategy[str] = st.deferred(
    lambda: st.one_of(
        COMPARISONS,
        STEPS.map("@{}".format),
        st.builds("({} && {})".format, CONDITIONS, CONDITIONS),
        st.builds("({} || {})".format, CONDITIONS, CONDITIONS),
        CONDITIONS.map("!({})".format),
        st.builds("{} == {}".format, COUNTED, COUNTED),
    )
)
SELECTORS: st.SearchStrategy[str] = st.one_of(
    NAMES.map("'{}'".format), INDICES, st.just("*"), CONDITIONS.map("?{}".format)
)
SEGMENTS: st.SearchStrategy[str] = st.builds(
    lambda dots, several: f"{dots}[{', '.join(several)}]",
    st.sampled_from(["", "", ".."]),
    st.lists(SELECTORS, min_size=1, max_size=2),
)


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None, max_examples=500)
@given(STEPS.map("$['payload']{}".format), VALUES)
def test_a_query_selects_what_a_library_selects_by_it(text: str, data: Any) -> None:
    # In a condition within a condition that library takes `$` for the value that the outer one looks at.
    assume("$" not in text[1:] or text.count("?") == 1)
    seen = {"payload": data}
    expected = JSONPathEnvironment(strict=True).findall(text, seen)
    assert json.dumps(selected(text, seen)) == json.dumps(expected)


def test_the_root_is_the_whole_event_also_in_a_condition_within_a_condition() -> None:
    """RFC 9535, 2.3.5.1: `$` is the query argument."""
    text = "$.items[?@.parts[?@.kind == $.kind]]"
    assert selected(text, {"kind": "a", "items": [{"parts": [{"kind": "b"}, {"kind": "a"}]}]})
    assert not selected(text, {"kind": "a", "items": [{"parts": [{"kind": "b"}]}]})


def test_what_is_there_exists_whatever_it_is() -> None:
    """RFC 9535, 2.3.5.2: existence is of the node, also where the value is false, 0 or null."""
    assert selected("$[?@]", [0, False, None, ""]) == [0, False, None, ""]


def test_a_hyphen_belongs_to_a_name() -> None:
    assert selected("$.user-id", {"user-id": 1}) == [1]
