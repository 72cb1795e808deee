"""Agents with contracts: a filter, upcasters, or many of them, run by `celery -A benchmarks.contracted worker`.

The environment says which kind (see KINDS); all handlers note their execution and do nothing else.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from pipeline import Payload, Pipeline

from .workload import BROKER, LEDGER, done

KIND = "BENCH_KIND"
#: Without anything; with a filter of five conditions, of which all are met; with data that is three versions old; and
#: with many agents, of which one wants the event.
KINDS = PLAIN, FILTERED, UPCAST, MANY = "plain", "filtered", "upcast", "many"
AGENTS = 1000
FIVE = (
    "user_id PREFIX 'user-' AND sent >= 0 AND query CONTAINS sources AND NOT user_id = nobody AND "
    "(priority <= 5 OR source = '/elsewhere')"
)


class Work(Payload, type="bench.contract", version="4.0.0"):
    """What the handlers take."""

    sent: float
    user_id: str
    query: str
    steps: int = 0


def build(url: str, ledger_url: str, kind: str) -> Pipeline:
    """Return the application."""
    app = Pipeline(
        "bench", broker_url=url, ledger_url=ledger_url, result_backend="sqlite:///unused.db", directory=Path(),
        agents=(), publish_timeout=60.0,
    )  # fmt: skip
    if kind == MANY:
        for number in range(AGENTS):
            app.subscribe(Work, handle, where=f"user_id = 'user-{number}'", name=f"bench{number}")
        return app
    app.subscribe(Work, handle, where=FIVE if kind == FILTERED else None, name="bench")
    if kind == UPCAST:
        for major in (1, 2, 3):
            app.upcaster(Work.event_type, f"{major}.0.0", f"{major + 1}.0.0")(step)
    return app


def handle(work: Work) -> None:
    """Note the execution."""
    done(work.sent)


def step(data: dict[str, Any]) -> dict[str, Any]:
    """Make the next version's data of one version's."""
    return {**data, "steps": data.get("steps", 0) + 1}


def __getattr__(name: str) -> Any:
    if name == "app":
        globals()["app"] = app = build(os.environ[BROKER], os.environ.get(LEDGER, ""), os.environ[KIND])
        return app
    raise AttributeError(name)
