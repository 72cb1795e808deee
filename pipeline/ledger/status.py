"""How the ledger stands, in numbers."""

from __future__ import annotations

from typing import Any, NamedTuple

from sqlalchemy import Select, func, select

from ..core.outcome import Outcome
from ..core.routing import targets_of
from .database.database import Database
from .database.leases import lives
from .database.migrate import HEAD
from .database.tables import OPEN, agents, aside, deliveries, events, outbox, timers, workers
from .deliveries import UNROUTED

#: Events without a receiver that are counted at most.
MOST_COUNTED = 10_000
_other = deliveries.alias()
NOBODY_HAD_IT = (
    ~select(_other.c.id).where(_other.c.event_id == events.c.id, _other.c.outcome != Outcome.UNROUTED.value).exists()
)


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
            several(self.timers, "timer"),
            several(self.agents, "agent"),
            several(self.workers, "worker"),
            *([f"{self.aside:,} set aside"] if self.aside else []),
        ]
        return ", ".join([*parts, outcomes] if outcomes else parts)


class Unrouted(NamedTuple):
    """Events that were given to nobody, of one type and with the same targets."""

    type: str
    targets: tuple[str, ...]
    number: int


def unrouted_by_type(database: Database) -> list[Unrouted]:
    """Count the events that nobody was given, MOST_COUNTED at most: somebody may publish for nobody all the time."""
    some = select(events.c.type, events.c.targets).join(deliveries, deliveries.c.event_id == events.c.id)
    some_of_them = some.where(UNROUTED, NOBODY_HAD_IT).limit(MOST_COUNTED).subquery()
    kinds = (some_of_them.c.type, some_of_them.c.targets)
    with database.reading() as connection:
        rows = connection.execute(select(*kinds, func.count()).group_by(*kinds).order_by(kinds[0])).all()
    return [Unrouted(type, targets_of(targets), number) for type, targets, number in rows]


def counted(number: int) -> str:
    """Return a number of events that were counted so, in words."""
    return f"{number:,} or more events" if number >= MOST_COUNTED else several(number, "event")


def several(number: int, what: str) -> str:
    """Return a number of things, in words."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def status(database: Database) -> Status:
    """Count; cheap however large the ledger is: the log's length is its last sequence number."""
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
            workers=count(select(func.count()).select_from(workers).where(lives())),
            aside=count(select(func.count()).select_from(aside)),
            outcomes={str(name): number for name, number in connection.execute(open_ones)},
        )
