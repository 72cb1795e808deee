"""What async agents add to a worker's memory: the process of their event loop, idle, and with 500 handlers waiting.

    python -m benchmarks.lane

`celery worker` with nothing else given and a SQLite ledger on the embedded broker, in turns: with one sync agent; with
an async agent beside it of which nothing runs; and with 500 of its handlers waiting. What processes share counts once.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline import Pipeline

from .progress import say
from .samples import median
from .servers import running
from .workers import megabytes, worker
from .workload import BROKER, LEDGER, Records, done

#: The environment variable that says whether there is an async agent.
LANE = "BENCH_LANE"
AT_ONCE, SECONDS = 500, 8


def build(url: str, ledger: str, *, lane: bool) -> Pipeline:
    """Return the application."""
    app = Pipeline("bench", broker_url=url, ledger_url=ledger, directory=Path(), agents=())

    @app.agent(on="bench.told", name="bench1")
    def note(data: dict[str, Any]) -> None:
        done(data["sent"])

    if lane:

        @app.agent(on="bench.slow", name="bench0", max_concurrent=AT_ONCE)
        async def wait(data: dict[str, Any]) -> None:
            done(data["sent"])
            await asyncio.sleep(SECONDS)

    return app


def __getattr__(name: str) -> Any:
    if name == "app":
        globals()["app"] = app = build(os.environ[BROKER], os.environ[LEDGER], lane=bool(os.environ[LANE]))
        return app
    raise AttributeError(name)


def measure(waiting: int, *, lane: bool) -> float:
    """Return a worker's memory in MB."""
    with running("embedded") as broker, tempfile.TemporaryDirectory(prefix="bench-lane-") as directory:
        ledger = f"sqlite:///{directory}/ledger.db"
        app, records = build(broker.url, ledger, lane=lane), Records(Path(directory, "records"))
        with worker("lane", broker, "prefork", 1, records.path, ledger, **{LANE: "1" if lane else ""}) as process:
            while "bench1" not in app.ledger.subscribers.all():
                time.sleep(0.1)  # between two looks: the worker starts meanwhile
            app.publish("bench.told", {"sent": 0.0})
            records.wait(1, 60)
            app.publish_many([("bench.slow", {"sent": 0.0}) for _ in range(waiting)])
            records.wait(1 + waiting, 60)
            found = megabytes(process.pid)
        app.close()
        return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure in turns, and print what each adds."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=3, help="rounds (default 3)")
    repeats = parser.parse_args(arguments).repeats
    kinds = {"sync alone": (0, False), "an async agent": (0, True), f"{AT_ONCE} waiting": (AT_ONCE, True)}
    found: dict[str, list[float]] = {kind: [] for kind in kinds}
    for _ in range(repeats):
        for kind, (waiting, lane) in kinds.items():
            found[kind].append(measure(waiting, lane=lane))
            say(f"{kind}: {found[kind][-1]:.0f} MB")
    base = found["sync alone"]
    for kind, values in found.items():
        more = median([one - other for one, other in zip(values, base, strict=True)])
        print(f"{kind:<16}{median(values):6.0f} MB   {more:+.0f}", flush=True)


if __name__ == "__main__":
    main()
