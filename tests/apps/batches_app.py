"""Agents whose handlers take many events at once, in the pool and on the event loop."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from typing import Any

from contract_app import append, is_open, once  # type: ignore[import-not-found]
from sqlalchemy import text

from pipeline import Batch, Context, Event, Limit, Payload, Pipeline, Retry

app = Pipeline("batches")


class Page(Payload, type="page.seen"):
    n: int
    tenant: str = ""
    run: str = ""


def note(agent: str, pages: list[Page], ctx: Context) -> None:
    assert [event.data["n"] for event in ctx.events] == [page.n for page in pages]
    assert ctx.event == ctx.events[0]
    append(
        {
            "agent": agent,
            "id": ctx.event.id,
            "attempt": ctx.attempt,
            "ids": [event.id for event in ctx.events],
            "n": [page.n for page in pages],
            "tenants": sorted({page.tenant for page in pages}),
            "pid": os.getpid(),
        }
    )


def embed(pages: list[Page], ctx: Context) -> None:
    note(ctx.agent, pages, ctx)
    run = pages[0].run
    if run == "fails once" and once(f"{ctx.agent}-{ctx.event.id}"):
        raise RuntimeError("told to fail")
    if run == "fails" and not is_open("mended"):
        raise RuntimeError("told to fail for ever")
    ctx.publish("pages.embedded", {"pages": [page.n for page in pages]})


big = Batch(most=100, wait="3s", key="data.tenant")
again = Retry(max=2, base=0.05)


@app.agent(on=Page, batch=big, retry=again)
def pool(pages: list[Page], ctx: Context) -> None:
    embed(pages, ctx)


@app.agent(on=Page, batch=big, retry=again)
async def lane(pages: list[Page], ctx: Context) -> None:
    await asyncio.sleep(0)
    embed(pages, ctx)


full = Batch(most=100, wait="1h")


@app.agent(on=Page, batch=full)
def full_pool(pages: list[Page], ctx: Context) -> None:
    embed(pages, ctx)


@app.agent(on=Page, batch=full)
async def full_lane(pages: list[Page], ctx: Context) -> None:
    embed(pages, ctx)


small = Batch(most=4, wait="1s")


@app.agent(on="step.wanted", batch=small, retry=again, limit=Limit(concurrent=1))
def stepping_pool(events: list[Event], ctx: Context) -> None:
    assert events == list(ctx.events)
    number = ctx.step("count", _counted, ctx, len(events))
    ctx.sleep(0.2)
    ctx.step("batch", len, ["a step of any name"])
    ctx.session.execute(text("SELECT 1"))
    append({"agent": "stepped", "id": ctx.event.id, "number": number, "attempt": ctx.attempt})


@app.agent(on="step.wanted", batch=small, retry=again)
async def stepping_lane(events: list[Event], ctx: Context) -> None:
    number = ctx.step("count", _counted, ctx, len(events))
    await ctx.sleep(0.2)
    append({"agent": "stepped", "id": ctx.event.id, "number": number, "attempt": ctx.attempt})


def _counted(ctx: Context, number: int) -> int:
    append({"agent": "counted", "id": ctx.event.id})
    return number


@app.agent(on="death.wanted", batch=small, retry=again)
def killed_pool(data: list[dict[str, Any]], ctx: Context) -> None:
    _die_once(data, ctx)


@app.agent(on="death.wanted", batch=small, retry=again)
async def killed_lane(data: list[dict[str, Any]], ctx: Context) -> None:
    _die_once(data, ctx)


def _die_once(data: list[dict[str, Any]], ctx: Context) -> None:
    append({"agent": "dies", "id": ctx.event.id, "n": [one["n"] for one in data], "pid": os.getpid()})
    if data[0].get("always") or once("killed"):
        os.kill(os.getpid(), signal.SIGKILL)
    append({"agent": "lives", "id": ctx.event.id, "n": [one["n"] for one in data]})


@app.agent(on="hold.wanted", batch=Batch(most=4, wait="1h"), retry=again)
def holder(data: list[dict[str, Any]], ctx: Context) -> None:
    append({"agent": "begins", "id": ctx.event.id, "n": [one["n"] for one in data], "pid": os.getpid()})
    while not is_open("gate"):
        time.sleep(0.05)
    append({"agent": "ends", "id": ctx.event.id, "n": [one["n"] for one in data]})


@app.agent(on="pages.embedded")
def index(data: dict[str, Any], ctx: Context) -> None:
    append({"agent": "index", "id": ctx.event.id, "pages": data["pages"], "causation": ctx.event.causation_id})
