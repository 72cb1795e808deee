"""Without a ledger: the time from publish() to the handler at a low rate, and the CPU that an idle worker uses."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from . import agents, bare
from .progress import say
from .queues import of_agents, of_tasks
from .samples import percentile
from .servers import Broker
from .workers import cpu_seconds, worker
from .workload import Records, Work, data

#: Events per second: far below what anybody can do, so that each finds an idle worker.
RATE = 20.0
#: Seconds between the worker's first execution and the idle measurement: its start-up has to be over.
SETTLE = 2.0
POOL = "prefork"


@dataclass(frozen=True)
class Latency:
    """Milliseconds from before publishing to the handler's first line, and the idle worker's CPU in % of a core."""

    broker: str
    kind: str
    pool: str
    events: int
    p50_ms: float
    p99_ms: float
    idle_percent: float

    def as_json(self) -> dict[str, Any]:
        """Return everything that was measured."""
        return asdict(self)


def measure(broker: Broker, seconds: float) -> list[Latency]:
    """Measure bare tasks and agents one after the other, for `seconds` each and as long idle."""
    app = agents.build(broker.url, 1)
    celery = bare.build(broker.url, 1)
    task = celery.tasks["bare.task0"]
    found = []
    for kind, queues, send in (
        ("bare", of_tasks(celery, 1), lambda: task.apply_async((data(time.monotonic()),))),
        ("agents", of_agents(app), lambda: app.publish(Work(**data(time.monotonic())))),
    ):
        queues.purge()
        found.append(_measure(broker, kind, send, seconds))
        queues.close()
    app.close()
    celery.close()
    return found


def _measure(broker: Broker, kind: str, send: Callable[[], object], seconds: float) -> Latency:
    count = int(RATE * seconds)
    with tempfile.TemporaryDirectory(prefix="bench-records-") as directory:
        records = Records(Path(directory, "records"))
        with worker(kind, broker, POOL, 1, records.path) as process:
            send()
            records.wait(1, 60)
            time.sleep(SETTLE)  # so that no start-up is measured
            idle = _idle(process.pid, seconds)
            started = time.monotonic()
            for number in range(count):
                time.sleep(max(started + number / RATE - time.monotonic(), 0))  # a steady rate
                send()
            records.wait(count + 1, 60)
        took = [(executed - sent) * 1000 for sent, executed in records.read()[1:]]
    found = Latency(broker.name, kind, POOL, count, percentile(took, 50), percentile(took, 99), idle)
    say(f"latency {broker.name} {kind}: p50 {found.p50_ms:.1f} ms, p99 {found.p99_ms:.1f} ms, idle {idle:.2f} %")
    return found


def _idle(pid: int, seconds: float) -> float:
    before, started = cpu_seconds(pid), time.monotonic()
    time.sleep(seconds)  # nothing is published meanwhile: that is what is measured
    return (cpu_seconds(pid) - before) / (time.monotonic() - started) * 100
