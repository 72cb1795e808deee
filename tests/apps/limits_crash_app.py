"""Agents with limits over all workers, in processes that kill themselves around each arrow of a line, once each.

An event's data names the point. The methods at both sides of it are the product's own; here they are only wrapped.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from contract_app import append, is_open, once  # type: ignore[import-not-found]
from sqlalchemy import Connection

from pipeline import Context, Limit, Pipeline, Retry
from pipeline.core.limits.limit import SLOT
from pipeline.delivery import inbox
from pipeline.delivery.inbox import Inbox
from pipeline.ledger.database import leases
from pipeline.ledger.limits.lines import Ending, Line, Lines
from pipeline.publishing import outbox
from pipeline.workers.chores import Chores

# What a dead process has left in the outbox is sent again after seconds: the test is quicker, and sees more copies.
outbox.GRACE = inbox.GRACE = 1.0
leases.LEASE = 2.0

app = Pipeline("crowd")
HERE = Path(os.environ["JOURNAL"]).parent
AGAIN = Retry(max=20, base=0.01, cap=0.05)


def work(data: dict[str, Any], ctx: Context) -> None:
    line = {"agent": ctx.agent, "id": ctx.event.id, "pid": os.getpid(), "key": data["key"]}
    append({**line, "does": "begins", "at": time.time()})
    while data.get("until") and not is_open(data["until"]):
        time.sleep(0.02)
    ctx.publish("work.done", {"key": data["key"]})
    append({**line, "does": "ends", "at": time.time()})


@app.agent(on="slot.asked", limit=Limit(concurrent=2), retry=AGAIN)
def slotted(data: dict[str, Any], ctx: Context) -> None:
    work(data, ctx)


@app.agent(on="order.asked", order_by="data.order", retry=AGAIN)
def ordered(data: dict[str, Any], ctx: Context) -> None:
    work(data, ctx)


@app.agent(on="work.done", retry=AGAIN)
def witness(data: dict[str, Any], ctx: Context) -> None:
    append({"agent": "witness", "key": data["key"]})


def die(point: str, delivery: str) -> None:
    """End this process as `kill -9` does, the first time that the delivery passes its point."""
    with suppress(FileNotFoundError):
        data = json.loads((HERE / f"asked-{delivery}").read_text())
        if data["point"] == point and once(f"{point}-{data['key']}"):
            append({"agent": "dead", "pid": os.getpid(), "at": time.time()})
            os.kill(os.getpid(), signal.SIGKILL)


_take, _parked, _hand_on = Lines.take, Inbox.parked, Lines.hand_on
_call, _succeed, _sent, _look = Lines._call, Inbox.succeed, Chores.send_at_once, Chores.look


def take(self: Lines, delivery: str, *turns: Any) -> tuple[float, str | None]:
    taken = _take(self, delivery, *turns)
    if taken[1] is None:
        die("taken", delivery)
    return taken


def hand_on(self: Lines, connection: Connection, ending: Ending, opened: Sequence[Line]) -> None:
    _hand_on(self, connection, ending, opened)
    die("parking" if ending.line else "handing", ending.delivery)


def parked(self: Inbox, delivery: Any, attempt: int, parks: Any) -> Any:
    result = _parked(self, delivery, attempt, parks)
    if parks.wait.kind == SLOT:
        die("parked", delivery.id)
    return result


def succeed(self: Inbox, delivery: Any, *how: Any) -> Any:
    result = _succeed(self, delivery, *how)
    die("handed", delivery.id)
    return result


def call(self: Lines, connection: Connection, line: str, ids: Sequence[str]) -> tuple[list[str], list[str]]:
    released, busy = _call(self, connection, line, ids)
    for id in released:
        (HERE / f"called-{id}").touch()
        die("calling", id)
    return released, busy


def named(prefix: str) -> list[str]:
    return [path.name.removeprefix(prefix) for path in HERE.glob(f"{prefix}*")]


def send_at_once(self: Chores) -> int:
    for id in named("called-"):
        die("called", id)
    number = _sent(self)
    for id in named("called-"):
        (HERE / f"sent-{id}").touch()
    for id in named("sent-"):
        die("sent", id)
    return number


def look(self: Chores) -> int:
    for point in ("called", "sent"):  # more were called together than a worker can die of
        for id in named(f"{point}-"):
            die(point, id)
    return _look(self)


Lines.take, Inbox.parked, Lines.hand_on, Lines._call = take, parked, hand_on, call  # type: ignore[method-assign]
Inbox.succeed, Chores.send_at_once, Chores.look = succeed, send_at_once, look  # type: ignore[method-assign]
