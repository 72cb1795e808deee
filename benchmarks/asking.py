"""How long an answer takes: from request() to its return, of a hop's time from publish() to the handler, in turns.

    python -m benchmarks.asking
    python -m benchmarks.asking --broker rabbitmq --count 400

A worker with a pool of threads and a SQLite ledger; one request, and one event, at a time, 20 each second. Then 1,000
requests at once from one process, by arequest().
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from pipeline import Pipeline

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

    @app.agent(on="bench.told", name="bench1")
    def note(data: dict[str, Any]) -> None:
        done(data["sent"])

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
                before = time.monotonic()
                app.request("bench.asked", {"n": n})
                took.append((time.monotonic() - before) * 1000)
                app.publish("bench.told", {"sent": time.monotonic()})
                time.sleep(APART)  # a steady rate, at which nobody waits for another one
            records.wait(count, 60)
            hops = [(executed - sent) * 1000 for sent, executed in records.read()]
            one, hop = percentile(took, 50), percentile(hops, 50)
            say(
                f"{broker_name}: a request p50 {one:.1f} ms, p99 {percentile(took, 99):.1f}; a hop p50 {hop:.1f} ms, "
                f"p99 {percentile(hops, 99):.1f}: {one / hop:.1f} hops"
            )
            before = time.monotonic()
            asyncio.run(_at_once(app))
            say(f"{broker_name}: {AT_ONCE:,} at once in {time.monotonic() - before:.1f} s")
        app.close()


def _is_there(app: Pipeline) -> bool:
    """Wait until the worker is."""
    while not app.ledger.subscribers.versions():
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
