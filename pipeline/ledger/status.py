"""How the ledger stands, in numbers."""

from __future__ import annotations

from typing import Any, NamedTuple

from sqlalchemy import Select, func, select

from ..core.times import SECOND, now
from .database.database import Database
from .database.migrate import HEAD
from .database.rows import DEAD_AFTER
from .database.tables import OPEN, agents, aside, deliveries, events, outbox, timers, workers


class Status(NamedTuple):
    """What lies in a ledger.

    Attributes:
        events: in the log, by the last sequence number.
        unsent: events in the outbox.
        timers: retries and delayed events that are not due yet.
        agents: that have ever run.
        workers: that live.
        aside: things that could not be used, and were set aside: `pipeline ledger aside` shows them.
        outcomes: deliveries without a good end, by outcome.

    """

    schema: str
    events: int
    unsent: int
    timers: int
    agents: int
    workers: int
    aside: int
    outcomes: dict[str, int]

    def __str__(self) -> str:
        outcomes = ", ".join(f"{number:,} {outcome}" for outcome, number in self.outcomes.items())
        parts = [
            f"schema {self.schema}",
            f"events numbered up to {self.events:,}",
            f"{self.unsent:,} to be sent",
            f"{self.timers:,} timers",
            f"{self.agents:,} agents",
            f"{self.workers:,} workers",
            *([f"{self.aside:,} set aside"] if self.aside else []),
        ]
        return ", ".join([*parts, outcomes] if outcomes else parts)


def status(database: Database) -> Status:
    """Count; cheap however large the ledger is: the log's length is its last sequence number."""
    alive = workers.c.seen > now() - round(DEAD_AFTER * SECOND)
    open_ones = select(deliveries.c.outcome, func.count()).where(OPEN).group_by(deliveries.c.outcome)
    with database.reading() as connection:

        def count(query: Select[Any]) -> int:
            return int(connection.execute(query).scalar() or 0)

        return Status(
            schema=HEAD,
            events=count(select(func.max(events.c.seq))),
            unsent=count(select(func.count()).select_from(outbox)),
            timers=count(select(func.count()).select_from(timers)),
            agents=count(select(func.count()).select_from(agents)),
            workers=count(select(func.count()).select_from(workers).where(alive)),
            aside=count(select(func.count()).select_from(aside)),
            outcomes={str(name): number for name, number in connection.execute(open_ones)},
        )
