"""The condition on one field, which is checked when it is made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson

from .operators import COMPARING, EQUATING, OPERATORS, POSITIVE, Check, Operator, any_element, at_any_depth, shown
from .paths import Path
from .values import (
    MISSING,
    MOST_TEXT,
    Result,
    Test,
    Trouble,
    as_text,
    guarded,
    inverse,
    is_number,
    kind_of,
    moment,
    wrong,
)


@dataclass(frozen=True)
class Condition:
    """A condition on one field.

    Attributes:
        value: what the operator was given: texts, numbers, booleans, null, or a tuple of those.
        case_sensitive: whether upper and lower case differ.

    """

    path: Path
    op: str
    value: Any
    case_sensitive: bool = False

    @property
    def paths(self) -> tuple[Path, ...]:
        """The path, as those who gather them want it."""
        return (self.path,)

    @property
    def text(self) -> str:
        """The condition as a text filter has it."""
        if self.op == "$exists":
            return f"{'' if self.value else 'NOT '}EXISTS {self.path}"
        shown = f"({', '.join(map(literal, self.value))})" if isinstance(self.value, tuple) else literal(self.value)
        return f"{self.path} {OPERATORS[self.op].word} {shown}"

    def as_data(self) -> dict[str, Any]:
        """Return it as a mapping filter has it."""
        value = list(self.value) if isinstance(self.value, tuple) else self.value
        return {str(self.path): {self.op: value, **({"$case_sensitive": True} if self.case_sensitive else {})}}

    def seen(self, event: Mapping[str, Any]) -> tuple[Any, list[str]]:
        """Return the value that an event has there, and the names that exist around it."""
        return self.path.value(event), self.path.around(event)

    def build(self) -> Test:
        """Return the function that tries it on an event; raise Trouble where it cannot be built."""
        get = self.path.getter()
        if self.op == "$exists":
            wanted = self.value
            return guarded(self, lambda event: (get(event) is not MISSING) is wanted)
        operator = self._operator
        check = operator.build(self.value, self.case_sensitive)
        within = at_any_depth(check) if operator.deep else any_element(check)

        def test(event: Mapping[str, Any]) -> Result:
            value = get(event)
            if value is MISSING:
                return None
            return check(value) if isinstance(value, (str, int, float)) else within(value)

        return guarded(self, (lambda event: inverse(test(event))) if self.op in POSITIVE else test)

    def check(self) -> Check:
        """Return what looks at one value; raise Trouble where the operator cannot be given this one."""
        return self._operator.build(self.value, self.case_sensitive)

    @property
    def _operator(self) -> Operator:
        return OPERATORS[POSITIVE.get(self.op, self.op)]


def condition(path: Path, op: str, value: Any, *, case_sensitive: bool = False, place: str = "") -> Condition:
    """Return a condition that can work; raise InvalidFilter that says why it cannot.

    Arguments:
        op: a name in OPERATORS.
        value: JSON, aware datetimes, or a list of those for `$in` and `$nin`.

    """
    if op in ("$in", "$nin"):
        if not isinstance(value, (list, tuple)) or not value:
            raise wrong(f"{op} takes a list of values, one at least", place)
        given = tuple(_plain(each, op, place) for each in value)
    elif op == "$exists":
        if not isinstance(value, bool):
            raise wrong(f"$exists takes true or false, not {shown(value)}", place)
        return Condition(path, op, value)
    else:
        given = (_plain(value, op, place),)
    _check_attribute(path, op, given, place)
    matters = case_sensitive and op != "$cidr" and any(isinstance(each, str) for each in given)
    made = Condition(path, op, given if op in ("$in", "$nin") else given[0], matters)
    if op in EQUATING:
        return made
    try:
        made.check()
    except Trouble as exc:
        raise wrong(f"{op}: {exc}", place) from None
    return made


def literal(value: Any) -> str:
    """Return a value as a text filter has it."""
    if isinstance(value, str):
        return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
    return orjson.dumps(value).decode()


def _plain(value: Any, op: str, place: str) -> Any:
    """Return a value that a condition can be given, as JSON."""
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise wrong(f"{op}: {value.isoformat()} has no time zone; use an aware datetime", place)
        return as_text(value)
    if isinstance(value, str) and value.isascii() and len(value) <= MOST_TEXT:
        return value
    if value is not None and not isinstance(value, (str, int, float)):
        hint = "; write $in for one of several" if isinstance(value, (list, tuple)) else ""
        raise wrong(f"{op} takes a text, a number, true, false or null, not {shown(value)}{hint}", place)
    try:
        finite = orjson.dumps(value) != b"null" or value is None
    except TypeError:  # an integer beyond 64 bits, or half a character
        finite = False
    if not finite:
        raise wrong(f"{op}: {shown(value)} is nothing that an event can have", place)
    if isinstance(value, str) and len(value.encode()) > MOST_TEXT:
        raise wrong(f"{op}: a text of more than {MOST_TEXT:,} bytes is too long", place)
    return value


def _check_attribute(path: Path, op: str, values: tuple[Any, ...], place: str) -> None:
    """Refuse a comparison with an attribute of the envelope that could never be true."""
    kind = path.attribute
    if kind is None:
        return
    if op not in COMPARING:
        if kind is int:
            raise wrong(f"{path} is a number, and {op} looks at texts", place)
        return
    for value in values:
        if kind is int and not is_number(value):
            elsewhere = f"payload.{path.names[0]}"
            raise wrong(f"{path} is a number, never {shown(value)}; write {elsewhere} for the payload's field", place)
        if kind is not int and not isinstance(value, str):
            raise wrong(f"{path} is {kind_of('')}, never {shown(value)}; write texts in quotes", place)
        if kind is datetime and moment(value) is None:
            raise wrong(f"{path} is a date; {shown(value)} is none, or has no time zone: 2026-01-31T09:30:00Z", place)
