"""The types and the functions of CESQL 1.0 (sections 3.5 and 3.7)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..values import Trouble

#: CESQL's integers have 32 bits.
LEAST, MOST = -(2**31), 2**31 - 1
_INTEGER = re.compile(r"[+-]?[0-9]{1,20}")


@dataclass(frozen=True)
class Function:
    """One function.

    Attributes:
        fewest, most: how many arguments it takes.

    """

    call: Callable[..., Any]
    fewest: int = 1
    most: int = 1


def integer(value: Any) -> int:
    """Return a value cast to an integer; raise Trouble when it is none."""
    if isinstance(value, int):
        return int(value)
    if _INTEGER.fullmatch(value) and LEAST <= int(value) <= MOST:
        return int(value)
    raise Trouble("a text is no integer of 32 bits", value)


def boolean(value: Any) -> bool:
    """Return a value cast to a boolean; raise Trouble when it is none."""
    if isinstance(value, int):
        return bool(value)
    if value.lower() in ("true", "false"):
        return bool(value.lower() == "true")
    raise Trouble("a text is neither true nor false", value)


def string(value: Any) -> str:
    """Return a value cast to a text."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _is(cast: Callable[[Any], Any]) -> Callable[[Any], bool]:
    def check(value: Any) -> bool:
        try:
            cast(value)
        except Trouble:
            return False
        return True

    return check


def _absolute(value: Any) -> int:
    number = integer(value)
    if number == LEAST:
        raise Trouble("a number is larger than 32 bits")
    return abs(number)


def _length(value: Any) -> int:
    return len(string(value))


def _joined(*values: Any) -> str:
    return "".join(map(string, values))


def _joined_with(separator: Any, *values: Any) -> str:
    return string(separator).join(map(string, values))


def _left(value: Any, length: Any) -> str:
    return string(value)[: _counted(length)]


def _right(value: Any, length: Any) -> str:
    text = string(value)
    return text[max(0, len(text) - _counted(length)) :]


def _counted(length: Any) -> int:
    number = integer(length)
    if number < 0:
        raise Trouble("a length is less than 0")
    return number


def _substring(value: Any, position: Any, length: Any = MOST) -> str:
    text, start, size = string(value), integer(position), _counted(length)
    if abs(start) > len(text):
        raise Trouble("a position is outside of the text")
    if start == 0:
        return ""
    first = start - 1 if start > 0 else len(text) + start
    return text[first : first + size]


def _trimmed(value: Any) -> str:
    return string(value).strip()


FUNCTIONS: Mapping[str, Function] = {
    "ABS": Function(_absolute),
    "BOOL": Function(boolean),
    "CONCAT": Function(_joined, 0, MOST),
    "CONCAT_WS": Function(_joined_with, 1, MOST),
    "INT": Function(integer),
    "IS_BOOL": Function(_is(boolean)),
    "IS_INT": Function(_is(integer)),
    "LEFT": Function(_left, 2, 2),
    "LENGTH": Function(_length),
    "LOWER": Function(lambda value: string(value).lower()),
    "RIGHT": Function(_right, 2, 2),
    "STRING": Function(string),
    "SUBSTRING": Function(_substring, 2, 3),
    "TRIM": Function(_trimmed),
    "UPPER": Function(lambda value: string(value).upper()),
}
