"""What filters cost: parsing and trying one of five conditions, in each way, and deciding for a thousand agents.

    python -m benchmarks.filters

CPU of one process, medians of the rounds. Parsing is measured without what parse() remembers of texts it has seen, and
with the grammars made; RE2 remembers the patterns that it has compiled.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import orjson

from pipeline.agents.filters import parse, text, values
from pipeline.agents.filters.cesql import expression
from pipeline.agents.filters.jsonpath import query
from pipeline.agents.wanting import Wanting

from .progress import say
from .samples import median, timed
from .tables import table

COUNT, MANY = 2000, 1000
EVENT: dict[str, Any] = {
    "specversion": "1.0",
    "id": "019c1d3a-0000-7000-8000-000000000000",
    "type": "alert.raised",
    "source": "/monitoring",
    "subject": "AAPL",
    "time": "2026-01-31T09:30:00Z",
    "correlationid": "019c1d3a-0000-7000-8000-000000000000",
    "priority": 5,
    "hops": 2,
    "data": {"symbol": "AAPL", "priority": "critical", "domain": "financial", "volume": 1600, "average": 1000.0},
}
FIVE: dict[str, Any] = {
    "mapping": {
        "type": "alert.*",
        "payload.priority": {"$gte": "high"},
        "domain": "financial",
        "volume": {"$gt": 1500},
        "symbol": {"$in": ["AAPL", "MSFT", "GOOGL"]},
    },
    "text": "type = alert.* AND payload.priority >= high AND domain = financial AND volume > 1500 "
    "AND symbol IN (AAPL, MSFT, GOOGL)",
    "text with arithmetic": "type = alert.* AND payload.priority >= high AND domain = financial "
    "AND volume > 1.5 * average AND symbol IN (AAPL, MSFT, GOOGL)",
    "text with a regular expression": "type = alert.* AND payload.priority >= high AND domain = financial "
    "AND volume > 1500 AND symbol MATCHES '^(AAPL|MSFT|GOOGL)$'",
    "CloudEvents dialects": {
        "all": [
            {"prefix": {"type": "alert.", "source": "/mon"}},
            {"suffix": {"type": ".raised"}},
            {"exact": {"subject": "AAPL"}},
            {"not": {"exact": {"source": "/test"}}},
        ]
    },
    "CESQL": {
        "sql": "type LIKE 'alert.%' AND source = '/monitoring' AND subject IN ('AAPL', 'MSFT') AND hops < 3 "
        "AND EXISTS correlationid"
    },
    "JSONPath": "$.payload[?@ == 'AAPL' || @ == 'MSFT' || @ == 'GOOGL' || @ > 1500 && @ < 2000]",
}


@dataclass(frozen=True)
class Took:
    """Microseconds of CPU for one call, in each round."""

    name: str
    parse: list[float] = field(default_factory=list)
    match: list[float] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Return everything that was measured."""
        return asdict(self)


def measure(count: int, repeats: int) -> list[Took]:
    """Parse and try each filter in turns.

    Arguments:
        count: calls in a round.

    """
    found = [Took(name) for name in FIVE]
    for _ in range(repeats):
        for took in found:
            where = FIVE[took.name]
            ready = parse(where)
            assert ready.matches(EVENT), took.name
            took.parse.append(_each(lambda where=where: _anew(where), max(1, count // 20)))
            took.match.append(_each(lambda ready=ready: ready.matches(EVENT), count))
    for took in found:
        say(f"{took.name}: parse {median(took.parse):,.1f} us, match {median(took.match):,.2f} us")
    return found


def many(count: int, repeats: int) -> Took:
    """Decide for many agents, of which one wants it, on copies of one event; what is measured is one decision.

    A worker decides on a copy as it comes from the broker, so that each decision reads the event's text.

    Arguments:
        count: of the agents.

    """
    where = [{"symbol": f"S{number}", "volume": {"$gt": number}} for number in range(count - 1)]
    where.append({"symbol": "AAPL", "volume": {"$gt": 1500}})
    agents, body = [Wanting(parse(one), {}) for one in where], orjson.dumps(EVENT)
    took = Took(f"{count:,} agents, one of which wants the event: each, with reading it")
    for _ in range(repeats):
        took.match.append(_each(lambda: _one_wants(agents, body), max(1, 20_000 // count)) / count)
    return took


def _one_wants(agents: Sequence[Wanting], body: bytes) -> None:
    assert sum(each.test(EVENT["type"], body) is True for each in agents) == 1


def _anew(where: Any) -> None:
    for remembered in (text._parsed, expression._compiled, query._segments, values.compiled):
        remembered.cache_clear()
    parse(where)


def _each(call: Callable[[], object], count: int) -> float:
    def calls() -> None:
        for _ in range(count):
            call()

    return timed(calls).cpu / count * 1e6


def as_table(measured: Sequence[Took]) -> str:
    """Return a row for each filter."""
    headers = ["five conditions as", "parse: CPU us", "match: CPU us"]
    rows = [
        (took.name, f"{median(took.parse):,.0f}" if took.parse else "-", f"{median(took.match):,.2f}")
        for took in measured
    ]
    return table(headers, rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.filters", description=str(__doc__).split("\n", 1)[0])
    parser.add_argument("--count", type=int, default=COUNT, help=f"calls in a round (default {COUNT})")
    parser.add_argument("--many", type=int, default=MANY, help=f"agents that one event comes to (default {MANY})")
    parser.add_argument("--repeats", type=int, default=5, help="rounds (default 5)")
    options = parser.parse_args(arguments)
    print(as_table([*measure(options.count, options.repeats), many(options.many, options.repeats)]))


if __name__ == "__main__":
    main()
