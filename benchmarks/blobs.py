"""A blob of 10 MB through a delivery, beside the same event without one; and a look for blobs that no event names.

`python -m benchmarks.blobs`: a real worker, the embedded broker, a ledger in SQLite, one event after the other.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any
from uuid import uuid4

from pipeline import Blob, Payload, Pipeline
from pipeline.operations.keeping.references import still_named

from .progress import say
from .queues import of_agents
from .samples import median, percentile
from .servers import Broker, running
from .workers import worker
from .workload import BROKER, LEDGER, Records, done

SIZE = 10_000_000
POOL = "prefork"
STORE = "BENCH_STORE"


class Report(Payload, type="bench.report"):
    """What is delivered, with content or without."""

    sent: float
    content: Blob | None = None


def build(url: str, ledger_url: str, store: str) -> Pipeline:
    """Return the measured application."""
    app = Pipeline("bench", broker_url=url, ledger_url=ledger_url, directory=Path(), agents=(), blob_store=store)
    app.agent(on=Report, name="bench0")(handle)
    return app


def handle(report: Report) -> None:
    """Read the content to its end, and note the execution."""
    if report.content is not None:
        with report.content.open() as file:
            while file.read(1024 * 1024):
                pass
    done(report.sent)


def __getattr__(name: str) -> Any:
    if name == "app":
        globals()["app"] = app = build(os.environ[BROKER], os.environ[LEDGER], os.environ[STORE])
        return app
    raise AttributeError(name)


def deliveries(broker: Broker, count: int) -> None:
    """Publish events with and without content in turns, each when the one before was handled."""
    ledger, store = f"sqlite:///{broker.directory / 'ledger.db'}", str(broker.directory / "blobs")
    app = build(broker.url, ledger, store)
    queues = of_agents(app)
    queues.purge()
    took: dict[bool, list[float]] = {True: [], False: []}
    publishing: dict[bool, list[float]] = {True: [], False: []}
    with tempfile.TemporaryDirectory(prefix="bench-records-") as directory:
        records = Records(Path(directory, "records"))
        with worker("blobs", broker, POOL, 1, records.path, ledger, **{STORE: store}):
            for number in range(2 * count + 2):
                with_content = bool(number % 2)
                content = os.urandom(SIZE) if with_content else b""
                started = time.monotonic()
                app.publish(Report(sent=started, content=Blob(content) if with_content else None))
                published = time.monotonic()
                records.wait(number + 1, 60)
                if number > 1:  # the first two start things up
                    publishing[with_content].append((published - started) * 1000)
        for number, (sent, executed) in enumerate(records.read()):
            if number > 1:
                took[bool(number % 2)].append((executed - sent) * 1000)
    queues.close()
    app.close()
    for with_content, name in ((False, "without"), (True, f"with {SIZE / 1e6:.0f} MB")):
        some = took[with_content]
        say(
            f"{name}: publish() {median(publishing[with_content]):.1f} ms, publish() to the content read to its end "
            f"p50 {percentile(some, 50):.1f} ms, p99 {percentile(some, 99):.1f} ms ({len(some)} events)"
        )


def look(directory: Path, number: int) -> None:
    """Look through a ledger with so many events for what no event names."""
    app = Pipeline(
        "bench", ledger_url=f"sqlite:///{directory / 'look.db'}", broker_url=f"sqlite:///{directory / 'b.db'}"
    )
    data = {"text": "lorem ipsum " * 20}
    with app.ledger.database.transaction() as connection:
        app.publish_many((("bench.filler", data) for _ in range(number)), session=connection)
    bytes_ = number * len(app.publish("bench.filler", data).encode())
    started = time.monotonic()
    still_named(app.ledger, {uuid4().hex * 2 for _ in range(10_000)})
    seconds = time.monotonic() - started
    app.close()
    say(f"a look through {number:,} events, {bytes_ / 1e6:.0f} MB: {seconds:.2f} s, {bytes_ / 1e6 / seconds:.0f} MB/s")


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.blobs", description=__doc__)
    parser.add_argument("--count", type=int, default=50, help="events with and as many without content (default 50)")
    parser.add_argument("--look", type=int, default=200_000, help="events to look through (default 200000)")
    options = parser.parse_args()
    with running("embedded") as broker:
        deliveries(broker, options.count)
        look(broker.directory, options.look)


if __name__ == "__main__":
    main()
