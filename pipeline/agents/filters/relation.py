"""Conditions on two fields, and on what is computed from fields: `volume > 1.5 * average`."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from .conditions import literal
from .paths import Path
from .values import (
    MISSING,
    ORDINALS,
    Absent,
    Result,
    Test,
    Trouble,
    folded,
    guarded,
    inverse,
    is_number,
    kind_of,
    moment,
    whole,
)

Value = Callable[[Mapping[str, Any]], Any]


@dataclass(frozen=True)
class Field:
    """The value of a field."""

    path: Path

    @property
    def text(self) -> str:
        """The path."""
        return str(self.path)

    def parts(self) -> Iterator[Path]:
        """Go through the paths in it."""
        yield self.path

    def build(self) -> Value:
        """Return the function that finds the value in an event; it raises Absent."""
        get = self.path.getter()

        def value(event: Mapping[str, Any]) -> Any:
            found = get(event)
            if found is None or found is MISSING:
                raise Absent
            return found

        return value


@dataclass(frozen=True)
class Constant:
    """A number, a text, true, false or null."""

    value: Any

    @property
    def text(self) -> str:
        """The value as it is written."""
        return literal(self.value)

    def parts(self) -> Iterator[Path]:
        """Go through no path."""
        return iter(())

    def build(self) -> Value:
        """Return the function that is the value."""
        value = self.value
        return lambda event: value


@dataclass(frozen=True)
class Arithmetic:
    """Numbers that are computed from left to right.

    Attributes:
        first: the first of them.
        rest: signs out of `+ - * /` with what follows each.

    """

    first: Expression
    rest: tuple[tuple[str, Expression], ...]

    @property
    def text(self) -> str:
        """The computation as it is written, with parentheses around every inner one."""
        return " ".join((_inner(self.first), *(f"{sign} {_inner(each)}" for sign, each in self.rest)))

    def parts(self) -> Iterator[Path]:
        """Go through the paths in it."""
        yield from self.first.parts()
        for _, each in self.rest:
            yield from each.parts()

    def build(self) -> Value:
        """Return the function that computes it from an event; it raises Absent, and Trouble."""
        first = self.first.build()
        rest = [(_SIGNS[sign], each.build()) for sign, each in self.rest]

        def value(event: Mapping[str, Any]) -> Any:
            total = _number(first(event))
            for compute, each in rest:
                try:
                    total = compute(total, _number(each(event)))
                except ZeroDivisionError:
                    raise Trouble("a division by zero") from None
                except OverflowError:
                    raise Trouble("a number is too large") from None
            return total

        return value


@dataclass(frozen=True)
class Relation:
    """A comparison of two values, one of which at least comes from the event."""

    left: Expression
    op: str
    right: Expression
    case_sensitive: bool = field(default=False)

    @property
    def paths(self) -> tuple[Path, ...]:
        """The paths on both sides."""
        return (*self.left.parts(), *self.right.parts())

    @property
    def text(self) -> str:
        """The comparison as a text filter has it."""
        return f"{self.left.text} {_WORDS[self.op]} {self.right.text}"

    def as_data(self) -> dict[str, Any]:
        """Return it as a mapping filter has it."""
        return {"$expr": self.text, **({"$case_sensitive": True} if self.case_sensitive else {})}

    def seen(self, event: Mapping[str, Any]) -> tuple[Any, list[str]]:
        """Return the values of its fields, and the names that exist around the first that is missing, or the first."""
        values = {str(path): path.value(event) for path in self.paths}
        at = next((path for path in self.paths if values[str(path)] is None), self.paths[0])
        return values, at.around(event)

    def build(self) -> Test:
        """Return the function that tries it on an event."""
        left, right, negated = self.left.build(), self.right.build(), self.op == "$ne"
        compare = _COMPARE["$eq" if negated else self.op]
        fold = whole if self.case_sensitive else folded

        def test(event: Mapping[str, Any]) -> Result:
            one, other = left(event), right(event)
            if isinstance(one, (list, tuple)) or isinstance(other, (list, tuple)):
                result = _any_pair(compare, one, other, fold)
            else:
                result = compare(*_comparable(one, other, fold, ordered=compare is not operator.eq))
            return inverse(result) if negated else result

        return guarded(self, test)


Expression = Field | Constant | Arithmetic

_SIGNS: Mapping[str, Callable[[Any, Any], Any]] = {
    "+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv,
}  # fmt: skip
_COMPARE: Mapping[str, Callable[[Any, Any], bool]] = {
    "$eq": operator.eq, "$gt": operator.gt, "$gte": operator.ge, "$lt": operator.lt, "$lte": operator.le,
}  # fmt: skip
_WORDS = {"$eq": "=", "$ne": "!=", "$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}


def _inner(expression: Expression) -> str:
    return f"({expression.text})" if isinstance(expression, Arithmetic) else expression.text


def _number(value: Any) -> Any:
    if not is_number(value):
        raise Trouble(f"{kind_of(value)} is no number to compute with", value)
    return value


def _comparable(one: Any, other: Any, fold: Callable[[Any], str], *, ordered: bool) -> tuple[Any, Any]:
    """Return two values as they are compared; raise Trouble where they have no order."""
    if is_number(one) and is_number(other):
        return one, other
    first, second = moment(one), moment(other)
    if first and second:
        return first, second
    if isinstance(one, str) and isinstance(other, str):
        ranks = ORDINALS.get(one.casefold()), ORDINALS.get(other.casefold())
        return (fold(one), fold(other)) if None in ranks else ranks
    if ordered:
        raise Trouble(f"{kind_of(one)} cannot be compared with {kind_of(other)}", [one, other])
    return (one, other) if type(one) is type(other) else (0, 1)


def _any_pair(compare: Callable[[Any, Any], bool], one: Any, other: Any, fold: Callable[[Any], str]) -> Result:
    """Compare each element of an array with the other value, or each of another; one that is true is enough."""
    trouble: Trouble | None = None
    missing = False
    for left in one if isinstance(one, (list, tuple)) else (one,):
        for right in other if isinstance(other, (list, tuple)) else (other,):
            if left is MISSING or right is MISSING or left is None or right is None:
                missing = True
                continue
            try:
                if compare(*_comparable(left, right, fold, ordered=compare is not operator.eq)):
                    return True
            except Trouble as exc:
                trouble = trouble or exc
    if trouble:
        raise trouble
    return None if missing else False
