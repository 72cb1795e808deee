"""Agents whose trees are stopped, in workers that kill themselves around what they hear of it, once for each tree."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from contract_app import append, once  # type: ignore[import-not-found]
from sqlalchemy import select

from pipeline import Context, Limit, Pipeline, Retry
from pipeline.delivery import inbox
from pipeline.ledger.bounding.trees import Trees
from pipeline.ledger.database import leases
from pipeline.ledger.database.waiting import stops
from pipeline.ledger.facts import Stop
from pipeline.publishing import outbox

# What a dead process has left in the outbox is sent again after seconds: the test is quicker, and sees more copies.
outbox.GRACE = inbox.GRACE = 1.0
leases.LEASE = 2.0

app = Pipeline("stops")
HERE = Path(os.environ["JOURNAL"]).parent
AGAIN = Retry(max=20, base=0.01, cap=0.05)
#: Seconds after which a handler that nobody stops gives up.
LONG = 300


@app.agent(on="tree.asked", limit=Limit(concurrent=2), retry=AGAIN)
async def awaiter(data: dict[str, Any], ctx: Context) -> None:
    append({"agent": "awaiter", "key": data["key"], "says": "began", "worker": os.getppid()})
    await asyncio.sleep(LONG if data["point"] else 0)
    ctx.publish("fruit.ripe", {"key": data["key"]})


@app.agent(on="tree.asked", limit=Limit(concurrent=2), retry=AGAIN)
def poller(data: dict[str, Any], ctx: Context) -> None:
    append({"agent": "poller", "key": data["key"], "says": "began", "worker": os.getppid()})
    end = time.monotonic() + LONG
    while data["point"] and not ctx.cancelled and time.monotonic() < end and os.getppid() != 1:
        time.sleep(0.05)
    ctx.publish("fruit.ripe", {"key": data["key"]})


@app.agent(on="fruit.ripe", retry=AGAIN)
def picker(data: dict[str, Any], ctx: Context) -> None:
    append({"agent": "picker", "key": data["key"]})


def die(point: str, found: list[Stop]) -> None:
    """End this process as `kill -9` does, the first time that it is about to hear of a tree, or has."""
    for stop in found:
        with suppress(FileNotFoundError):
            data = json.loads((HERE / f"asked-{stop.delivery}").read_text())
            if data["point"] == point and once(f"{point}-{data['key']}"):
                os.kill(os.getpid(), signal.SIGKILL)


_take_stops = Trees.take_stops


def take_stops(self: Trees, worker: str) -> list[Stop]:
    with self._database.reading() as connection:
        told = connection.execute(select(stops.c.delivery, stops.c.terminate).where(stops.c.worker == worker)).all()
    die("told", [Stop(*row) for row in told])
    heard = _take_stops(self, worker)
    die("told", heard)  # what was written in between
    die("heard", heard)
    return heard


Trees.take_stops = take_stops  # type: ignore[method-assign]
