"""Choreographies: nobody says what follows what; one has ended when all that its first event has caused is done.

That is what `settle` asks, by one look at the whole tree. What has settled stays so: only a delivery, a timer or a flow
of the tree can add to it, and none is open. So the look needs no lock, and whoever ends it needs no second one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import select

from ...core.errors import UnknownEvent
from ...core.event import Encoded
from ...core.outcome import Outcome
from ...core.times import SECOND
from ...history.settle import settled
from ...history.trace import trace
from ...ledger.aside import read
from ...ledger.database.rows import chunks
from ...ledger.database.tables import events
from ...ledger.flows.rows import COMPLETED, FAILED
from ...ledger.ledger import Ledger
from ..graphs.flow import Definition, End
from ..graphs.plan import DEADLINE, Clocks

#: Seconds between two looks: a share of the time that it has gone on, but no less and no more than these.
SHARE, SHORTEST, LONGEST = 0.1, 0.2, 10.0


@dataclass(frozen=True, slots=True)
class Looked:
    """What a look at a choreography has found.

    Attributes:
        is_done: whether all that its first event has caused is done.
        results: the data of the last event that each of those who take part has emitted.
        errors: what those were given up for that are dead.

    """

    is_done: bool
    results: dict[str, Any]
    errors: dict[str, str]

    def end(self, *, is_over: bool) -> End | None:
        """Return how it ends; None when it goes on.

        Arguments:
            is_over: whether its time is over.

        """
        if self.is_done and not self.errors:
            return End(COMPLETED, "all that it has caused is done")
        if self.is_done:
            first = next(iter(self.errors.items()))
            return End(FAILED, f"{len(self.errors)} of those who took part have failed: {first[0]}: {first[1]}")
        return End(FAILED, "its time is over; what it has caused goes on") if is_over else None


def watch(ledger: Ledger, definition: Definition, *, briefly: bool = False) -> Looked:
    """Look at a choreography.

    Arguments:
        briefly: whether nothing but that is asked for while it is not done.

    """
    assert definition.watched is not None
    try:
        is_done = bool(settled(ledger, definition.watched))
        if briefly and not is_done:
            return Looked(False, {}, {})
        tree = trace(ledger, definition.watched)
    except UnknownEvent:  # pruned: then nothing of it is open
        return Looked(True, {}, {})
    emitters = {one.id: one for event in tree for one in event.deliveries if one.agent in definition.participants}
    last = {emitters[event.delivery].agent: event.id for event in tree if event.delivery in emitters}
    errors = {one.agent: one.error or "" for one in emitters.values() if one.outcome is Outcome.DEAD}
    data = _data(ledger, list(last.values()))
    return Looked(is_done, {agent: data.get(id) for agent, id in last.items()}, errors)


def _data(ledger: Ledger, ids: list[str]) -> dict[str, Any]:
    """Return the data of events."""
    found = {}
    with ledger.database.reading() as connection:
        for some in chunks(ids):
            for row in connection.execute(select(events.c.id, events.c.body).where(events.c.id.in_(some))):
                one = read(row.id, row.body)
                found[row.id] = one.event.data if isinstance(one, Encoded) else None
    return found


def next_look(started: int, at: int, clocks: Clocks) -> int:
    """Return when one is to be looked at again (microseconds).

    Arguments:
        started: when it has started.
        at: now.

    """
    pause = min(max((at - started) / SECOND * SHARE, SHORTEST), LONGEST)
    return min(at + round(pause * SECOND), clocks.get(DEADLINE, at + round(LONGEST * SECOND)))
