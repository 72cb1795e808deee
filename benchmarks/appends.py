"""Events per second that the log takes, one by one and in batches, and that get_events() reads back."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from pipeline.core.event import Encoded, new_event
from pipeline.history.events import EventQuery, get_events
from pipeline.ledger.ledger import Ledger
from pipeline.publishing.outbox import GRACE

from .databases import Database
from .progress import say
from .samples import median
from .workload import Work, data

BATCH = 1000
ONE_BY_ONE, BATCHED, READ = "append, one by one", f"append, {BATCH:,} a transaction", "read with get_events()"


@dataclass(frozen=True)
class Appends:
    """Events per second of one database, in each round."""

    ledger: str
    per_second: dict[str, list[float]] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Return everything that was measured."""
        return asdict(self)


def measure(databases: Sequence[Database], single: int, batched: int, repeats: int) -> list[Appends]:
    """Fill an empty ledger and read it, in each database in turns.

    Arguments:
        single: events that are appended one by one.
        batched: events that are appended in batches.

    """
    found = [(database, Appends(database.name)) for database in databases]
    for _ in range(repeats):
        for database, appends in found:
            with database.opened() as ledger:
                for what, rate in _round(ledger, single, batched).items():
                    appends.per_second.setdefault(what, []).append(rate)
    for database, appends in found:
        rates = ", ".join(f"{what} {median(each):,.0f}/s" for what, each in appends.per_second.items())
        say(f"{database.name}: {rates}")
    return [appends for _, appends in found]


def _round(ledger: Ledger, single: int, batched: int) -> dict[str, float]:
    ledger.subscribers.register({"bench": ((Work.event_type,), None)})
    ledger.append([_record()], due_in=GRACE)
    one_by_one = [[_record()] for _ in range(single)]
    batches = [[_record() for _ in range(BATCH)] for _ in range(batched // BATCH)]
    return {
        ONE_BY_ONE: _rate(single, lambda: _append(ledger, one_by_one)),
        BATCHED: _rate(batched // BATCH * BATCH, lambda: _append(ledger, batches)),
        READ: _rate(1 + single + batched // BATCH * BATCH, lambda: _read(ledger)),
    }


def _record() -> Encoded:
    event = new_event(Work(**data()), source="/bench")
    return Encoded(event, event.encode())


def _append(ledger: Ledger, transactions: list[list[Encoded]]) -> None:
    for records in transactions:
        ledger.append(records, due_in=GRACE)


def _read(ledger: Ledger) -> None:
    for _ in get_events(ledger, EventQuery()):
        pass


def _rate(count: int, call: Callable[[], None]) -> float:
    started = time.perf_counter()
    call()
    return count / (time.perf_counter() - started)
