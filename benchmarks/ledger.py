"""The ledger's own benchmarks: what it takes in, gives back and costs, on SQLite and on PostgreSQL."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from . import appends, costs, groups, growth, timers
from .appends import Appends
from .costs import Cost
from .databases import Database, Off
from .groups import Groups
from .growth import Growth
from .servers import Broker
from .timers import Lateness


@dataclass(frozen=True)
class Amounts:
    """How much is measured.

    Attributes:
        single, batched: events appended one by one, and in batches.
        sizes: of the growing log.
        delayed: events with a timer.
        deliveries: of one worker's run, and of those that are claimed and recorded without one.
        published: events of one burst.

    """

    single: int
    batched: int
    sizes: tuple[int, ...]
    delayed: int
    deliveries: int
    published: int


FULL = Amounts(
    single=2000, batched=20_000, sizes=(10_000, 100_000, 1_000_000), delayed=1000, deliveries=2000, published=2000
)
QUICK = Amounts(single=200, batched=2000, sizes=(10_000, 50_000), delayed=200, deliveries=200, published=200)


@dataclass
class Measured:
    """What was measured of the ledger."""

    appends: list[Appends] = field(default_factory=list)
    groups: list[Groups] = field(default_factory=list)
    growth: list[Growth] = field(default_factory=list)
    timers: list[Lateness] = field(default_factory=list)
    publishing: list[Cost] = field(default_factory=list)
    deliveries: list[Cost] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Return everything that was measured."""
        return {name: [one.as_json() for one in found] for name, found in vars(self).items()}


def alone(databases: Sequence[Database], amounts: Amounts, repeats: int, found: Measured) -> None:
    """Measure what needs no broker."""
    found.appends += appends.measure(databases, amounts.single, amounts.batched, repeats)
    found.groups += groups.measure(databases, amounts.deliveries, repeats)
    for database in databases:
        found.growth += growth.measure(database, amounts.sizes, repeats)


def with_broker(broker: Broker, databases: Sequence[Database], amounts: Amounts, repeats: int, found: Measured) -> None:
    """Measure what goes through a broker."""
    for database in databases:
        found.timers.append(timers.measure(broker, database, amounts.delayed, repeats))
    ledgers = [Off(), *databases]
    found.publishing += costs.publishing(broker, ledgers, amounts.published, repeats)
    found.deliveries += costs.deliveries(broker, ledgers, amounts.deliveries, repeats)
