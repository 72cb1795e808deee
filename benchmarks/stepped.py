"""The measured agent with a clock at every step of its deliveries. `celery -A benchmarks.stepped worker` runs it.

A solo worker: deliveries run one after the other in its main thread, so that what no step has taken is the rest: the
broker's input and output, decoding and validating, the worker's loop.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from pipeline import Payload, Pipeline
from pipeline.delivery.short.way import ShortWay

from . import agents
from .steps import DELIVERING, Clock, watch
from .workload import BROKER, LEDGER, Work, done

#: The environment variables: whether the agent emits, after how many deliveries to stop, and where to write.
EMITS, COUNT, STEPS = "BENCH_EMITS", "BENCH_COUNT", "BENCH_STEPS"
#: The part of the deliveries that warms up and is not counted.
WARM_UP = 0.1
NAME, SINK = "bench", "sink"


class Done(Payload, type="bench.done"):
    """What the agent emits."""

    user_id: str


def build(url: str, ledger_url: str, *, emits: bool, sink: bool) -> Pipeline:
    """Return the application; with the sink, an agent that listens to what the first one emits."""
    app = agents.build(url, 0, ledger_url=ledger_url)
    app.agent(on=Work, name=NAME)(handle_and_emit if emits else handle)
    if sink:
        app.agent(on=Done, name=SINK)(receive)
    return app


def handle(work: Work) -> None:
    """Note the execution; the agent's whole work."""
    done(work.sent)


def handle_and_emit(work: Work) -> Done:
    """Do the same, and emit one event."""
    done(work.sent)
    return Done(user_id=work.user_id)


def receive(_: Done) -> None:
    """Never run: nobody consumes the sink's queue, but the events have somewhere to go."""


class Report:
    """Counts deliveries, and writes what their steps took when there were enough."""

    def __init__(self, count: int, path: Path) -> None:
        self._first = int(count * WARM_UP)
        self._count = count
        self._path = path
        self._number = 0
        self._started = 0.0
        self._clock = Clock()
        watch(self._clock, DELIVERING)
        end = ShortWay._end

        def counted(way: ShortWay, taken: Any) -> None:
            end(way, taken)
            self._ended()

        ShortWay._end = counted  # type: ignore[method-assign]  # it is what is measured

    def _ended(self) -> None:
        self._number += 1
        if self._number == self._first:
            self._clock.seconds.clear()
            self._started = time.perf_counter()
        elif self._number == self._count:
            found = {
                "deliveries": self._count - self._first,
                "seconds": time.perf_counter() - self._started,
                "steps": dict(self._clock.seconds),
            }
            unfinished = self._path.with_suffix(".part")
            unfinished.write_text(json.dumps(found))
            unfinished.rename(self._path)


def __getattr__(name: str) -> Any:
    if name == "app":
        Report(int(os.environ[COUNT]), Path(os.environ[STEPS]))
        emits = os.environ[EMITS] == "yes"
        globals()["app"] = app = build(os.environ[BROKER], os.environ[LEDGER], emits=emits, sink=False)
        return app
    raise AttributeError(name)
