"""What the agents of effects_app have done: rows that a second run would write a second time."""

from __future__ import annotations

from collections import Counter

from sqlalchemy import func, select, text

from pipeline import Pipeline
from pipeline.ledger.database.tables import deliveries, events, outbox

#: The agents that are sent work, with what follows, and those that are all sent the same load.
CHAIN = ("work", "follow")
LOADED = ("one", "two", "three", "four", "five")
AGENTS = (*CHAIN, *LOADED)


class Effects:
    """The agents' tables, in the ledger's database."""

    def __init__(self, bus: Pipeline, agents: tuple[str, ...]) -> None:
        """Make a table for each agent."""
        self._bus = bus
        self._agents = agents
        for agent in agents:
            statement = text(f"CREATE TABLE effects_{agent} (event TEXT, key TEXT)")
            bus.ledger.database.run(lambda connection, one=statement: connection.execute(one))

    def number(self) -> int:
        """Return how many effects there are."""
        counts = " + ".join(f"(SELECT count(*) FROM effects_{agent})" for agent in self._agents)
        with self._bus.ledger.database.reading() as connection:
            return int(connection.execute(text(f"SELECT {counts}")).scalar_one())

    def keys(self, agent: str) -> Counter[str]:
        """Return how often an agent took effect for each key."""
        with self._bus.ledger.database.reading() as connection:
            return Counter(connection.execute(text(f"SELECT key FROM effects_{agent}")).scalars())

    def events(self, agent: str) -> Counter[str]:
        """Return how often an agent took effect for each event's id."""
        with self._bus.ledger.database.reading() as connection:
            return Counter(connection.execute(text(f"SELECT event FROM effects_{agent}")).scalars())

    def logged(self, event_type: str) -> Counter[str]:
        """Return how often each event of a type is in the log."""
        with self._bus.ledger.database.reading() as connection:
            return Counter(connection.execute(select(events.c.id).where(events.c.type == event_type)).scalars())

    def is_at_rest(self) -> bool:
        """Say whether nothing waits to be sent or to be run again, as far as the ledger knows."""
        open_ones = select(func.count()).select_from(deliveries).where(deliveries.c.outcome != "succeeded")
        unsent = select(func.count()).select_from(outbox)
        with self._bus.ledger.database.reading() as connection:
            return not connection.execute(unsent).scalar_one() and not connection.execute(open_ones).scalar_one()
