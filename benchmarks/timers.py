"""How late delayed events are: from the time that they were published for to the handler's first line."""

from __future__ import annotations

import tempfile
import time
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pipeline import Pipeline

from . import agents
from .databases import Database
from .progress import say
from .queues import of_agents
from .samples import median, percentile
from .servers import Broker
from .workers import worker
from .workload import Records, Work, data

#: Events that are due in each second: few enough for any worker, so that none waits for another's handler.
RATE = 100.0
#: Seconds until the first is due; by then all should be accepted.
LEAD = 4.0
POOL = "solo"


@dataclass(frozen=True)
class Lateness:
    """Seconds between an event's due time and its handling, in each round."""

    broker: str
    ledger: str
    events: int
    p50: list[float] = field(default_factory=list)
    p99: list[float] = field(default_factory=list)
    largest: list[float] = field(default_factory=list)
    smallest: list[float] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Return everything that was measured."""
        return asdict(self)


def measure(broker: Broker, database: Database, count: int, repeats: int) -> Lateness:
    """Publish delayed events that one worker's sweeper fires."""
    found = Lateness(broker.name, database.name, count)
    for _ in range(repeats):
        with database.address() as address:
            late = _late(broker, address, count)
        found.p50.append(percentile(late, 50))
        found.p99.append(percentile(late, 99))
        found.largest.append(max(late))
        found.smallest.append(min(late))
    say(
        f"timers, {broker.name}, ledger {database.name}: p50 {median(found.p50):.3f} s, p99 {median(found.p99):.3f} s, "
        f"{min(found.smallest):.3f}-{max(found.largest):.3f} s"
    )
    return found


def _late(broker: Broker, ledger_url: str, count: int) -> list[float]:
    app = agents.build(broker.url, 1, ledger_url=ledger_url)
    queues = of_agents(app)
    queues.purge()
    with tempfile.TemporaryDirectory(prefix="bench-records-") as directory:
        records = Records(Path(directory, "records"))
        with worker("agents", broker, POOL, 1, records.path, ledger_url):
            app.publish(Work(**data(time.monotonic())))
            records.wait(1, 60)
            accepted = _publish(app, count)
            records.wait(count + 1, 60 + count / RATE)
        late = [executed - max(due, accepted) for due, executed in records.read()[1:]]
    queues.close()
    app.close()
    return late


def _publish(app: Pipeline, count: int) -> float:
    """Accept all events in one transaction, and return when that was done."""
    wall, monotonic = datetime.now(UTC), time.monotonic()
    with app.ledger.database.transaction() as connection:
        for number in range(count):
            delay = LEAD + number / RATE
            at = wall + timedelta(seconds=delay)
            app.publish(Work(**data(monotonic + delay)), at=at, connection=connection)
    return time.monotonic()
