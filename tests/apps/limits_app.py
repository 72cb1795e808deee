"""Agents with limits over all workers."""

from __future__ import annotations

import asyncio
import os
import time
from typing import Any

from contract_app import append, is_open, once  # type: ignore[import-not-found]

from pipeline import Context, Limit, Pipeline, Retry

app = Pipeline("limits")


def note(what: str, ctx: Context, **more: Any) -> None:
    append({"agent": what, "id": ctx.event.id, "at": time.time(), "pid": os.getpid(), **more})


@app.agent(on="rate.asked", limit=Limit(rate="10/s", burst=5))
def rated(data: dict[str, Any], ctx: Context) -> None:
    note("rated", ctx)


@app.agent(on="rate.asked", limit=Limit(rate="10/s", burst=5))
async def rated_async(data: dict[str, Any], ctx: Context) -> None:
    note("rated_async", ctx)


@app.agent(on="rate.asked", limit=Limit(rate="30/s", burst=15))
def rated_fast(data: dict[str, Any], ctx: Context) -> None:
    note("rated_fast", ctx)


@app.agent(on="slot.asked", limit=Limit(concurrent=5), retry=Retry(max=3, base=0.05))
def slotted(data: dict[str, Any], ctx: Context) -> None:
    note("slot", ctx, does="begins")
    time.sleep(data.get("seconds", 0.05))
    while data.get("until") and not is_open(data["until"]):
        time.sleep(0.02)
    if data.get("fails") and once(f"slot-{ctx.event.id}"):
        note("slot", ctx, does="ends")
        raise RuntimeError("told to fail")
    note("slot", ctx, does="ends")


@app.agent(on="order.changed", order_by="data.order", retry=Retry(max=3, base=0.02))
def ordered(data: dict[str, Any], ctx: Context) -> None:
    if data["n"] % 3 == 1 and once(f"order-{ctx.event.id}"):
        raise RuntimeError("told to fail")
    note("ordered", ctx, order=data["order"], n=data["n"])


@app.agent(on="fair.asked", limit=Limit(concurrent=4, fair_by="metadata.tenant"))
def fair(data: dict[str, Any], ctx: Context) -> None:
    while data.get("until") and not is_open(data["until"]):
        time.sleep(0.02)
    time.sleep(data.get("seconds", 0.05))
    note("fair", ctx, tenant=ctx.event.metadata["tenant"])


@app.agent(on="one.asked", limit=Limit(concurrent=1))
def single(data: dict[str, Any], ctx: Context) -> None:
    note("single", ctx, does="begins")
    while not is_open(data["until"]):
        time.sleep(0.02)
    note("single", ctx, does="ends")


@app.agent(on="one.asked", limit=Limit(concurrent=1))
async def single_async(data: dict[str, Any], ctx: Context) -> None:
    note("single_async", ctx, does="begins")
    while not is_open(data["until"]):  # noqa: ASYNC110
        await asyncio.sleep(0.05)
    note("single_async", ctx, does="ends")
