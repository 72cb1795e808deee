"""What conditions of a query are made of: comparisons, and the functions of RFC 9535, with patterns on RE2."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from ..values import Trouble, compiled
from .walk import NOTHING, Finds, Says

_ORDERS: Mapping[str, Callable[[Any, Any], bool]] = {"<": operator.lt, ">": operator.gt}


def joined(sign: str, several: Sequence[Says]) -> Says:
    """Return `&&` or `||` of some conditions."""
    decisive = sign == "||"

    def says(value: Any, root: Any) -> bool:
        for each in several:
            if each(value, root) is decisive:
                return decisive
        return not decisive

    return says


def compared(sign: str, left: Finds, right: Finds) -> Says:
    """Return a comparison of two values, either of which may be nothing."""
    if sign == "==":
        return lambda value, root: _equal(left(value, root), right(value, root))
    if sign == "!=":
        return lambda value, root: not _equal(left(value, root), right(value, root))
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


class Function(NamedTuple):
    """A function that a condition may call.

    Attributes:
        call: what it does with its arguments.
        takes: how many there are.
        nodes: whether they are all that a query selects, rather than values.
        logical: whether it is true or false, and so a condition; what others return is compared.

    """

    call: Callable[..., Any]
    takes: int
    nodes: bool = False
    logical: bool = False


def _length(value: Any) -> Any:
    return len(value) if isinstance(value, (str, Mapping, Sequence)) else NOTHING


def _count(nodes: Iterable[Any]) -> int:
    return sum(1 for _ in nodes)


def _value(nodes: Iterable[Any]) -> Any:
    found = list(nodes)
    return found[0] if len(found) == 1 else NOTHING


def _match(value: Any, pattern: Any) -> bool:
    return isinstance(value, str) and isinstance(pattern, str) and _on_re2(pattern).matches(value)


def _search(value: Any, pattern: Any) -> bool:
    return isinstance(value, str) and isinstance(pattern, str) and _on_re2(pattern).found(value)


def _on_re2(pattern: str) -> Any:
    try:
        return compiled(pattern)
    except Trouble:  # the pattern may be the event's: errors are the same for all events
        raise Trouble("RE2 refuses the regular expression of match() or search()", pattern) from None


FUNCTIONS: Mapping[str, Function] = {
    "count": Function(_count, 1, nodes=True),
    "length": Function(_length, 1),
    "match": Function(_match, 2, logical=True),
    "search": Function(_search, 2, logical=True),
    "value": Function(_value, 1, nodes=True),
}
