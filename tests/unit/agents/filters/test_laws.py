"""What holds for every filter and every event."""

from __future__ import annotations

import json
import pickle
from typing import Any

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pipeline import InvalidFilter
from pipeline.agents.filters import Failed, Filter, check_paths, parse
from tests.filters import EVENTS, FILTERS, MAPPINGS

#: Machines that are busy with other things are slow to draw and to try.
LAW = settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)


def kind(filter: Filter, event: Any) -> str:
    found = filter.test(event)
    return "error" if isinstance(found, Failed) else str(found)


@LAW
@given(MAPPINGS, MAPPINGS, EVENTS)
def test_de_morgan_holds_with_three_values(one: Any, other: Any, event: Any) -> None:
    assert kind(parse({"$not": {"$and": [one, other]}}), event) == kind(
        parse({"$or": [{"$not": one}, {"$not": other}]}), event
    )
    assert kind(parse({"$not": {"$or": [one, other]}}), event) == kind(
        parse({"$and": [{"$not": one}, {"$not": other}]}), event
    )


@LAW
@given(MAPPINGS, EVENTS)
def test_a_filter_and_its_negation_never_match_both(where: Any, event: Any) -> None:
    one, other = kind(parse(where), event), kind(parse({"$not": where}), event)
    assert (one, other) in (("True", "False"), ("False", "True"), ("None", "None"), ("error", "error"))


@LAW
@given(MAPPINGS, MAPPINGS, EVENTS)
def test_and_is_true_where_both_are_and_or_where_one_is(one: Any, other: Any, event: Any) -> None:
    single = parse(one).matches(event), parse(other).matches(event)
    assert parse({"$and": [one, other]}).matches(event) is all(single)
    assert parse([one, other]).matches(event) is all(single)
    assert parse({"$or": [one, other]}).matches(event) is any(single)


@LAW
@given(FILTERS, EVENTS)
def test_the_canonical_form_and_the_pickled_one_are_the_same_filter(found: Filter, event: Any) -> None:
    for again in (parse(found.as_data()), parse(json.loads(found.text)), pickle.loads(pickle.dumps(found))):
        assert again == found
        assert kind(again, event) == kind(found, event)


@LAW
@given(FILTERS, EVENTS)
def test_every_condition_is_explained_and_tests_nothing_else(found: Filter, event: Any) -> None:
    explained = found.explain(event)
    assert all(each.result in ("true", "false", "missing", "error") for each in explained)
    assert len(explained) >= 1
    if all(each.result == "true" for each in explained):
        assert found.matches(event)
    if not any(each.result == "true" for each in explained):
        assert not found.matches(event)
    json.dumps([each.as_data() for each in explained])
    assert check_paths(found.paths, dict) == []


TEXTS = st.sampled_from(["x", "X", "xx", "abc", "y z", "a.b"])


@LAW
@given(
    st.sampled_from(["$eq", "$prefix", "$suffix", "$ne"]), st.sampled_from(["type", "source", "subject"]), TEXTS,
    st.sampled_from(["x", "xx", "abc", "ab", "c"]),
)  # fmt: skip
def test_the_front_ends_of_one_condition_agree(op: str, attribute: str, value: str, wanted: str) -> None:
    word = {"$eq": "=", "$prefix": "PREFIX", "$suffix": "SUFFIX", "$ne": "!="}[op]
    pattern = {"$eq": wanted, "$ne": wanted, "$prefix": f"{wanted}%", "$suffix": f"%{wanted}"}[op]
    dialect = {"$eq": "exact", "$ne": "exact", "$prefix": "prefix", "$suffix": "suffix"}[op]
    positive: dict[str, Any] = {dialect: {attribute: wanted}}
    sql = f"{attribute} {'NOT LIKE' if op == '$ne' else 'LIKE'} '{pattern}'"
    for event in ({attribute: value, "data": {attribute: value}}, {"data": None}):
        expected = kind(parse({attribute: {op: wanted, "$case_sensitive": True}}), event)
        assert kind(parse({"not": positive} if op == "$ne" else positive), event) == expected
        assert kind(parse({"sql": sql}), event) == expected
        text = kind(parse(f"{attribute} {word} '{wanted}'"), event)
        assert kind(parse({attribute: {op: wanted}}), event) == text
        assert kind(parse(f"payload.{attribute} {word} {wanted}"), event) == text


WORDS = st.sampled_from(
    [
        "a", "payload.b", "type", "priority", "event.", "(", ")", "[", "]", ",", "=", "!=", ">", "<=", "AND", "OR",
        "NOT", "IN", "EXISTS", "CONTAINS", "MATCHES", "LIKE", "CIDR", "'x'", '"', "'", "5", "1e9", "-", "+", "*", "/",
        "true", "null", "$.data", "[?@.a", "..", "*", "%", "sql", "TRUE", "XOR", "LENGTH", "`", "\\", "^(a|b", "é",
        "\x00", "\ud800",
    ]
)  # fmt: skip
NOISE = st.text(max_size=60) | st.lists(WORDS, max_size=25).map(" ".join) | st.lists(WORDS, max_size=25).map("".join)


@LAW
@given(NOISE)
@example("(" * 4000)
@example("NOT " * 1000)
@example("a" * 4096)
@example("-" * 4000 + "a = 1")
@example("a = '" + "\\'" * 2000)
@example("`" * 4001)
@example("a-" * 2000)
@example("$" + ".a" * 2000)
@example("$.a[?" + "(" * 3000)
@example("$.a[?" + "!" * 3000 + "@.b]")
@example("a = 1 AND " * 400 + "a = 1")
def test_whatever_text_is_given_a_filter_comes_of_it_or_an_error(text: str) -> None:
    for where in (text, {"sql": text}, {text: 1}, {"a": {"$regex": text}}, {"$jsonpath": text}, {"a": {"$like": text}}):
        try:
            found = parse(where)
        except InvalidFilter:
            continue
        assert parse(found.as_data()) == found
        found.test({"type": "x", "data": {"a": 1}})


@LAW
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["a", "$and", "$or", "$not", "$gt", "$in", "$expr", "exact", "all", "sql", "type", ""]),
            inner, max_size=3,
        ),
        max_leaves=10,
    )
)  # fmt: skip
def test_whatever_mapping_is_given_a_filter_comes_of_it_or_an_error(where: Any) -> None:
    try:
        found = parse(where)
    except InvalidFilter:
        return
    assert parse(found.as_data()) == found
