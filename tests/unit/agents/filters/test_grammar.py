"""Texts are read by lark's tables as lark itself reads them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lark.exceptions import UnexpectedInput

from pipeline.agents.filters import text
from pipeline.agents.filters.cesql import expression
from pipeline.agents.filters.grammar import Grammar
from pipeline.agents.filters.jsonpath import reading

WORDS = (
    "a", "a.b", "`x y`", "event.type", "order.*", "1", "2.5e3", "'x'", '"y"', "true", "null", "(", ")", "[", "]", ",",
    "+", "-", "*", "/", "%", "=", "==", "!=", "<>", "<=", ">", "AND", "or", "Not", "IN", "EXISTS", "LIKE", "CIDR", "?",
    "$", "@", ".a", "..a", "..[", ".*", "[?", "[1]", "['a']", "1:2", "&&", "||", "!", "count(", "(@)", "== 1",
)  # fmt: skip


@pytest.mark.parametrize(
    "grammar", [text._grammar(), expression._grammar(), reading._grammar()], ids=["text", "CESQL", "JSONPath"]
)
@given(words=st.lists(st.sampled_from(WORDS), max_size=12), between=st.sampled_from([" ", "", "  \n"]))
def test_a_text_is_read_as_by_lark_or_refused_as_by_lark(grammar: Grammar, words: list[str], between: str) -> None:
    given = between.join(words)
    try:
        expected = grammar._lark.parse(given)
    except UnexpectedInput as exc:
        with pytest.raises(type(exc)):
            grammar.parse(given)
        assert grammar._read(given) is None
    else:
        assert grammar._read(given) == expected


@pytest.mark.parametrize(
    ("grammar", "given"),
    [
        (text._grammar(), "a = 1"),
        (text._grammar(), "NOT (a = 1 AND b IN (1, 'x'))"),
        (text._grammar(), "a + 2 * b > c - 1 OR NOT EXISTS `x y`.z"),
        (text._grammar(), "x LIKE 'a%' and y NOT IN [1]"),
        (expression._grammar(), "NOT (a = 1 AND b IN (1, 'x')) OR LENGTH(c) + 1 < -d * 2"),
        (reading._grammar(), "$.a..b[?@.c == 1 && !(@ || $[1, 2:3])]..[*, 'd']"),
        (reading._grammar(), "$[?count(@.a) > length($['b'])]"),
    ],
)
def test_what_is_right_is_read_without_lark(grammar: Grammar, given: str) -> None:
    assert grammar._read(given) == grammar._lark.parse(given)
