"""What the ledger's part of a delivery costs, one by one and in groups: its claim, and its success with an event.

    python -m benchmarks.groups

The same is measured with `python -m benchmarks --only ledger`. No worker and no broker: CPU of this process, so that
PostgreSQL's own is not in it.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from pipeline.core.event import Encoded, new_event
from pipeline.core.ids import delivery_id
from pipeline.ledger.facts import Delivery, Success
from pipeline.ledger.ledger import Ledger
from pipeline.publishing.outbox import GRACE

from .databases import Database, databases
from .progress import say
from .samples import Took, median, timed
from .tables import table
from .workload import Work, data

SIZES = (1, 10, 100)
DELIVERIES = 2000
WORKER = "bench"


@dataclass(frozen=True)
class Groups:
    """Microseconds of a delivery in groups of each size, in each round: of CPU, and until it was done."""

    ledger: str
    emits: bool
    cpu: dict[int, list[float]] = field(default_factory=dict)
    wall: dict[int, list[float]] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Return everything that was measured."""
        return asdict(self)


def measure(databases: Sequence[Database], count: int, repeats: int) -> list[Groups]:
    """Claim and record deliveries in each database in turns.

    Arguments:
        count: of the deliveries, for each size of a group.

    """
    found = [(database, Groups(database.name, emits)) for emits in (False, True) for database in databases]
    for _ in range(repeats):
        for database, groups in found:
            with database.opened() as ledger:
                ledger.workers.heartbeat(WORKER)
                ledger.subscribers.register({"bench": ((Work.event_type,), None)})
                _round(ledger, max(SIZES), max(SIZES), emits=groups.emits)
                for size in SIZES:
                    took = _round(ledger, size, count, emits=groups.emits)
                    groups.cpu.setdefault(size, []).append(took.cpu / count * 1e6)
                    groups.wall.setdefault(size, []).append(took.wall / count * 1e6)
    for _, groups in found:
        each = ", ".join(f"{size} at once {median(cpu):,.0f} us of CPU" for size, cpu in groups.cpu.items())
        say(f"{groups.ledger}, {emitting(groups)}: {each}")
    return [groups for _, groups in found]


def emitting(groups: Groups) -> str:
    """Return what handlers did."""
    return "one event emitted" if groups.emits else "nothing emitted"


def _round(ledger: Ledger, size: int, count: int, *, emits: bool) -> Took:
    deliveries = [_delivery() for _ in range(count)]
    emitted = [[_record(one.id)] if emits else [] for one in deliveries]
    ended = [Success(one.id, each, due_in=GRACE, first=True) for one, each in zip(deliveries, emitted, strict=True)]

    def one_by_one() -> None:
        for one, success in zip(deliveries, ended, strict=True):
            ledger.claim(one, worker=WORKER)
            ledger.succeed(success)

    def in_groups() -> None:
        for start in range(0, count, size):
            ledger.claim_all(deliveries[start : start + size], worker=WORKER)
            ledger.succeed_all(ended[start : start + size])

    return timed(one_by_one if size == 1 else in_groups)


def _delivery() -> Delivery:
    event = new_event(Work(**data()), source="/bench")
    return Delivery(delivery_id(event.id, "bench"), event, "bench")


def _record(delivery: str) -> Encoded:
    event = new_event(Work(**data()), source="/bench")
    return Encoded(event, event.encode(), delivery=delivery)


def as_table(measured: Sequence[Groups]) -> str:
    """Return a row for each database."""
    headers = ["ledger", "a delivery with", *(f"{size} at once: CPU us" for size in SIZES)]
    headers += [f"{size} at once: us" for size in SIZES]
    return table(
        headers,
        [
            (
                one.ledger,
                emitting(one),
                *(f"{median(each[size]):,.0f}" for each in (one.cpu, one.wall) for size in SIZES),
            )
            for one in measured
        ],
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.groups", description=str(__doc__).split("\n", 1)[0])
    parser.add_argument("--count", type=int, default=DELIVERIES, help=f"deliveries (default {DELIVERIES})")
    parser.add_argument("--repeats", type=int, default=5, help="measurements of each kind (default 5)")
    options = parser.parse_args(arguments)
    with databases() as (found, skipped):
        for name, reason in skipped.items():
            say(f"{name} is skipped: {reason}")
        print(as_table(measure(found, options.count, options.repeats)))


if __name__ == "__main__":
    main()
