"""Steps that are done for each item of a list: where the rows of their items are, and what the step has come to.

Of a flow with n steps the positions 0 to n - 1 are its steps, n to 2n - 1 what undoes them, and those from 2n on the
items: of step p, item i is at 2n + i * n + p. So every position says whose it is: the rest of its division by n.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence

from ...core.outcome import OPEN, Outcome
from .rows import BADLY, WELL, Step

#: Items that a step may have.
MOST_ITEMS = 10_000
_OPEN = frozenset(OPEN)
#: Without success, or given up because its time was over.
FAILED = frozenset((*BADLY, Outcome.LATE.value))


def place_of(item: int, pos: int, number: int) -> int:
    """Return the position of an item of a step.

    Arguments:
        number: how many steps the flow has.

    """
    return (2 + item) * number + pos


def is_undo(pos: int, number: int) -> bool:
    """Say whether a position is that of what undoes a step."""
    return number <= pos < 2 * number


def items_of(steps: Mapping[int, Step], number: int) -> dict[int, list[Step]]:
    """Return the rows of the items, in their order, by the position of their step."""
    found: dict[int, list[Step]] = defaultdict(list)
    for pos in sorted(pos for pos in steps if pos >= 2 * number):
        found[pos % number].append(steps[pos])
    return found


def folded(steps: Mapping[int, Step], number: int, collecting: Collection[int] = ()) -> dict[int, Step]:
    """Return the rows of a flow with one in place of all items of a step.

    Arguments:
        number: how many steps the flow has.
        collecting: the positions of those steps that go on without the items that fail.

    """
    whole = {pos: step for pos, step in steps.items() if pos < 2 * number}
    for pos, items in items_of(steps, number).items():
        whole[pos] = _folded(pos, items, collects=pos in collecting)
    return whole


def _folded(pos: int, items: Sequence[Step], *, collects: bool) -> Step:
    bad = [(item.ended or 0, number) for number, item in enumerate(items) if item.outcome.value in FAILED]
    ended = max((item.ended or 0 for item in items), default=0)
    done = [item.result if item.outcome.value in WELL else None for item in items]
    step = Step("", pos, items[0].agent, Outcome.SUCCEEDED, f"[{','.join(one or 'null' for one in done)}]", None, ended)
    if any(item.outcome in _OPEN for item in items):
        return step._replace(outcome=Outcome.RUNNING, result=None, ended=None)
    if not bad or (collects and len(bad) < len(items)):
        return step
    kept = [one for one in sorted(bad) if items[one[1]].outcome is not Outcome.DROPPED]
    at, number = (kept or sorted(bad))[0]
    first = items[number]
    has_done = any(item.outcome is Outcome.SUCCEEDED for item in items)
    told = f"item {number}: {first.error or first.outcome.value}"
    return step._replace(outcome=first.outcome, error=told, ended=at, result=step.result if has_done else None)


def needless(steps: Mapping[int, Step], number: int, collecting: Collection[int] = ()) -> list[int]:
    """Return the positions of those items that need not end any more, since another one of their step has failed."""
    found: list[int] = []
    for pos, items in items_of(steps, number).items():
        if pos not in collecting and any(item.outcome.value in FAILED for item in items):
            found += [item.pos for item in items if item.outcome in _OPEN]
    return found
