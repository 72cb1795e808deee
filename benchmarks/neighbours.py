"""What a slow agent costs its neighbours: their time from publish() to the handler, with and without its backlog.

    python -m benchmarks.neighbours
    python -m benchmarks.neighbours --brokers embedded,redis --pool prefork

One worker with room for two handlers runs a slow agent (a second for each event, one at a time) and a quick one, which
gets events at a steady rate: alone, and while the slow one's events wait. In turns; the ratio is that of each round.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from time import monotonic

from pipeline import Payload, Pipeline

from .progress import say
from .queues import of_agents
from .samples import median, percentile, ratio
from .servers import BROKERS, Broker, Unavailable, running
from .tables import table
from .workers import worker
from .workload import BROKER, LEDGER, Records, Work, data, done

#: Events per second of the quick agent, and seconds of the slow one's handler.
RATE, SLOW = 50.0, 1.0


class Tedious(Payload, type="bench.tedious"):
    """What the slow agent gets."""


def build(url: str, ledger: str = "") -> Pipeline:
    """Return the application."""
    app = Pipeline(
        "bench", broker_url=url, ledger_url=ledger, directory=Path(), agents=(), result_backend="sqlite:///unused.db",
        publish_timeout=60.0,
    )  # fmt: skip

    @app.agent(on=Tedious, max_concurrent=1)
    def slow(tedious: Tedious) -> None:
        time.sleep(SLOW)  # that is what is shown

    @app.agent(on=Work)
    def quick(work: Work) -> None:
        done(work.sent)

    return app


def measure(broker: Broker, pool: str, waiting: int, count: int) -> list[float]:
    """Return the milliseconds that each of `count` quick events took while so many wait for the slow agent."""
    app = build(broker.url)
    queues = of_agents(app)
    queues.purge()
    with tempfile.TemporaryDirectory(prefix="bench-records-") as directory:
        records = Records(Path(directory, "records"))
        if waiting:
            app.publish_many([Tedious()] * waiting)
        with worker("neighbours", broker, pool, 1, records.path):
            app.publish(Work(**data(monotonic())))
            records.wait(1, 120)
            time.sleep(SLOW)  # so that no start-up is measured
            started = monotonic()
            for number in range(count):
                time.sleep(max(started + number / RATE - monotonic(), 0))  # a steady rate
                app.publish(Work(**data(monotonic())))
            records.wait(count + 1, 300)
        took = [(executed - sent) * 1000 for sent, executed in records.read()[1:]]
    queues.purge()
    app.close()
    return took


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.neighbours", description=str(__doc__).split("\n", 1)[0])
    parser.add_argument("--brokers", default="rabbitmq", help=f"comma-separated, of {','.join(BROKERS)}")
    parser.add_argument("--pool", choices=("threads", "prefork"), default="threads", help="of the worker")
    parser.add_argument("--waiting", type=int, default=1000, help="events of the slow agent (default 1000)")
    parser.add_argument("--count", type=int, default=500, help="events of the quick agent (default 500)")
    parser.add_argument("--repeats", type=int, default=3, help="rounds (default 3)")
    options = parser.parse_args(arguments)
    rows = []
    for name in options.brokers.split(","):
        try:
            with running(name) as broker:
                rows.append(_row(broker, options))
        except Unavailable as exc:
            say(f"{name} is skipped: {exc}")
    print(table(["", "p50 alone", "p50 beside", "p99 alone", "p99 beside", "p99 beside / alone"], rows))


def _row(broker: Broker, options: argparse.Namespace) -> list[str]:
    p50: tuple[list[float], list[float]] = [], []
    p99: tuple[list[float], list[float]] = [], []
    for _ in range(options.repeats):
        for beside in (0, 1):
            took = measure(broker, options.pool, options.waiting * beside, options.count)
            p50[beside].append(percentile(took, 50))
            p99[beside].append(percentile(took, 99))
            found = f"p50 {p50[beside][-1]:.1f} ms, p99 {p99[beside][-1]:.1f} ms"
            say(f"{broker.name} {'beside' if beside else 'alone'}: {found}")
    figures = [f"{median(values):.1f} ms" for series in (p50, p99) for values in series]
    return [broker.name, *figures, str(ratio(p99[1], p99[0]))]


if BROKER in os.environ:
    app = build(os.environ[BROKER], os.environ.get(LEDGER, ""))
if __name__ == "__main__":
    main()
