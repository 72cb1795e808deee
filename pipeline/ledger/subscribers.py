"""Who listens: every agent that ever ran, its patterns, and how far its past was checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

import orjson
from sqlalchemy import Connection, delete, select, update

from ..core.errors import nearest
from ..core.event import Event
from ..core.routing import needs_receiver, reaches
from ..core.times import micros, monotonic, now
from .database.database import Database
from .database.tables import agents, events
from .log import Position, end_of_log

#: Seconds for which the list of agents is believed; a publisher asks the ledger for it no more often.
FRESH = 1.0
#: Event types of which it is remembered whether anybody listens: they are other people's words, and may be endless.
MOST_ROUTES = 10_000
_AGENTS = select(agents.c.name, agents.c.patterns)

Patterns = tuple[str, ...]
#: What an agent registers: its patterns, and since when (or since which sequence number) it wants events.
Wanted = Mapping[str, tuple[Patterns, datetime | int | None]]


def patterns_of(text: str) -> Patterns | None:
    """Return what an agent's row says that it listens to; None when the row is damaged, until its worker starts."""
    try:
        patterns = orjson.loads(text)
    except (ValueError, TypeError):
        return None
    is_right = isinstance(patterns, list) and all(isinstance(pattern, str) for pattern in patterns)
    return tuple(patterns) if is_right else None


class Subscribers:
    """The agents' table."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._patterns: dict[str, Patterns] = {}
        self._routes: dict[str, bool] = {}
        self._asked = 0.0

    def register(self, subscriptions: Wanted) -> None:
        """Write down what agents listen to; one that is new starts now, or in the past that it asks for."""

        def work(connection: Connection) -> None:
            registered = {row.name: row.patterns for row in connection.execute(_AGENTS)}
            for name, (patterns, since) in subscriptions.items():
                text = orjson.dumps(patterns).decode()
                if name not in registered:
                    tx, seq = self._start(connection, since)
                    row = {"name": name, "patterns": text, "tx": tx, "seq": seq, "registered": now()}
                    connection.execute(self._database.insert(agents).on_conflict_do_nothing(), row)
                elif registered[name] != text:
                    connection.execute(update(agents).where(agents.c.name == name).values(patterns=text))

        self._database.run(work)

    def forget(self, agent: str) -> bool:
        """Remove an agent that will never run again; nothing is kept for it any more. Say whether it was known."""
        statement = delete(agents).where(agents.c.name == agent)
        return bool(self._database.run(lambda connection: connection.execute(statement).rowcount))

    def _start(self, connection: Connection, since: datetime | int | None) -> Position:
        if since is None:
            return end_of_log(self._database, connection)
        order = (events.c.tx, events.c.seq)
        reached = events.c.seq >= since if isinstance(since, int) else events.c.time >= micros(since)
        first = connection.execute(select(*order).where(reached).order_by(*order).limit(1)).first()
        return (first.tx, first.seq - 1) if first else end_of_log(self._database, connection)

    @staticmethod
    def read(connection: Connection) -> dict[str, Patterns]:
        """Return the patterns of every agent that the ledger knows, and whose row can be read."""
        known = {name: patterns_of(text) for name, text in connection.execute(_AGENTS).fetchall()}
        return {name: patterns for name, patterns in known.items() if patterns is not None}

    def all(self) -> dict[str, Patterns]:
        """Return the patterns of every agent that the ledger knows, as they are now."""
        with self._database.reading() as connection:
            return self.read(connection)

    def known(self, connection: Connection | None = None, *, fresh: bool = False) -> dict[str, Patterns]:
        """Return every agent's patterns, as the ledger knew them at most FRESH seconds ago.

        Arguments:
            connection: somebody's open transaction, which is read in instead of another one.

        """
        if fresh or monotonic() - self._asked > FRESH:
            self._patterns = self._database.read(self.read) if connection is None else self.read(connection)
            self._routes = {}
            self._asked = monotonic()
        return self._patterns

    def miss(self, event: Event, connection: Connection | None = None) -> bool:
        """Say whether no known agent gets an event that needs somebody who does."""
        listeners = self.known(connection)
        if event.targets:
            return not any(name in listeners for name in event.targets)
        missed = self._routes.get(event.type)
        if missed is None:
            reached = any(reaches(name, patterns, event.type) for name, patterns in listeners.items())
            missed = needs_receiver(event.type) and not reached
            if len(self._routes) < MOST_ROUTES:
                self._routes[event.type] = missed
        return missed

    def unknown(self, names: Sequence[str], connection: Connection | None = None) -> str:
        """Return what to tell somebody who named agents that have never run; nothing when all are known."""
        known = self.known(connection)
        if any(name not in known for name in names):
            known = self.known(connection, fresh=True)
        return "; ".join(f"no agent is called {name!r}; {nearest(name, known)}" for name in names if name not in known)
