"""Reconciliation: which events should have reached an agent, by what it listens to, and have no delivery there.

Each agent has a cursor in the log. Whatever lies behind the cursor has a delivery row for each agent that should have
the event; what is found missing gets one that says it waits. A new agent's cursor starts where it wants to hear from.
What the filter of no version wants, and what is not to be recorded either, has no row, and needs none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Row, select, update

from ..core.ids import delivery_id
from ..core.routing import needs_receiver, receivers, targets_of
from ..core.times import now
from .aside import Bad, SetAside
from .database.database import Database
from .database.leases import clock, in_seconds, locked
from .database.rows import chunks, unrouted_id
from .database.tables import agents, deliveries, events
from .deliveries import Deliveries
from .log import Position, after, stable
from .subscribers import Asked, Patterns, Subscribers, listener_of, patterns_of

#: Events looked at in one transaction.
BATCH = 2000
_ORDER = (events.c.tx, events.c.seq)
_EVENTS = select(*_ORDER, *(events.c[name] for name in ("id", "type", "targets", "recorded", "replay")))


class Reconciliation:
    """Looks behind the agents' cursors."""

    def __init__(self, database: Database, deliveries: Deliveries, aside: SetAside, subscribers: Subscribers) -> None:
        self._database = database
        self._subscribers = subscribers
        self._aside = aside
        self._deliveries = deliveries

    def check(self, after: float) -> int:
        """Move the agents' cursors on by at most BATCH events each; return how many events were looked at.

        Arguments:
            after: seconds that an event has to reach its agents by itself.

        """
        return self._database.run(lambda connection: self._check(connection, after))

    def _check(self, connection: Connection, after: float) -> int:
        rows = self._readable(connection, connection.execute(locked(select(agents).order_by(agents.c.name))).all())
        # Also those that another worker looks after now: what is for them has somebody who wants it.
        everyone = Subscribers.read(connection)
        groups: dict[Position, list[Row[Any]]] = {}
        for row in rows:
            groups.setdefault((row.tx, row.seq), []).append(row)
        number = 0
        for position, members in groups.items():
            passed = self._after(connection, position, in_seconds(-after), members)
            if not passed:
                continue
            for agent in members:
                self._add_missing(connection, agent, passed)
            self._mark_unrouted(connection, everyone, passed)
            number += len(passed)
            last = passed[-1]
            names = [agent.name for agent in members]
            connection.execute(update(agents).where(agents.c.name.in_(names)).values(tx=last.tx, seq=last.seq))
        return number

    def finish(self, agent: str) -> None:
        """Let an agent that ends have a row of all that it should have had until now."""
        while self._database.run(lambda connection: self.finish_in(connection, agent)):
            pass

    def finish_in(self, connection: Connection, agent: str) -> int:
        """Do the next BATCH of that; return how many events were looked at."""
        row = connection.execute(select(agents).where(agents.c.name == agent).with_for_update()).first()
        if row is None:
            return 0
        passed = self._after(connection, (row.tx, row.seq), now(), [row])
        if passed:
            self._add_missing(connection, row, passed, is_last=True)
            place = {"tx": passed[-1].tx, "seq": passed[-1].seq}
            connection.execute(update(agents).where(agents.c.name == agent).values(place))
        return len(passed)

    def _readable(self, connection: Connection, rows: Sequence[Row[Any]]) -> list[Row[Any]]:
        """Return those rows of agents that say what the agent listens to; the others wait until a worker runs it."""
        bad = [row for row in rows if patterns_of(row.patterns) is None]
        reason = "its patterns cannot be read; start a worker that runs it, or forget it (`pipeline ledger forget`)"
        self._aside.put(connection, "agents", [Bad(row.name, reason) for row in bad])
        return [row for row in rows if row not in bad]

    def _after(
        self, connection: Connection, position: Position, horizon: int, members: Sequence[Row[Any]]
    ) -> Sequence[Row[Any]]:
        """Return the events behind a position that have had their time to arrive."""
        # A clock that is wrong may be ahead; what it has written is waited for no longer than what all others write.
        wrong = 2 * connection.execute(select(clock())).scalar_one() - horizon
        # What lies before an agent's time was never sent to it, so there is nothing to wait for.
        horizon = max(horizon, *(agent.registered for agent in members))
        query = _EVENTS.where(after(self._database, position)).order_by(*_ORDER).limit(BATCH)
        rows = connection.execute(stable(self._database, query)).all()
        for number, row in enumerate(rows):
            if horizon < row.recorded <= wrong:
                return rows[:number]
        return rows

    def _add_missing(
        self, connection: Connection, agent: Row[Any], passed: Sequence[Row[Any]], *, is_last: bool = False
    ) -> None:
        listener = listener_of(agent, patterns_of(agent.patterns) or ())
        expected = {
            delivery_id(row.id, agent.name): row
            for row in passed
            if row.replay is None and listener.hears(row.type, targets_of(row.targets))
        }
        there = _known(connection, list(expected))
        heard = [row for id, row in expected.items() if id not in there]
        asked = (Asked(row.id, row.type, targets_of(row.targets)) for row in heard)
        kept_back = self._subscribers.kept_back(connection, listener, asked, recorded=not is_last)
        missing = [row for row in heard if row.id not in kept_back]
        at = now()
        # The past of a new agent is sent at once; the rest may still be on its way.
        self._deliveries.add_queued(
            connection, ((row.id, agent.name, 0 if row.recorded < agent.registered else at) for row in missing)
        )
        self._deliveries.forget_unrouted(connection, [row.id for row in heard])

    def _mark_unrouted(
        self, connection: Connection, everyone: Mapping[str, Patterns], passed: Sequence[Row[Any]]
    ) -> None:
        missed = {
            unrouted_id(row.id): row.id
            for row in passed
            if row.replay is None
            and needs_receiver(row.type)
            and not receivers(everyone, row.type, targets_of(row.targets))
        }
        there = _known(connection, list(missed))
        missed = {id: event for id, event in missed.items() if id not in there}
        if missed:
            connection.execute(*self._deliveries.unrouted(missed.values(), now()))


def _known(connection: Connection, ids: Sequence[str]) -> set[str]:
    """Return those of some deliveries that the ledger has."""
    there: set[str] = set()
    for some in chunks(ids):
        there.update(connection.execute(select(deliveries.c.id).where(deliveries.c.id.in_(some))).scalars())
    return there
