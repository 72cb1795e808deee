"""`python -m benchmarks`: measure, print, and write what was asked for."""

from __future__ import annotations

import argparse
import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from . import execute, imports, latency, ledger, publish, report
from .databases import Database, databases
from .progress import say
from .results import Results, environment
from .servers import BROKERS, Broker, Unavailable, running
from .targets import judged

PARTS = ("publish", "execute", "latency", "import", "ledger")
#: Those that need a database.
LOGGING = {"publish", "ledger"}


@dataclass(frozen=True)
class Plan:
    """How much is measured.

    Attributes:
        scale: the part of the usual number of events that a publisher's burst has.
        executions: of one worker's run.
        seconds: of each latency and each idle measurement.
        ledger: how much of what the ledger's own benchmarks measure.

    """

    repeats: int
    scale: float
    publish_to: tuple[int, ...]
    execute_with: tuple[int, ...]
    executions: int
    seconds: float
    ledger: ledger.Amounts


FULL = Plan(
    repeats=5,
    scale=1.0,
    publish_to=(1, 5, 20),
    execute_with=(1, 5, 20),
    executions=5000,
    seconds=10.0,
    ledger=ledger.FULL,
)
QUICK = Plan(
    repeats=1,
    scale=0.1,
    publish_to=(1, 20),
    execute_with=(1,),
    executions=500,
    seconds=1.0,
    ledger=ledger.QUICK,
)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line."""
    options = _parser().parse_args(arguments)
    plan = QUICK if options.quick else FULL
    plan = Plan(**{**vars(plan), "repeats": options.repeats or plan.repeats})
    results = Results(environment(plan.repeats))
    if "import" in options.only:
        results.imports = imports.measure(plan.repeats)
    with _databases(options.only, results) as found_databases:
        if "ledger" in options.only:
            ledger.alone(found_databases, plan.ledger, plan.repeats, results.ledger)
        for name in options.brokers:
            _measure_on(name, found_databases, plan, options.only, results)
    targets = judged(results)
    found = report.text(results, targets)
    print(found)
    if options.json:
        options.json.write_text(json.dumps(results.as_json(targets), indent=2) + "\n", encoding="utf-8")
    if options.write:
        report.write(options.write, found)


@contextlib.contextmanager
def _databases(parts: list[str], results: Results) -> Iterator[list[Database]]:
    if not LOGGING & set(parts):
        yield []
        return
    with databases() as (found, skipped):
        results.environment |= {f"{each.name}, as a ledger": each.version for each in found}
        results.skipped |= skipped
        for name, reason in skipped.items():
            say(f"{name}, is skipped: {reason}")
        yield found


def _measure_on(name: str, ledgers: list[Database], plan: Plan, parts: list[str], results: Results) -> None:
    try:
        with running(name) as broker:
            say(f"{name}: {broker.version}")
            results.environment[name] = broker.version
            _measure(broker, ledgers, plan, parts, results)
    except Unavailable as exc:
        results.skipped[name] = str(exc)
        say(f"{name} is skipped: {exc}")


def _measure(broker: Broker, ledgers: list[Database], plan: Plan, parts: list[str], results: Results) -> None:
    if "latency" in parts:
        results.latency += latency.measure(broker, plan.seconds)
    if "publish" in parts:
        for subscribers in plan.publish_to:
            results.publish += publish.measure(broker, subscribers, plan.repeats, plan.scale, ledgers)
    if "execute" in parts:
        for pool in execute.POOLS:
            for subscribers in plan.execute_with:
                results.execute.append(execute.measure(broker, pool, subscribers, plan.executions, plan.repeats))
    if "ledger" in parts:
        ledger.with_broker(broker, ledgers, plan.ledger, plan.repeats, results.ledger)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="once, with few events: shows that it works, not how fast")
    parser.add_argument("--brokers", type=_names(BROKERS), default=["embedded", "rabbitmq"], help=",".join(BROKERS))
    parser.add_argument("--only", type=_names(PARTS), default=list(PARTS), help=",".join(PARTS))
    parser.add_argument("--repeats", type=int, help=f"measurements of each kind (default {FULL.repeats})")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything that was measured")
    parser.add_argument("--write", type=Path, metavar="FILE", help="replace the results in a document")
    return parser


def _names(known: tuple[str, ...]) -> Callable[[str], list[str]]:
    def names(given: str) -> list[str]:
        found = given.split(",")
        if unknown := set(found) - set(known):
            raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))}: choose from {', '.join(known)}")
        return found

    return names


if __name__ == "__main__":
    main()
