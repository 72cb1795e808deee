"""How long an answer takes, one that needs another, and the end of a join, in hops from publish() to a handler.

    python -m benchmarks.asking
    python -m benchmarks.asking --broker rabbitmq --count 400

A worker with a pool of threads and a SQLite ledger; one request, one event, and one join of two members at a time, 50
ms after the last one, so that each finds everybody idle. A join's time is from the return of its last member to the
moment when the event that follows is recorded, in the transaction that ends it, and to that event's handler. Then 1,000
requests at once from one process, by arequest().
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from sqlalchemy import select

from pipeline import Pipeline
from pipeline.core.times import SECOND
from pipeline.ledger.database.tables import events

from .progress import say
from .samples import percentile
from .servers import running
from .workers import worker
from .workload import BROKER, LEDGER, Records, done

#: Seconds between two of them.
APART = 0.05
AT_ONCE = 1000


def build(url: str, ledger_url: str) -> Pipeline:
    """Return the measured application."""
    app = Pipeline("bench", broker_url=url, ledger_url=ledger_url, directory=Path(), agents=())

    @app.agent(on="bench.asked", name="bench0")
    def answer(data: dict[str, Any]) -> dict[str, Any]:
        return {"n": data["n"]}

    @app.agent(on="bench.relayed")
    async def relay(data: dict[str, Any]) -> Any:
        return (await app.arequest("bench.asked", data, targets=("bench0",))).result

    @app.agent(on="bench.told", name="bench1")
    def note(data: dict[str, Any]) -> None:
        done(data["sent"])

    @app.agent()
    def left(data: dict[str, Any]) -> list[float]:
        return _both_clocks()

    @app.agent()
    def right(data: dict[str, Any]) -> list[float]:
        return _both_clocks()

    app.join("bench2", on="bench.joined", agents=[left, right], emits="bench.ended")

    @app.agent(on="bench.ended", name="bench3")
    def ended(data: dict[str, Any]) -> None:
        done(max(at for at, _ in data["results"].values()))  # both processes read one clock

    return app


def __getattr__(name: str) -> Any:
    if name == "app":
        globals()["app"] = app = build(os.environ[BROKER], os.environ[LEDGER])
        return app
    raise AttributeError(name)


def measure(broker_name: str, count: int) -> None:
    """Measure on one broker."""
    with running(broker_name) as broker, tempfile.TemporaryDirectory(prefix="bench-asking-") as directory:
        ledger = f"sqlite:///{directory}/ledger.db"
        app = build(broker.url, ledger)
        records = Records(Path(directory, "records"))
        with worker("asking", broker, "threads", 4, records.path, ledger):
            app.gather("bench.asked", {"n": -1}, timeout=60) if _is_there(app) else None
            took = []
            for n in range(count):
                took.append(_asked(app, "bench.asked", n))
                app.publish("bench.told", {"sent": time.monotonic()})
                _apart()
            hops = _waited(records, 0, count)
            one, hop = percentile(took, 50), percentile(hops, 50)
            say(
                f"{broker_name}: a request p50 {one:.1f} ms, p99 {percentile(took, 99):.1f}; a hop p50 {hop:.1f} ms, "
                f"p99 {percentile(hops, 99):.1f}: {one / hop:.1f} hops"
            )
            for n in range(count):
                app.publish("bench.joined", {"n": n})
                records.wait(count + n + 1, 60)
                _apart()
            for what, times in ("recorded", _recorded(app)), ("handled", _waited(records, count, count)):
                end = percentile(times, 50)
                say(
                    f"{broker_name}: a join's end is {what} p50 {end:.1f} ms after its last member, "
                    f"p99 {percentile(times, 99):.1f}: {end / hop:.1f} hops"
                )
            two = percentile([_asked(app, "bench.relayed", n) for n in range(count)], 50)
            say(f"{broker_name}: a request that asks another agent p50 {two:.1f} ms: {two / hop:.1f} hops")
            before = time.monotonic()
            asyncio.run(_at_once(app))
            say(f"{broker_name}: {AT_ONCE:,} at once in {time.monotonic() - before:.1f} s")
        app.close()


def _asked(app: Pipeline, type: str, n: int) -> float:
    """Return how many milliseconds a request has taken."""
    before = time.monotonic()
    app.request(type, {"n": n})
    took = (time.monotonic() - before) * 1000
    _apart()
    return took


def _apart() -> None:
    time.sleep(APART)  # a steady rate, at which nobody waits for another one, and each finds the others idle


def _waited(records: Records, first: int, count: int) -> list[float]:
    """Return how many milliseconds so many handlers have been waited for."""
    records.wait(first + count, 60)
    return [(executed - sent) * 1000 for sent, executed in records.read()[first:]]


def _both_clocks() -> list[float]:
    return [time.monotonic(), time.time()]


def _recorded(app: Pipeline) -> list[float]:
    """Return how many milliseconds after the last member each join's event was written."""
    query = select(events.c.recorded, events.c.body).where(events.c.type == "bench.ended")
    rows = app.ledger.database.read(lambda connection: connection.execute(query).all())
    last = [max(at for _, at in json.loads(row.body)["data"]["results"].values()) for row in rows]
    return [(row.recorded / SECOND - at) * 1000 for row, at in zip(rows, last, strict=True)]


def _is_there(app: Pipeline) -> bool:
    """Wait until the worker is."""
    while not app.ledger.subscribers.versions(()):
        time.sleep(0.1)  # between two looks: the worker starts meanwhile
    return True


async def _at_once(app: Pipeline) -> None:
    asked = (app.arequest("bench.asked", {"n": n}, timeout=120) for n in range(AT_ONCE))
    found = await asyncio.gather(*asked)
    if [one.result["n"] for one in found] != list(range(AT_ONCE)):
        raise SystemExit("some answers are others' answers")


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.asking", description=str(__doc__).split("\n", 1)[0])
    parser.add_argument("--broker", choices=("embedded", "rabbitmq", "redis"), help="default embedded and rabbitmq")
    parser.add_argument("--count", type=int, default=200, help="requests, and events (default 200)")
    options = parser.parse_args()
    for name in [options.broker] if options.broker else ["embedded", "rabbitmq"]:
        measure(name, options.count)


if __name__ == "__main__":
    main()
