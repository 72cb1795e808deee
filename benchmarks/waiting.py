"""What waiting costs: a step beside an append, an idle worker beside so many parked deliveries, and their release.

    python -m benchmarks.waiting
    python -m benchmarks.waiting --postgresql --broker rabbitmq

SQLite (and PostgreSQL with --postgresql), a broker, a real worker.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any
from uuid import uuid4

from sqlalchemy import insert, update

from pipeline import Context, Pipeline
from pipeline.core.event import Encoded, new_event
from pipeline.core.ids import delivery_id
from pipeline.core.outcome import Outcome
from pipeline.core.times import SECOND, now
from pipeline.ledger.database.tables import deliveries
from pipeline.ledger.database.waiting import waits
from pipeline.ledger.ledger import Ledger

from .databases import SQLITE, Database, databases
from .progress import say
from .samples import median, percentile, ratio, timed
from .servers import Broker, running
from .workers import cpu_seconds, worker
from .workload import BROKER, LEDGER, Records, done

#: Deliveries that are released one after the other, and microseconds between two of them.
RELEASED, APART = 200, 50_000
#: Seconds that a worker has to start in.
START = 20.0


def build(url: str, ledger_url: str) -> Pipeline:
    """Return the measured application."""
    app = Pipeline("bench", broker_url=url, ledger_url=ledger_url, directory=Path(), agents=())

    @app.agent(on="bench.parked", name="bench0")
    def handle(data: dict[str, Any], ctx: Context) -> None:
        done(data["n"])

    return app


def __getattr__(name: str) -> Any:
    if name == "app":
        globals()["app"] = app = build(os.environ[BROKER], os.environ[LEDGER])
        return app
    raise AttributeError(name)


def step(ledger: Ledger, count: int, rounds: int) -> None:
    """Keep steps and append events in turns."""

    def keep() -> None:
        id = str(uuid4())
        for number in range(count):
            ledger.waiting.steps.keep(id, ("draft", number), now(), '{"text": "lorem ipsum", "tokens": 900}')

    def append() -> None:
        for _ in range(count):
            event = new_event("bench.step", {"text": "lorem ipsum", "tokens": 900}, source="/bench")
            ledger.append([Encoded(event, event.encode())], due_in=None)

    keep()
    append()
    pairs = [(timed(keep), timed(append)) for _ in range(rounds)]
    for what in ("cpu", "wall"):
        steps, appends = ([getattr(one, what) / count * 1e6 for one in ones] for ones in zip(*pairs, strict=True))
        say(f"  a step {median(steps):.0f} us ({what}), an append {median(appends):.0f}: {ratio(steps, appends)}")


def fill(ledger: Ledger, number: int) -> list[str]:
    """Park so many deliveries for a year; return their ids."""
    due = now() + 365 * 86400 * SECOND
    parked_ids: list[str] = []
    for start in range(0, number, 1000):
        some = [new_event("bench.parked", {"n": n}, source="/bench") for n in range(start, min(start + 1000, number))]
        ledger.append([Encoded(event, event.encode()) for event in some], due_in=None)
        ids = [(event.id, delivery_id(event.id, "bench0")) for event in some]
        parked = {"agent": "bench0", "outcome": Outcome.PARKED.value, "attempts": 0, "due": due, "started": now()}
        with ledger.database.transaction() as connection:
            connection.execute(insert(deliveries), [{"id": id, "event_id": event, **parked} for event, id in ids])
            wait = {"kind": "time", "key": "", "since": now(), "due": due}
            connection.execute(insert(waits), [{"delivery": id, **wait} for _, id in ids])
        parked_ids += [id for _, id in ids]
    return parked_ids


def released(broker: Broker, ledger_url: str, number: int, seconds: float) -> None:
    """Let a worker idle beside parked deliveries, and release some of them."""
    app = build(broker.url, ledger_url)
    ledger = app.ledger
    ids = fill(ledger, number)
    with tempfile.TemporaryDirectory(prefix="bench-records-") as directory:
        records = Records(Path(directory, "records"))
        with worker("waiting", broker, "prefork", 1, records.path, ledger_url) as process:
            time.sleep(START)  # so that neither its start is measured nor its look through the log
            before = cpu_seconds(process.pid)
            time.sleep(seconds)  # an idle worker, whose CPU time is what is measured
            idle = (cpu_seconds(process.pid) - before) / seconds * 100
            base, start = now() + 2 * SECOND, time.monotonic() + 2
            with ledger.database.transaction() as connection:
                for n, id in enumerate(ids[:RELEASED]):
                    connection.execute(update(waits).where(waits.c.delivery == id).values(due=base + n * APART))
            records.wait(RELEASED, 60)
        took = [(executed - start - n * APART / SECOND) * 1000 for n, executed in records.read()]
    app.close()
    say(
        f"  {number:,} parked: an idle worker takes {idle:.1f} % of a core; from due to the handler "
        f"p50 {percentile(took, 50):.0f} ms, p99 {percentile(took, 99):.0f} ms ({len(took)} released)"
    )


def measure(database: Database, options: argparse.Namespace) -> None:
    """Measure on one kind of ledger, each part on an empty one."""
    say(f"{database.name}:")
    with database.opened() as ledger:
        step(ledger, options.count, options.rounds)
    for number in (RELEASED, options.parked):
        with running(options.broker) as broker, database.address() as url:
            released(broker, url, number, options.idle)


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.waiting", description=str(__doc__).split("\n", 1)[0])
    parser.add_argument("--count", type=int, default=500, help="steps, and appends, in a round (default 500)")
    parser.add_argument("--rounds", type=int, default=7, help="rounds (default 7)")
    parser.add_argument("--parked", type=int, default=100_000, help="parked deliveries (default 100000)")
    parser.add_argument("--idle", type=float, default=20.0, help="seconds for which a worker idles (default 20)")
    brokers = ("embedded", "rabbitmq", "redis")
    parser.add_argument("--broker", choices=brokers, default="embedded", help="the worker's broker (default embedded)")
    parser.add_argument("--postgresql", action="store_true", help="measure on PostgreSQL, too")
    options = parser.parse_args()
    with databases() as (found, _):
        for database in found:
            if database.name == SQLITE or options.postgresql:
                measure(database, options)


if __name__ == "__main__":
    main()
