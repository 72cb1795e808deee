"""The conditions on one field: what each operator takes, and how it looks at a value."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import Any

from .values import (
    MISSING,
    ORDINALS,
    Result,
    Trouble,
    compiled,
    folded,
    is_number,
    kind_of,
    like,
    moment,
    whole,
    wildcard,
)

#: What looks at one value, which is neither missing nor an array.
Check = Callable[[Any], bool | None]
Fold = Callable[[Any], str]


@dataclass(frozen=True)
class Operator:
    """One operator.

    Attributes:
        word: how it is written in a text.
        build: makes the check for what it is given; it raises Trouble when it cannot be given that.
        deep: whether it looks for a text at any depth of an array or an object.

    """

    word: str
    build: Callable[[Any, bool], Check]
    deep: bool = False


# -- arrays and objects


def any_element(check: Check) -> Callable[[Any], Result]:
    """Return what looks at each element of an array, one of which is enough; and at what is none."""

    def test(value: Any) -> Result:
        if not isinstance(value, (list, tuple)):
            return check(value)
        return _first_true(map(attempt, value))

    def attempt(item: Any) -> bool | Trouble | None:
        try:
            return None if item is MISSING else check(item)
        except Trouble as exc:
            return exc

    return test


def at_any_depth(check: Check) -> Callable[[Any], Result]:
    """Return what looks at each text within an array or an object, one of which is enough."""

    def test(value: Any) -> Result:
        if not isinstance(value, (list, tuple, Mapping)):
            return check(value)
        if any(check(text) for text in _texts(value)):
            return True
        return None if MISSING in value else False

    return test


def _first_true(results: Iterator[bool | Trouble | None]) -> Result:
    """Return OR of what the elements of an array come to; raise the first trouble where none is true."""
    trouble: Trouble | None = None
    missing = False
    for result in results:
        if result is True:
            return True
        if isinstance(result, Trouble):
            trouble = trouble or result
        else:
            missing = missing or result is None
    if trouble:
        raise trouble
    return None if missing else False


def _texts(value: Any) -> Iterator[str]:
    left = [value]
    while left:
        inner = left.pop()
        if isinstance(inner, str):
            yield inner
        elif isinstance(inner, Mapping):
            left.extend(inner.values())
        elif isinstance(inner, (list, tuple)):
            left.extend(inner)


def shown(value: Any) -> str:
    """Return a value as errors show it."""
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


# -- comparisons


def _equal(wanted: Any, case_sensitive: bool) -> Check:
    """Return what finds a value equal; values of different kinds never are."""
    if isinstance(wanted, bool) or wanted is None:
        return lambda value: value is wanted
    if is_number(wanted):
        return lambda value: is_number(value) and value == wanted
    when = moment(wanted)
    if when is not None:
        return lambda value: moment(value) == when
    if case_sensitive:
        return lambda value: bool(value == wanted)
    folded_one = wanted.casefold()
    return lambda value: isinstance(value, str) and value.casefold() == folded_one


def _one_of(wanted: tuple[Any, ...], case_sensitive: bool) -> Check:
    if all(isinstance(each, str) and moment(each) is None for each in wanted):
        fold: Fold = whole if case_sensitive else folded
        texts = frozenset(map(fold, wanted))
        return lambda value: isinstance(value, str) and fold(value) in texts
    checks = [_equal(each, case_sensitive) for each in wanted]
    return lambda value: any(check(value) for check in checks)


def _ordered(compare: Callable[[Any, Any], bool]) -> Callable[[Any, bool], Check]:
    def build(wanted: Any, case_sensitive: bool) -> Check:
        key, kind = _key_of(wanted, case_sensitive)
        limit = key(wanted)

        def check(value: Any) -> bool | None:
            if value is None:
                return None
            found = key(value)
            if found is None:
                raise Trouble(f"{kind_of(value)} cannot be compared with {kind}", value)
            return compare(found, limit)

        return check

    return build


def _key_of(wanted: Any, case_sensitive: bool) -> tuple[Callable[[Any], Any], str]:
    """Return what values are ordered by, and what such values are; what cannot be ordered so is None."""
    if is_number(wanted):
        return lambda value: value if is_number(value) else None, "a number"
    if not isinstance(wanted, str):
        raise Trouble(
            f"{kind_of(wanted)} has no order; compare numbers, texts, dates, or low < medium < high < critical"
        )
    if wanted.casefold() in ORDINALS:
        return lambda value: ORDINALS.get(value.casefold()) if isinstance(value, str) else None, "low ... critical"
    if moment(wanted):
        return moment, "a date"
    fold: Fold = whole if case_sensitive else folded
    return lambda value: fold(value) if isinstance(value, str) else None, "a text"


# -- texts


def _on_text(build: Callable[[str, bool], Callable[[str], bool]]) -> Callable[[Any, bool], Check]:
    """Return what makes the check of an operator on texts."""

    def outer(wanted: Any, case_sensitive: bool) -> Check:
        if not isinstance(wanted, str) or not wanted:
            raise Trouble(f"it takes a text of one character at least, not {shown(wanted)}")
        matches = build(wanted, case_sensitive)

        def check(value: Any) -> bool | None:
            if value is None:
                return None
            if not isinstance(value, str):
                raise Trouble(f"{kind_of(value)} is no text", value)
            return matches(value)

        return check

    return outer


def _folded_on_both_sides(matches: Callable[[str, str], bool]) -> Callable[[str, bool], Callable[[str], bool]]:
    def build(wanted: str, case_sensitive: bool) -> Callable[[str], bool]:
        fold: Fold = whole if case_sensitive else folded
        part = fold(wanted)
        return lambda value: matches(fold(value), part)

    return build


def _regex(pattern: str, case_sensitive: bool) -> Callable[[str], bool]:
    if grouped := ungrouped(pattern):
        raise Trouble(
            f"in {pattern!r} `^` belongs to the first alternative alone and `$` to the last; write {grouped!r}"
        )
    return compiled(pattern, case_sensitive=case_sensitive).found


def ungrouped(pattern: str) -> str | None:
    """Return a pattern with its alternatives in a group, where but the outer two have an anchor, of one side each."""
    if not (pattern.startswith("^") and pattern.endswith("$")) or pattern.endswith("\\$"):
        return None
    depth = bars = 0
    position, in_class = 1, False
    while position < len(pattern) - 1:
        character = pattern[position]
        if character == "\\":
            position += 1
        elif in_class:
            in_class = character != "]"
        elif character in "[()":
            in_class = character == "["
            depth += {"(": 1, ")": -1}.get(character, 0)
        elif character == "|" and depth == 0:
            if pattern[position - 1] == "$" or pattern[position + 1] == "^":
                return None
            bars += 1
        position += 1
    return f"^({pattern[1:-1]})$" if bars else None


def _cidr(wanted: str, case_sensitive: bool) -> Callable[[str], bool]:
    try:
        network = ip_network(wanted)
    except ValueError as exc:
        raise Trouble(f"{exc}; write a network such as 10.0.0.0/8") from None

    def matches(value: str) -> bool:
        try:
            return ip_address(value) in network
        except ValueError:
            raise Trouble("the text is no IP address", value) from None

    return matches


OPERATORS: Mapping[str, Operator] = {
    "$eq": Operator("=", _equal),
    "$ne": Operator("!=", _equal),
    "$gt": Operator(">", _ordered(operator.gt)),
    "$gte": Operator(">=", _ordered(operator.ge)),
    "$lt": Operator("<", _ordered(operator.lt)),
    "$lte": Operator("<=", _ordered(operator.le)),
    "$in": Operator("IN", _one_of),
    "$nin": Operator("NOT IN", _one_of),
    "$exists": Operator("EXISTS", _equal),
    "$prefix": Operator("PREFIX", _on_text(_folded_on_both_sides(str.startswith))),
    "$suffix": Operator("SUFFIX", _on_text(_folded_on_both_sides(str.endswith))),
    "$contains": Operator("CONTAINS", _on_text(_folded_on_both_sides(operator.contains)), deep=True),
    "$wildcard": Operator("WILDCARD", _on_text(lambda text, case: wildcard(text, case_sensitive=case).matches)),
    "$like": Operator("LIKE", _on_text(lambda text, case: like(text, case_sensitive=case).matches)),
    "$regex": Operator("MATCHES", _on_text(_regex), deep=True),
    "$cidr": Operator("CIDR", _on_text(_cidr)),
}
#: Operators that compare with values, which are of the kind that an attribute has.
COMPARING = frozenset({"$eq", "$ne", "$gt", "$gte", "$lt", "$lte", "$in", "$nin"})
#: Those that can be given every value, so that nothing is tried to find out.
EQUATING = frozenset({"$eq", "$ne", "$in", "$nin"})
#: What operators are the negation of.
POSITIVE: Mapping[str, str] = {"$ne": "$eq", "$nin": "$in"}
