"""What being watched costs: CPU per delivery with traces, with metrics, and where nobody listens.

    python -m benchmarks.telemetry [--ledger] [--events 4000] [--repeats 5]

A solo worker on the embedded broker, in a process of its own for each run; the kinds take turns, and each is compared
with the plain run beside it. Measured is the process's CPU between the first and the last handler.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline import Pipeline

from .workload import Work, data

#: Nobody may listen; the library is there without an SDK; spans are made and thrown away; one in a hundred is made; the
#: port of metrics is open; each line of the log could be JSON.
KINDS = ("plain", "library", "traced", "sampled", "metrics", "json")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.telemetry", description=__doc__.split("\n")[0])
    parser.add_argument("--ledger", action="store_true", help="with SQLite as a ledger")
    parser.add_argument("--events", type=int, default=4000, help="deliveries of a run")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each kind")
    parser.add_argument("--one", choices=KINDS, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.one:
        print(json.dumps(measured(options.one, options.events, ledger=options.ledger)))
        return
    found: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for _ in range(options.repeats):
        for kind in KINDS:
            more = ["--ledger"] if options.ledger else []
            done = subprocess.run(
                [sys.executable, "-m", "benchmarks.telemetry", "--one", kind, "--events", str(options.events), *more],
                capture_output=True, text=True, check=True, timeout=600,
            )  # fmt: skip
            found[kind].append(json.loads(done.stdout.splitlines()[-1]))
    print("| | CPU us | of the plain one's |\n|---|---|---|")
    for kind, values in found.items():
        ratios = [one / plain for one, plain in zip(values, found["plain"], strict=True)]
        middle, low, high = statistics.median(ratios), min(ratios), max(ratios)
        print(f"| {kind} | {statistics.median(values):.0f} | {middle:.2f} ({low:.2f}-{high:.2f}) |")


def measured(kind: str, events: int, *, ledger: bool) -> float:
    """Return the microseconds of CPU that a delivery takes."""
    with tempfile.TemporaryDirectory() as place:
        return run(kind, events, Path(place), ledger=ledger)


def app_of(kind: str, place: Path, *, ledger: bool) -> Pipeline:
    """Return an app that is watched in one of the ways."""
    more: dict[str, Any] = {"traces": kind in ("library", "traced", "sampled")}
    if kind == "metrics":
        from tests.servers import free_port

        more["metrics_port"] = free_port()
    if kind == "json":
        more["log_format"] = "json"
    url = f"sqlite:///{place / 'ledger.db'}" if ledger else ""
    app = Pipeline("bench", directory=place, broker_url="", ledger_url=url, **more)
    app.celery.conf.worker_redirect_stdouts = False
    return app


def run(kind: str, events: int, place: Path, *, ledger: bool) -> float:
    """Publish, deliver, and return the microseconds of CPU of a delivery."""
    app = app_of(kind, place, ledger=ledger)
    begun: list[float] = []
    seen = 0

    @app.agent(on=Work, retry=1)
    def bench(work: Work) -> None:
        nonlocal seen
        seen += 1
        if seen == events // 10:  # warm by now
            begun.append(time.process_time())
        if seen == events:
            begun.append(time.process_time())
            from celery.worker import state

            state.should_stop = 0

    with app.celery.connection_for_write() as connection:
        for queue in app.celery.amqp.queues.consume_from.values():
            queue(connection.default_channel).declare()
    if ledger:
        app.ledger.subscribers.register({agent.name: (agent.patterns, None) for agent in app.agents})
    if kind in ("library", "traced", "sampled"):
        configure(kind)
    for _ in range(events // 100):
        app.publish_many([(Work.event_type, data()) for _ in range(100)])
    worker = app.celery.Worker(
        app=app.celery, pool="solo", concurrency=1, hostname="bench@localhost", loglevel="CRITICAL", quiet=True,
        logfile=os.devnull, without_mingle=True, without_gossip=True,
    )  # fmt: skip
    with contextlib.suppress(SystemExit):
        worker.start()
    app.close()
    first, last = begun
    return (last - first) / (events - events // 10) * 1e6


def configure(kind: str) -> None:
    """Bring the library, and perhaps an SDK whose spans are thrown away."""
    from opentelemetry import trace

    if kind == "library":
        return
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.sampling import ALWAYS_ON, ParentBased, TraceIdRatioBased

    sampler = ALWAYS_ON if kind == "traced" else ParentBased(TraceIdRatioBased(0.01))
    trace.set_tracer_provider(TracerProvider(sampler=sampler))


if __name__ == "__main__":
    main()
