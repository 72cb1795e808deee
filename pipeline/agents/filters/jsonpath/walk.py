"""Whether a query selects something: in steps of our own where it is simple, which is some ten times faster.

Simple are names, indices and wildcards, and conditions that compare them or ask whether they are there. The library
reads every query, and goes through events with all others: slices, `..`, functions.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from jsonpath import JSONPath
from jsonpath.filter import (
    FilterExpression,
    FilterExpressionLiteral,
    FilterQuery,
    InfixExpression,
    Nil,
    PrefixExpression,
    RegexLiteral,
    RelativeFilterQuery,
    RootFilterQuery,
)
from jsonpath.segments import JSONPathChildSegment
from jsonpath.selectors import Filter, IndexSelector, NameSelector, WildcardSelector

#: Says whether something is selected, or a condition met; asked with a value, and the root of all.
Says = Callable[[Any, Any], bool]
#: Finds a value, or NOTHING, from a value and the root of all.
Finds = Callable[[Any, Any], Any]

NOTHING = object()
_ORDERS: Mapping[str, Callable[[Any, Any], bool]] = {"<": operator.lt, ">": operator.gt}


class NotSimple(Exception):
    """A query is the library's to go through."""


def selects(query: JSONPath) -> Callable[[Any], bool]:
    """Return what says whether a query selects something in a value; it may raise JSONPathError."""
    try:
        says = along(query)
    except NotSimple:
        return lambda value: next(iter(query.finditer(value)), None) is not None
    return lambda value: says(value, value)


def along(query: JSONPath) -> Says:
    """Return what says whether a query selects something, in steps of our own; raise NotSimple where it cannot."""
    says: Says = lambda value, root: True  # noqa: E731  # where there is no further step, something is selected
    for segment in reversed(query.segments):
        if type(segment) is not JSONPathChildSegment:
            raise NotSimple
        says = _either([_selected(selector, says) for selector in segment.selectors])
    return says


def _either(several: Sequence[Says]) -> Says:
    if len(several) == 1:
        return several[0]
    return lambda value, root: any(says(value, root) for says in several)


def _selected(selector: Any, further: Says) -> Says:
    """Return what goes on with what a selector selects."""
    if isinstance(selector, (NameSelector, IndexSelector)):
        step = _step(selector)

        def says(value: Any, root: Any) -> bool:
            inner = step(value, root)
            return inner is not NOTHING and further(inner, root)

        return says
    if isinstance(selector, WildcardSelector):
        return lambda value, root: any(further(inner, root) for inner in _inner(value))
    if isinstance(selector, Filter):
        meets = _condition(selector.expression)
        return lambda value, root: any(meets(inner, root) and further(inner, root) for inner in _inner(value))
    raise NotSimple


def _step(selector: Any) -> Finds:
    """Return what follows a name or an index."""
    if isinstance(selector, IndexSelector):
        index = selector.index

        def at(value: Any, root: Any) -> Any:
            return value[index] if _is_array(value) and -len(value) <= index < len(value) else NOTHING

        return at
    name = selector.name

    def of(value: Any, root: Any) -> Any:
        return value.get(name, NOTHING) if type(value) is dict or isinstance(value, Mapping) else NOTHING

    return of


def _inner(value: Any) -> Iterable[Any]:
    if isinstance(value, Mapping):
        return value.values()
    return value if _is_array(value) else ()


def _is_array(value: Any) -> bool:
    return type(value) is list or (isinstance(value, Sequence) and not isinstance(value, str))


# -- conditions


def _condition(expression: Any) -> Says:
    """Return what says whether a condition is met."""
    match expression:
        case FilterExpression():
            return _condition(expression.expression)
        case PrefixExpression(operator="!"):
            inner = _condition(expression.right)
            return lambda value, root: not inner(value, root)
        case InfixExpression(operator="&&" | "||" as sign):
            return _joined(sign, _condition(expression.left), _condition(expression.right))
        case InfixExpression():
            return _compared(expression.operator, _operand(expression.left), _operand(expression.right))
        case RelativeFilterQuery() if expression.path.segments:
            return along(expression.path)
        case RootFilterQuery():
            says = along(expression.path)
            return lambda value, root: says(root, root)
    raise NotSimple


def _joined(sign: str, one: Says, other: Says) -> Says:
    if sign == "&&":
        return lambda value, root: one(value, root) and other(value, root)
    return lambda value, root: one(value, root) or other(value, root)


def _operand(expression: Any) -> Finds:
    """Return what finds a side of a comparison."""
    if isinstance(expression, Nil):
        return lambda value, root: None
    if isinstance(expression, FilterExpressionLiteral) and not isinstance(expression, RegexLiteral):
        literal = expression.value
        return lambda value, root: literal
    if not isinstance(expression, FilterQuery) or not expression.path.singular_query():
        raise NotSimple
    steps = [_step(segment.selectors[0]) for segment in expression.path.segments]
    if isinstance(expression, RootFilterQuery):
        return lambda value, root: _last(steps, root)
    if not isinstance(expression, RelativeFilterQuery):
        raise NotSimple
    if not steps:
        return lambda value, root: value
    return steps[0] if len(steps) == 1 else lambda value, root: _last(steps, value)


def _last(steps: Sequence[Finds], value: Any) -> Any:
    for step in steps:
        value = step(value, None)
        if value is NOTHING:
            break
    return value


def _compared(sign: str, left: Finds, right: Finds) -> Says:
    """Return a comparison of two values, either of which may be nothing."""
    if sign == "==":
        return lambda value, root: _equal(left(value, root), right(value, root))
    if sign == "!=":
        return lambda value, root: not _equal(left(value, root), right(value, root))
    if sign not in ("<", ">", "<=", ">="):
        raise NotSimple
    compare, or_equal = _ORDERS[sign[0]], sign.endswith("=")

    def says(value: Any, root: Any) -> bool:
        one, other = left(value, root), right(value, root)
        return (_have_order(one, other) and compare(one, other)) or (or_equal and _equal(one, other))

    return says


def _equal(one: Any, other: Any) -> bool:
    """Say whether two values are equal; a boolean is no number, which Python sees differently."""
    if one is NOTHING or other is NOTHING:
        return one is other
    if isinstance(one, bool) is not isinstance(other, bool):
        return False
    return bool(one == other)


def _have_order(one: Any, other: Any) -> bool:
    return (isinstance(one, str) and isinstance(other, str)) or (
        isinstance(one, (int, float)) and isinstance(other, (int, float))
    )
