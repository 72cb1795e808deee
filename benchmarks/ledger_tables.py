"""The ledger's results as tables, and what they have to reach."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from .appends import BATCHED, ONE_BY_ONE, READ
from .costs import Cost
from .databases import SQLITE
from .groups import as_table
from .growth import MIDDLE, TRACE, Growth
from .ledger import Measured
from .results import Target
from .samples import median
from .tables import table

#: The rates that a ledger has to reach, in events per second.
RATES = {ONE_BY_ONE: 1500, BATCHED: 15_000, READ: 30_000}
#: How much longer a page may take in the largest log, and how many milliseconds a trace there.
FLAT = 2.0
#: Grows with the number of events after that time: shown, but not expected to be flat.
NOT_FLAT = (TRACE, MIDDLE)
TRACE_MS = 50
#: Seconds that 99 of 100 delayed events may be late.
LATE = 1.0


def sections(measured: Measured) -> list[tuple[str, str]]:
    """Return titles and tables."""
    return [
        ("Ledger: appending and reading, events/s", _appends(measured)),
        ("Ledger: claiming and recording, us per delivery", as_table(measured.groups)),
        ("Ledger: a page of 1,000 events while the log grows, ms", _growth(measured)),
        ("Ledger: how late delayed events are, s", _timers(measured)),
        ("Ledger: the cost of publishing, us per event", _costs("call", measured.publishing)),
        ("Ledger: the cost of a delivery, us", _costs("delivery to", measured.deliveries)),
    ]


def _appends(measured: Measured) -> str:
    rows = [
        (one.ledger, *(f"{median(one.per_second[what]):,.0f}" for what in (ONE_BY_ONE, BATCHED, READ)))
        for one in measured.appends
    ]
    return table(("ledger", ONE_BY_ONE, BATCHED, READ), rows)


def _growth(measured: Measured) -> str:
    sizes = sorted({size for one in measured.growth for size in one.ms})
    rows = [
        (one.ledger, f"`{one.query}`", *(f"{median(one.ms[size]):.1f}" for size in sizes), str(one.ratio))
        for one in measured.growth
    ]
    return table(("ledger", "query", *(f"{size:,} events" for size in sizes), "largest / smallest"), rows)


def _timers(measured: Measured) -> str:
    rows = [
        (
            one.broker,
            one.ledger,
            f"{one.events:,}",
            *(f"{found:.3f}" for found in (median(one.p50), median(one.p99), max(one.largest), min(one.smallest))),
        )
        for one in measured.timers
    ]
    return table(("broker", "ledger", "events", "p50", "p99", "latest", "earliest"), rows)


def _costs(what: str, costs: Sequence[Cost]) -> str:
    # In the order in which the steps follow each other; what is left over comes last.
    steps = list(dict.fromkeys(step for one in sorted(costs, key=lambda one: -len(one.steps)) for step in one.steps))
    rows = []
    for one in costs:
        took = (f"{median(one.steps[step]):,.0f}" if step in one.steps else "" for step in steps)
        rows.append((one.broker, one.what, one.ledger, f"{median(one.per_second):,.0f}", *took))
    return table(("broker", what, "ledger", "per second", *steps), rows)


# -- targets


def judged(measured: Measured) -> Iterator[Target]:
    """Return a line for every target that this run can judge."""
    for judge in (_fast, _flat, _traced, _punctual):
        yield from judge(measured)


def _fast(measured: Measured) -> Iterator[Target]:
    for one in measured.appends:
        for what, wanted in RATES.items():
            if one.ledger == SQLITE:
                rate = median(one.per_second[what])
                yield Target(6, f"SQLite ledger: {what}", f">= {wanted:,}/s", f"{rate:,.0f}/s", rate >= wanted)


def _flat(measured: Measured) -> Iterator[Target]:
    for one in measured.growth:
        if one.query not in NOT_FLAT:
            smallest, largest = min(one.ms), max(one.ms)
            what = f"{one.ledger} ledger, {one.query}: page at {largest:,} / at {smallest:,} events"
            yield Target(7, what, f"<= {FLAT:.2f}", str(one.ratio), one.ratio.median <= FLAT)


def _traced(measured: Measured) -> Iterator[Target]:
    for one in measured.growth:
        if one.query == TRACE:
            yield _trace(one)


def _trace(one: Growth) -> Target:
    largest = max(one.ms)
    ms = median(one.ms[largest])
    return Target(7, f"{one.ledger} ledger of {largest:,}: {TRACE}", f"< {TRACE_MS} ms", f"{ms:.1f} ms", ms < TRACE_MS)


def _punctual(measured: Measured) -> Iterator[Target]:
    for one in measured.timers:
        who = f"{one.broker}, {one.ledger} ledger: delayed events"
        p99, earliest = median(one.p99), min(one.smallest)
        yield Target(8, f"{who}, p99 late", f"< {LATE:.0f} s", f"{p99:.3f} s", p99 < LATE)
        yield Target(8, f"{who}, none early", ">= 0 s", f"{earliest:.3f} s", earliest >= 0)
