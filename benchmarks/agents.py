"""The measured application: n agents, one event type. `celery -A benchmarks.agents worker` runs them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from pipeline import Pipeline

from .workload import BROKER, LEDGER, SUBSCRIBERS, Work, done


def build(url: str, subscribers: int, *, ledger_url: str = "", **settings: Any) -> Pipeline:
    """Return an application in which `subscribers` agents listen to the same event; without a ledger unless told."""
    app = Pipeline(
        "bench",
        broker_url=url,
        ledger_url=ledger_url,
        result_backend="sqlite:///unused.db",
        directory=Path(),
        agents=(),
        publish_timeout=60.0,
        **settings,
    )
    for number in range(subscribers):
        app.agent(on=Work, name=f"bench{number}")(handle)
    return app


def handle(work: Work) -> None:
    """Note the execution; the agents' whole work."""
    done(work.sent)


def __getattr__(name: str) -> Any:
    if name == "app":
        ledger_url = os.environ.get(LEDGER, "")
        globals()["app"] = app = build(os.environ[BROKER], int(os.environ[SUBSCRIBERS]), ledger_url=ledger_url)
        return app
    raise AttributeError(name)
