"""The results as tables in one Markdown document."""

from __future__ import annotations

from pathlib import Path

from . import ledger_tables
from .publish import Burst
from .results import Results, Target
from .samples import median
from .tables import table

BEGIN, END = "<!-- results -->", "<!-- /results -->"


def text(results: Results, targets: list[Target]) -> str:
    """Return everything as Markdown."""
    sections = [
        ("Targets", targets_table(targets)),
        ("Publishing, ledger off unless named", publish_table(results)),
        ("Executing, ledger off", execute_table(results)),
        ("Latency and idle worker, ledger off", latency_table(results)),
        *ledger_tables.sections(results.ledger),
        ("Import time", imports_table(results)),
        ("Measured on", table(("what", "value"), results.environment.items())),
        ("Skipped", table(("server", "reason"), results.skipped.items())),
    ]
    return "\n\n".join(f"### {title}\n\n{body}" for title, body in sections if body)


def targets_table(targets: list[Target]) -> str:
    """Return target, measured, met or missed."""
    rows = [(f"({t.number})", t.what, t.wanted, t.measured, "met" if t.met else "**missed**") for t in targets]
    return table(("", "ratio or value", "target", "measured", ""), rows)


def publish_table(results: Results) -> str:
    """Return a row for every contender, with the number of subscribers across."""
    counts = sorted({one.subscribers for one in results.publish})
    headers = ["broker", "contender", *(f"to {n}: called/s" for n in counts)]
    headers += [f"to {n}: arrived/s" for n in counts] + [f"to {n}: CPU us" for n in counts]
    rows = []
    for (broker, contender), bursts in _grouped(results).items():
        called = [f"{median(b.called for b in each):,.0f}" for each in bursts]
        arrived = [f"{median(b.arrived for b in each):,.0f}" for each in bursts]
        cpu = [f"{median(b.cpu_us for b in each):,.0f}" for each in bursts]
        rows.append((broker, contender, *called, *arrived, *cpu))
    return table(headers, rows)


def _grouped(results: Results) -> dict[tuple[str, str], list[list[Burst]]]:
    found: dict[tuple[str, str], list[list[Burst]]] = {}
    for one in sorted(results.publish, key=lambda one: one.subscribers):
        found.setdefault((one.broker, one.contender), []).append(one.bursts)
    return found


def execute_table(results: Results) -> str:
    """Return a row for every broker, pool and number of subscribers."""
    rows = []
    for one in results.execute:
        rates = [f"{median(run.per_second for run in runs):,.0f}" for runs in (one.bare, one.agents)]
        cpu = [f"{median(run.cpu_us for run in runs):,.0f}" for runs in (one.bare, one.agents)]
        rows.append((one.broker, one.pool, str(one.subscribers), *rates, str(one.ratio), *cpu))
    headers = ("broker", "pool", "n", "bare/s", "agents/s", "agents / bare", "bare CPU us", "agents CPU us")
    return table(headers, rows)


def latency_table(results: Results) -> str:
    """Return a row for every broker and kind."""
    rows = [
        (one.broker, one.kind, one.pool, f"{one.p50_ms:.1f}", f"{one.p99_ms:.1f}", f"{one.idle_percent:.2f}")
        for one in results.latency
    ]
    return table(("broker", "worker", "pool", "p50 ms", "p99 ms", "idle worker, % of a core"), rows)


def imports_table(results: Results) -> str:
    """Return a row for each import."""
    found = results.imports
    rows = [("celery", f"{median(found.celery):.3f}"), ("pipeline", f"{median(found.pipeline):.3f}")] if found else []
    return table(("import", "seconds"), rows)


def write(path: Path, found: str) -> None:
    """Replace what stands between the marks in a document; raise ValueError when it has none."""
    before, begin, rest = path.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{path} has no section between {BEGIN} and {END}")
    path.write_text(f"{before}{BEGIN}\n\n{found}\n\n{END}{after}", encoding="utf-8")
