"""CESQL 1.0: expressions on attributes, with the casts of its specification."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline import InvalidFilter
from pipeline.agents.filters import parse
from tests.filters import event, result

ATTRIBUTES = {"hop": "5", "ttl": 10, "flag": True, "firstname": "Ada", "subject": "a%b_c"}


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("hop < ttl", True),
        ("INT(hop) < int(ttl) and int(hop) < 1000", True),
        ("hop = 5", True),
        ("hop = 6", False),
        ("5 = hop", True),
        ("firstname = 'Ada'", True),
        ('firstname = "ada"', False),
        ("firstname != 'Ada'", False),
        ("firstname <> 'Bob'", True),
        ("flag = TRUE", True),
        ("flag = 'true'", True),
        ("flag = 'TRUE'", False),
        ("flag AND NOT (hop = 6)", True),
        ("NOT flag", False),
        ("hop = 6 OR flag", True),
        ("flag XOR hop = 5", False),
        ("hop = 5 OR flag AND hop = 6", False),
        ("hop = 5 OR (flag AND hop = 6)", True),
        ("EXISTS firstname", True),
        ("EXISTS lastname", False),
        ("NOT EXISTS lastname", True),
        ("EXISTS SOURCE", True),
        ("firstname LIKE 'A%'", True),
        ("firstname LIKE 'a%'", False),
        ("firstname NOT LIKE '_d_'", False),
        (r"subject LIKE 'a\%b\_c'", True),
        (r"subject LIKE 'a\%b\_d'", False),
        ("hop LIKE '_'", True),
        ("hop IN (1, 2, 5)", True),
        ("firstname IN ('Bob', 'Ada')", True),
        ("firstname NOT IN ('Bob', 'Ada')", False),
        ("ttl IN ('10', '11')", True),
        ("hop + ttl * 2 = 25", True),
        ("(hop + ttl) * 2 = 30", True),
        ("ttl - hop - 1 = 4", True),
        ("-7 / 2 + hop = 2", True),
        ("-7 % 2 + hop = 4", True),
        ("-hop = -5", True),
        ("hop + +5 = 10", True),
        ("hop > -2147483648", True),
        ("LENGTH(firstname) = 3", True),
        ("CONCAT(firstname, '-', hop) = 'Ada-5'", True),
        ("CONCAT_WS('/', firstname, hop) = 'Ada/5'", True),
        ("LOWER(firstname) = 'ada' AND UPPER(firstname) = 'ADA'", True),
        ("TRIM(CONCAT('  ', firstname)) = 'Ada'", True),
        ("LEFT(firstname, 2) = 'Ad' AND RIGHT(firstname, 2) = 'da'", True),
        ("RIGHT(firstname, 0) = '' AND LEFT(firstname, 9) = 'Ada'", True),
        ("SUBSTRING(firstname, 2) = 'da' AND SUBSTRING(firstname, -2, 1) = 'd'", True),
        ("SUBSTRING(firstname, 0) = ''", True),
        ("ABS(-3) + hop = 8", True),
        ("STRING(ttl) = '10' AND BOOL('TRUE') AND INT(TRUE) = 1", True),
        ("IS_INT(hop) AND NOT IS_INT(firstname) AND IS_BOOL(flag) AND NOT IS_BOOL(firstname)", True),
        (r"firstname != 'O\'Hara'", True),
        ("type LIKE 'alert.%' AND time LIKE '2026-%'", True),
    ],
)
def test_an_expression_is_evaluated_as_the_specification_says(expression: str, expected: bool) -> None:
    assert result({"sql": expression}, event(**ATTRIBUTES)) is expected
    assert result({"not": {"sql": expression}}, event(**ATTRIBUTES)) is not expected


@pytest.mark.parametrize(
    ("expression", "error"),
    [
        ("firstname + 1 = 2", "a text is no integer of 32 bits"),
        ("firstname AND TRUE", "a text is neither true nor false"),
        ("NOT firstname = 'Ada'", "a text is neither true nor false"),
        ("hop / 0 = 1", "a division by zero"),
        ("hop % 0 = 1", "a division by zero"),
        ("ttl * 2147483647 > 0", "a number is larger than 32 bits"),
        ("ABS(-2147483648) = hop", "a number is larger than 32 bits"),
        ("LEFT(firstname, -1) = 'A'", "a length is less than 0"),
        ("SUBSTRING(firstname, 9) = 'A'", "a position is outside of the text"),
        ("firstname", "the expression comes to a text, not to true or false"),
        ("ttl", "the expression comes to a number, not to true or false"),
    ],
)
def test_an_error_is_no_match_and_neither_is_its_negation(expression: str, error: str) -> None:
    assert result({"sql": expression}, event(**ATTRIBUTES)) == error
    assert result({"not": {"sql": expression}}, event(**ATTRIBUTES)) == error


@pytest.mark.parametrize(
    "expression", ["lastname = 'x'", "lastname != 'x'", "lastname LIKE '%'", "NOT (lastname = 'x')"]
)
def test_a_missing_attribute_is_not_false(expression: str) -> None:
    assert result({"sql": expression}, event(**ATTRIBUTES)) is None
    assert result({"sql": f"{expression} OR TRUE"}, event(**ATTRIBUTES)) is None


def test_what_is_short_circuited_cannot_err() -> None:
    assert result({"sql": "hop = 6 AND 1 / 0 = 1"}, event(**ATTRIBUTES)) is False
    assert result({"sql": "hop = 5 OR lastname = 'x'"}, event(**ATTRIBUTES)) is True
    assert result({"sql": "hop = 5 AND 1 / 0 = 1"}, event(**ATTRIBUTES)) == "a division by zero"


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("", "an empty text says nothing"),
        ("ABC(", "CESQL, character 5, the end: the expression ends too early"),
        ("id LIKE 123", "CESQL, character 9, '123': this is not expected here"),
        ("id = 2147483648", "character 6, '2147483648': an integer has at most 32 bits"),
        ("LENGHT(id) = 1", "unknown function of CESQL 'LENGHT'; did you mean 'LENGTH'?"),
        ("LENGTH(id, id) = 1", "LENGTH does not take 2 arguments"),
        ("data.a = 1", "this is not expected here"),
        ("data = 1", "'data' is no CloudEvents attribute"),
        ("+id = 1", "a + belongs before a number"),
        ("TRUE", "looks at no attribute, and is the same for every event"),
        ("id IN ()", "this is not expected here"),
        ("NOT " * 30 + "(id = 1)", "more than 16 deep"),
        ("x" * 5000, "5,000 bytes is too long"),
    ],
)
def test_a_mistake_is_found_where_it_is_declared(expression: str, message: str) -> None:
    with pytest.raises(InvalidFilter) as caught:
        parse({"sql": expression})
    assert message in str(caught.value)


def test_an_expression_knows_its_attributes() -> None:
    found = parse({"sql": "hop < ttl AND EXISTS HOP"})
    assert [str(path) for path in found.paths] == ["event.hop", "event.ttl"]
    (explained,) = found.explain(event(**ATTRIBUTES))
    assert explained.value == {"hop": "5", "ttl": 10}


def test_values_of_other_types_are_texts() -> None:
    values: dict[str, Any] = {"big": 2**40, "half": 0.5}
    assert result({"sql": "big = '1099511627776' AND half = '0.5'"}, event(**values)) is True
