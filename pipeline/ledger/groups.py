"""Groups: what is done with many at once is done with each alone where the database takes one of them ill."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from ..core.errors import LedgerRefused, LedgerUnavailable

Found = TypeVar("Found")

#: What a driver raises for a value that it or the database does not take, however often it is asked.
CONTENT = (LedgerRefused, ValueError, TypeError, OverflowError)


def together(ids: Mapping[int, str], run: Callable[[Sequence[int]], Sequence[Any]]) -> dict[int, Any]:
    """Return what comes of running places of a group at once, or nothing when the database refuses one of them.

    Arguments:
        ids: of what is in each place. All groups run in their order: one waits for another, and not each for both.

    """
    if len(ids) < 2:
        return {}
    places = sorted(ids, key=ids.__getitem__)
    try:
        return dict(zip(places, run(places), strict=True))
    except CONTENT:
        return {}


def completed(found: Mapping[int, Found], number: int, alone: Callable[[int], Found]) -> list[Found | Exception]:
    """Return what was found for each place of a group, and for the others what `alone` returns or raises.

    A ledger that is away is not asked again: the others would wait as long for the same answer.

    Arguments:
        number: of the places.

    """
    every: list[Found | Exception] = []
    away: LedgerUnavailable | None = None
    for place in range(number):
        if place in found:
            every.append(found[place])
        elif away is not None:
            every.append(away)
        else:
            try:
                every.append(alone(place))
            except Exception as exc:
                away = exc if isinstance(exc, LedgerUnavailable) else None
                every.append(exc)
    return every
