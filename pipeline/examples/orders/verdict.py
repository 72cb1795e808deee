"""What the services' books say about orders: whether anything was done twice, forgotten, or undone in a wrong order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from .services import Effect

#: What is done for an order, and by what each of that is undone; a parcel that is on its way is not.
STEPS = ("create", "reserve", "pay", "complete")
UNDONE_BY = {"create": "cancel", "reserve": "release", "pay": "refund"}


@dataclass(frozen=True)
class Verdict:
    """What the books say.

    Attributes:
        delivered, undone: the orders of which all was done, and of which all that was done was undone.
        twice: what was done more than once, such as "pay of 7 (2 times)".
        forgotten: what was neither done to the end nor undone, or undone without having been done.
        backwards: the orders that were not undone in the reverse order.
        done: how many effects there are.
        asked_again: how many of them were asked for more than once, and done once all the same.

    """

    delivered: Sequence[str]
    undone: Sequence[str]
    twice: Sequence[str]
    forgotten: Sequence[str]
    backwards: Sequence[str]
    done: int
    asked_again: int

    @property
    def is_good(self) -> bool:
        """Whether there is nothing to complain of."""
        return not (self.twice or self.forgotten or self.backwards)


def judge(orders: Iterable[str], effects: Sequence[Effect]) -> Verdict:
    """Return what the books say about some orders; effects stand in the order in which they were made."""
    done: dict[str, list[str]] = {order: [] for order in orders}
    for effect in effects:
        done[effect.order_id].append(effect.what)
    delivered = [order for order, whats in done.items() if "complete" in whats]
    undone = [order for order, whats in done.items() if order not in delivered and whats and not _left(whats)]
    return Verdict(
        delivered=delivered,
        undone=undone,
        twice=[f"{what} of {order} ({times} times)" for order, whats in done.items() for what, times in _many(whats)],
        forgotten=[f"{what} of {order}" for order, whats in done.items() for what in _missing(whats)],
        backwards=[order for order, whats in done.items() if not _is_reversed(whats)],
        done=len(effects),
        asked_again=sum(effect.asked > 1 for effect in effects),
    )


def sold(orders: Mapping[str, tuple[str, int]], delivered: Iterable[str]) -> Counter[str]:
    """Return how many pieces of each product were delivered; of each order its product and its pieces are given."""
    found: Counter[str] = Counter()
    for order in delivered:
        product, pieces = orders[order]
        found[product] += pieces
    return found


def _many(whats: Sequence[str]) -> Iterable[tuple[str, int]]:
    return ((what, times) for what, times in Counter(whats).items() if times > 1)


def _left(whats: Sequence[str]) -> list[str]:
    """Return the undoing that is missing of an order that is not delivered."""
    return [undo for step, undo in UNDONE_BY.items() if step in whats and undo not in whats]


def _missing(whats: Sequence[str]) -> list[str]:
    """Return what should have been done, and what should not have been undone."""
    if not whats:
        return list(STEPS)
    if "complete" in whats:
        return [step for step in STEPS if step not in whats] + [what for what in whats if what in UNDONE_BY.values()]
    return _left(whats) + [step for step, undo in UNDONE_BY.items() if undo in whats and step not in whats]


def _is_reversed(whats: Sequence[str]) -> bool:
    """Say whether what was undone was undone in the reverse order, and after all that was done."""
    steps = [UNDONE_BY[what] for what in whats if what in UNDONE_BY]
    undoing = [what for what in whats if what in UNDONE_BY.values()]
    return not undoing or (list(whats[-len(undoing) :]) == undoing == steps[::-1])
