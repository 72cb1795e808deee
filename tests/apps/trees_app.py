"""Agents of a tree that is stopped: each says when it begins, and when it gets to its end."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from datetime import timedelta
from typing import Any

from contract_app import append, is_open, once  # type: ignore[import-not-found]

from pipeline import Context, Pipeline, Retry

app = Pipeline("trees")
#: Seconds after which a handler that nobody stops gives up.
LONG = 300


def says(what: str, ctx: Context) -> None:
    append({"agent": ctx.agent, "says": what, "id": ctx.event.id, "hops": ctx.event.hops, "pid": os.getpid()})


def goes_on() -> bool:
    return is_open("go-on")


@app.agent(on="tree.begun")
def planter(data: Any, ctx: Context) -> None:
    for type in ("work.held", "work.awaited", "work.polled", "work.slept", "work.failed"):
        ctx.publish(type, {})
    ctx.publish("work.late", {}, delay=timedelta(seconds=data.get("delay", 3600)))


@app.agent(on="work.held")
def holder(data: Any, ctx: Context) -> None:
    says("began", ctx)
    end = time.monotonic() + LONG
    while not goes_on() and time.monotonic() < end:
        time.sleep(0.02)
    ctx.publish("fruit.ripe", {})
    says("ended", ctx)


@app.agent(on="work.awaited")
async def awaiter(data: Any, ctx: Context) -> None:
    says("began", ctx)
    try:
        await asyncio.sleep(LONG)
    except asyncio.CancelledError:
        says("stopped", ctx)
        raise
    ctx.publish("fruit.ripe", {})


@app.agent(on="work.polled")
def poller(data: Any, ctx: Context) -> None:
    says("began", ctx)
    end = time.monotonic() + LONG
    while not ctx.cancelled and time.monotonic() < end:
        time.sleep(0.05)
    says("saw it", ctx)
    ctx.publish("fruit.ripe", {})


@app.agent(on="work.slept")
def sleeper(data: Any, ctx: Context) -> None:
    says("began", ctx)
    ctx.publish("fruit.ripe", {"early": True})
    ctx.sleep(3600)
    says("ended", ctx)


@app.agent(on="work.failed", retry=Retry(max=5, base=3600, cap=3600))
def failer(data: Any, ctx: Context) -> None:
    says("began", ctx)
    raise RuntimeError("told to fail")


@app.agent(on="work.late")
def latecomer(data: Any, ctx: Context) -> None:
    says("began", ctx)


@app.agent(on="fruit.ripe")
def picker(data: Any, ctx: Context) -> None:
    says("early" if data.get("early") else "began", ctx)


@app.agent(on="chain.#", retry=Retry(max=0))
def link(data: Any, ctx: Context) -> None:
    """Emit as many of the next as it is told, for ever."""
    says("began", ctx)
    for _ in range(data["width"]):
        ctx.publish("chain.on", data)
    time.sleep(0.02)


app.budget("tenant", tokens=100, per="day", key="metadata.tenant")
app.budget("reviews", tokens=10, at_limit="ask")
app.budget("drafts", tokens=10, key="agent", at_limit="degrade")


@app.agent(on="text.wanted", retry=Retry(max=3, base=0.01))
def writer(data: Any, ctx: Context) -> None:
    reservation = ctx.budget.reserve(tokens=data["tokens"])
    if data.get("fails", 0) >= ctx.attempt:
        raise RuntimeError("after the reservation")
    if data.get("dies") and once(f"died-{ctx.event.id}"):
        os.kill(os.getpid(), signal.SIGKILL)
    append({"agent": "writer", "id": ctx.event.id, "granted": bool(reservation), "left": ctx.budget.left.tokens})
    reservation.settle(tokens=data.get("spent", data["tokens"]))


@app.agent(on="text.awaited")
async def asynchronous_writer(data: Any, ctx: Context) -> None:
    reservation = ctx.budget.reserve(tokens=data["tokens"])
    await asyncio.sleep(0)
    reservation.settle(tokens=data["tokens"])
    append({"agent": "asynchronous_writer", "id": ctx.event.id, "attempt": ctx.attempt})
