"""`python -m benchmarks`: measure, print, and write what was asked for."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from . import execute, imports, latency, publish, report
from .progress import say
from .results import Results, environment
from .servers import BROKERS, Broker, Unavailable, running
from .targets import judged

PARTS = ("publish", "execute", "latency", "import")


@dataclass(frozen=True)
class Plan:
    """How much is measured.

    Attributes:
        scale: the part of the usual number of events that a publisher's burst has.
        executions: of one worker's run.
        seconds: of each latency and each idle measurement.

    """

    repeats: int
    scale: float
    publish_to: tuple[int, ...]
    execute_with: tuple[int, ...]
    executions: int
    seconds: float


FULL = Plan(repeats=5, scale=1.0, publish_to=(1, 5, 20), execute_with=(1, 5, 20), executions=5000, seconds=10.0)
QUICK = Plan(repeats=1, scale=0.1, publish_to=(1, 20), execute_with=(1,), executions=500, seconds=1.0)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line."""
    options = _parser().parse_args(arguments)
    plan = QUICK if options.quick else FULL
    plan = Plan(**{**vars(plan), "repeats": options.repeats or plan.repeats})
    results = Results(environment(plan.repeats))
    if "import" in options.only:
        results.imports = imports.measure(plan.repeats)
    for name in options.brokers:
        try:
            with running(name) as broker:
                say(f"{name}: {broker.version}")
                results.environment[name] = broker.version
                _measure(broker, plan, options.only, results)
        except Unavailable as exc:
            results.skipped[name] = str(exc)
            say(f"{name} is skipped: {exc}")
    targets = judged(results)
    found = report.text(results, targets)
    print(found)
    if options.json:
        options.json.write_text(json.dumps(results.as_json(targets), indent=2) + "\n", encoding="utf-8")
    if options.write:
        report.write(options.write, found)


def _measure(broker: Broker, plan: Plan, parts: list[str], results: Results) -> None:
    if "latency" in parts:
        results.latency += latency.measure(broker, plan.seconds)
    if "publish" in parts:
        for subscribers in plan.publish_to:
            results.publish += publish.measure(broker, subscribers, plan.repeats, plan.scale)
    if "execute" in parts:
        for pool in execute.POOLS:
            for subscribers in plan.execute_with:
                results.execute.append(execute.measure(broker, pool, subscribers, plan.executions, plan.repeats))


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
