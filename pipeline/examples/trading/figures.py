"""What a session's records say, as pure functions: what overtook what, and what was lost or done twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from .book import Handled


def overtaken(published: Sequence[str], handled: Sequence[str], event: str) -> int:
    """Return how many events were published before one and handled after it.

    Arguments:
        published: the ids of events in the order in which they were published.
        handled: the ids in the order in which their handling was begun; of one that was tried again the first counts.

    """
    before = set(published[: published.index(event)])
    order = list(dict.fromkeys(handled))
    return sum(other in before for other in order[order.index(event) + 1 :])


def ahead(published: Sequence[str], handled: Sequence[Handled], urgent: str, routine: str) -> int:
    """Return how many events of one type have overtaken at least one of another."""
    types = {one.event: one.type for one in handled}
    found = 0
    for event in (event for event, type in types.items() if type == urgent):
        some = [other for other in published if other == event or types.get(other) == routine]
        found += overtaken(some, [one.event for one in handled if one.event in some], event) > 0
    return found


def tally(ends: Iterable[tuple[str, str, str]]) -> dict[str, dict[str, dict[str, int]]]:
    """Return for each agent, and each type of event, how many deliveries ended how."""
    found: dict[str, dict[str, dict[str, int]]] = {}
    for (agent, type, outcome), number in sorted(Counter(ends).items()):
        found.setdefault(agent, {}).setdefault(type, {})[outcome] = number
    return found


def twice(handled: Iterable[Handled]) -> list[str]:
    """Return the deliveries that were handled more than once."""
    return [delivery for delivery, times in Counter(one.delivery for one in handled).items() if times > 1]


def most_at_once(handled: Iterable[Handled]) -> int:
    """Return how many events were handled at once, at most."""
    return max((one.at_once for one in handled), default=0)


def positions(changes: Iterable[tuple[str, int]]) -> Mapping[str, int]:
    """Return what the desk owns by what was filled, symbol by symbol; what is nothing is left out."""
    found: Counter[str] = Counter()
    for symbol, change in changes:
        found[symbol] += change
    return {symbol: owned for symbol, owned in sorted(found.items()) if owned}
