"""This bus: n agents that listen to the same event; async ones where they wait."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from time import monotonic
from typing import Any

from pipeline import Pipeline

from ..workload import BROKER, LEDGER, Work, data, done
from .scene import at_once, handle, subscribers, url, waits


def build(address: str, number: int, ledger: str = "", **settings: Any) -> Pipeline:
    """Return an application with `number` agents; without a ledger unless its address is given."""
    app = Pipeline(
        "bench", broker_url=address, ledger_url=ledger, directory=Path(), agents=(),
        result_backend="sqlite:///unused.db", publish_timeout=60.0, **settings,
    )  # fmt: skip

    async def wait(work: Work) -> None:
        await handle(work)

    def work(work: Work) -> None:
        done(work.sent)

    for each in range(number):
        limit = at_once() if waits() else None
        app.agent(on=Work, name=f"bench{each}", max_concurrent=limit)(wait if waits() else work)
    return app


def fill(address: str, number: int, executions: int) -> None:
    """Publish as many events as make `executions` deliveries, to queues that are there already."""
    app = build(address, number, os.environ.get(LEDGER, ""))
    app.publish_many([Work(**data()) for _ in range(executions // number)])
    app.close()


def pace(address: str, number: int, pauses: Iterable[None]) -> None:
    """Publish one confirmed event after each pause, with the time at which that began."""
    app = build(address, number, os.environ.get(LEDGER, ""))
    for _ in pauses:
        app.publish(Work(**data(monotonic())))
    app.close()


if BROKER in os.environ:
    app = build(url(), subscribers(), os.environ.get(LEDGER, ""))
