"""Async agents; what an attempt does is written in the event's data."""

from __future__ import annotations

import asyncio
import contextvars
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

from celery import current_task, signals
from celery.utils.dispatch import Signal
from contract_app import FAST, append, is_open, journal, once
from sqlalchemy import text

from pipeline import Context, Pipeline, Retry

app = Pipeline("lane", ledger_timeout=float(os.environ.get("TIMEOUT", "5")))
clients: list[str] = []
whose = contextvars.ContextVar("whose", default=0)


@app.lifespan
async def client() -> AsyncIterator[None]:
    if os.environ.get("BROKEN") and once("lifespan"):
        raise ConnectionError("no client")
    clients.append("open")
    yield
    once("left")


def told_by(signal: Signal, name: str) -> None:
    """Let a signal of Celery's be written down, with the event and the process."""

    def tell(sender: Any = None, task_id: str = "", **_: Any) -> None:
        if sender is not None and sender.name == "agent.heard":
            append({"agent": name, "id": task_id or current_task.request.id, "pid": os.getpid(), "at": time.time()})

    signal.connect(tell, weak=False)


for each in ("task_prerun", "task_success", "task_postrun"):
    told_by(getattr(signals, each), each)


@app.agent(on="lane.heard")
async def heard(data: Any, ctx: Context) -> None:
    await asyncio.sleep(0.01)
    journal("heard", ctx, data)


@app.agent(on="lane.limited", rate_limit="2/s")
async def limited(data: Any, ctx: Context) -> None:
    journal("limited", ctx, data)


async def until(gate: str) -> None:
    while not is_open(gate):  # noqa: ASYNC110
        await asyncio.sleep(0.05)


@app.agent(on="lane.wait", max_concurrent=300, retry=FAST)
async def wait(data: Any, ctx: Context) -> None:
    journal("wait", ctx, data, task=str(current_task and current_task.name), clients=len(clients))
    if data.get("die"):
        await until(data["die"])
        os.kill(os.getpid(), signal.SIGKILL)
    await until(data["until"])
    journal("waited", ctx, data)


@app.agent(on="lane.default")
async def default(data: Any, ctx: Context) -> None:
    journal("default", ctx, data)
    await until("gate")
    journal("defaulted", ctx, data)


@app.agent(on="lane.wait")
def sync(data: Any, ctx: Context) -> None:
    journal("sync", ctx, data)


@app.agent(on="lane.cancelled", retry=FAST)
async def cancelled(data: Any, ctx: Context) -> None:
    journal("begun", ctx, data)
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        journal("cleaned up", ctx, data)
        if data.get("goes on"):
            return
        raise


@app.agent(on="lane.stubborn", timeout=0.2, retry=Retry(max=1, base=0.01))
async def stubborn(data: Any, ctx: Context) -> None:
    journal("stubborn", ctx, data)
    end = time.monotonic() + 60
    while time.monotonic() < end:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(1)


@app.agent(on="lane.blocks")
async def blocks(data: Any, ctx: Context) -> None:
    while not is_open(data["until"]):
        time.sleep(0.02)  # noqa: ASYNC251  # what it is for
    journal("blocked", ctx, data)


@app.agent(on="lane.hangs", timeout=0.2, retry=Retry(max=1, base=0.01))
async def hangs(data: Any, ctx: Context) -> None:
    journal("hangs", ctx, data)
    time.sleep(600)  # noqa: ASYNC251  # what it is for


@app.agent(on="lane.groups", retry=FAST)
async def groups(data: Any, ctx: Context) -> None:
    whose.set(data["n"])
    async with asyncio.TaskGroup() as group:
        children = [group.create_task(child()) for _ in range(3)]
    await asyncio.sleep(0)
    assert [one.result() for one in children] == [data["n"]] * 3
    assert current_task.request.id == ctx.delivery_id
    if data["n"] % 10 == 0 and ctx.attempt == 1:
        raise ValueError("told to fail")
    ctx.publish("lane.grouped", {"n": data["n"]})


async def child() -> int:
    await asyncio.sleep(0.01)
    return whose.get()


@app.agent(on="lane.grouped")
async def grouped(data: Any, ctx: Context) -> None:
    journal("grouped", ctx, data)


ADD = text("INSERT INTO counted (n) VALUES (:n)")


@app.agent(on="lane.effect", retry=FAST)
async def effect(data: Any, ctx: Context) -> None:
    await asyncio.sleep(0.05)
    if data.get("how") == "session":
        ctx.session.execute(ADD, data)
    else:
        async with ctx.transaction() as session:
            session.execute(ADD, data)
    if data.get("fail") and ctx.attempt == 1:
        raise ValueError("told to fail")
    journal("effect", ctx, data)
