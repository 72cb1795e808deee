"""How reading slows down while the log grows: one page of 1,000 events by each of the ledger's indexes, and a trace."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any

from pipeline.history.events import EventQuery, get_events
from pipeline.history.trace import trace
from pipeline.ledger.database.tables import events

from .databases import Database
from .logs import STREAMS, TYPES, Log
from .progress import say
from .samples import Ratio, median, ratio

PAGE = 1000
TRACE = "trace of 1,000 events"
MIDDLE = "since=middle"


@dataclass(frozen=True)
class Growth:
    """Milliseconds of one query, for each size of the log, in each round."""

    ledger: str
    query: str
    ms: dict[int, list[float]] = field(default_factory=dict)

    @property
    def ratio(self) -> Ratio:
        """The largest log's by the smallest one's."""
        return ratio(self.ms[max(self.ms)], self.ms[min(self.ms)])

    def as_json(self) -> dict[str, Any]:
        """Return everything that was measured."""
        return {**asdict(self), "ratio": asdict(self.ratio)}


def measure(database: Database, sizes: Sequence[int], repeats: int) -> list[Growth]:
    """Let one log grow, and read from it at each size."""
    found: dict[str, Growth] = {}
    with database.opened() as ledger:
        log = Log(ledger)
        for size in sizes:
            started = time.monotonic()
            log.grow(size)
            say(f"a log of {size:,} events in {database.name}, made in {time.monotonic() - started:.0f} s")
            queries = _queries(log)
            for call in queries.values():
                call()  # fills the caches, and checks the number of events
            for _ in range(repeats):
                for query, call in queries.items():
                    growth = found.setdefault(query, Growth(database.name, query))
                    growth.ms.setdefault(size, []).append(_milliseconds(call))
    for growth in found.values():
        times = ", ".join(f"{size:,}: {median(each):.1f} ms" for size, each in growth.ms.items())
        say(f"{database.name}, {growth.query}: {times}")
    return list(found.values())


def _queries(log: Log) -> dict[str, Callable[[], None]]:
    middle, late = log.time(log.size // 2), log.time(log.size - PAGE)
    late_of_type = log.newest(events.c.type == TYPES[0], PAGE)
    return {
        f"type={TYPES[0]!r}": lambda: _page(log, type=TYPES[0]),
        f"agent_id={STREAMS[0]!r}": lambda: _page(log, agent_id=STREAMS[0]),
        "type='order.*'": lambda: _page(log, type="order.*"),
        "since=late": lambda: _page(log, since=late),
        MIDDLE: lambda: _page(log, since=middle),
        f"type={TYPES[0]!r}, since=late": lambda: _page(log, type=TYPES[0], since=late_of_type),
        "correlation of 1,000": lambda: _page(log, correlation=log.largest),
        TRACE: lambda: _trace(log),
    }


def _page(log: Log, **wanted: Any) -> None:
    found = sum(1 for _ in islice(get_events(log.ledger, EventQuery(batch=PAGE, **wanted)), PAGE))
    assert found == PAGE, f"{found} events with {wanted}"


def _trace(log: Log) -> None:
    found = sum(1 for _ in trace(log.ledger, log.largest))
    assert found == PAGE, f"{found} events in a trace"


def _milliseconds(call: Callable[[], None]) -> float:
    started = time.perf_counter()
    call()
    return (time.perf_counter() - started) * 1000
