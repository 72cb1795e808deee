"""Sagas and workflows whose steps are flows, are done for each item of a list, have a time, or wait.

What an agent does is written in the data of its flow's event, by its name.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from typing import Any

from contract_app import is_open, journal  # type: ignore[import-not-found]

from pipeline import Agent, Context, Event, Pipeline, Retry, step

app = Pipeline("flows")
ONCE = Retry(max=0)
#: Seconds that are over when the test says so.
LONG = 600.0


def works(ctx: Context, data: Any) -> str:
    assert ctx.flow is not None
    journal(ctx.agent, ctx, data, results=ctx.flow.results, flow=ctx.flow.id)
    wish: str = (ctx.flow.original or {}).get(ctx.agent, "") if isinstance(ctx.flow.original, dict) else ""
    if wish == "fail" or (wish == "fail until mended" and not is_open("mended")):
        raise RuntimeError(f"{ctx.agent} was told to fail")
    return wish


def agent(name: str) -> Agent[Any, Any]:
    async def handler(data: Any, ctx: Context) -> Any:
        wish = works(ctx, data)
        if wish == "wait":
            await asyncio.sleep(3600)
        return {"by": name, "got": data} if wish == "echo" else {"by": name}

    return app.agent(name=name, retry=ONCE)(handler)


@app.agent(retry=ONCE)
def blocks(data: Any, ctx: Context) -> str:
    asks = (wish := works(ctx, data)) == "ask"
    deadline = time.monotonic() + 60
    while not is_open("gate") and time.monotonic() < deadline:
        if asks and ctx.cancelled:
            journal("told", ctx, data)
            break
        time.sleep(0.02)  # what nobody can stop
    if wish == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    return "late"


@app.agent(retry=ONCE)
def naps(data: Any, ctx: Context) -> str:
    works(ctx, data)
    ctx.sleep(0.3)
    answer = ctx.ask("ship", {"order": data["order"]}, expires="1h")
    return f"approved {answer.args['order']}"


@app.agent(retry=ONCE)
async def part(item: Any, ctx: Context) -> Any:
    assert ctx.flow is not None
    journal(ctx.agent, ctx, item, results=ctx.flow.results)
    if isinstance(item, dict) and item.get("wait"):
        await asyncio.sleep(3600)
    if isinstance(item, dict) and item.get("fail"):
        while item["fail"] == "at the gate" and not is_open("gate"):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        raise RuntimeError("part was told to fail")
    return {"part": item}


names = (
    "first",
    "unfirst",
    "last",
    "unlast",
    "authorize",
    "void",
    "capture",
    "unpay",
    "unparts",
    "plan",
    "left",
    "right",
)
first, unfirst, last, unlast, authorize, void, capture, unpay, unparts, plan, left, right = map(agent, names)

payment = app.saga("payment", on="payment.asked", steps=[step(authorize, undo=void), capture])
sides = app.join("sides", on="sides.asked", agents=[left, right], emits="sides.done")
each_part = app.join("each-part", on="each.asked", agents=[part], each="data.items", emits="each.done")

app.saga("trip", on="trip.asked", steps=[step(first, undo=unfirst), step(payment, undo=unpay), last])
app.saga("paid", on="paid.asked", steps=[step(first, undo=unfirst, final=True), step(payment), last])

shared = app.saga("shared", on="shared.asked", steps=[step(authorize, undo=void), capture], key="data.number")
shares = step(shared, input={"number": "data.of", "capture": "data.capture"})
app.saga("sharing", on="sharing.asked", steps=[step(first, undo=unfirst, final=True), shares, last])
app.saga("given", on="given.asked", steps=[step(payment, input={"capture": "data.how"}), step(sides)])
app.saga("lists", on="lists.asked", steps=[step(each_part), last])
app.saga("timely", on="timely.asked", steps=[step(first, undo=unfirst), step(last, timeout=LONG)])
app.saga("blocked", on="blocked.asked", steps=[step(first, undo=unfirst), step(blocks, timeout=LONG)])
app.saga("hurried", on="hurried.asked", steps=[step(first, undo=unfirst), step(payment, timeout="10m")])
app.saga("waits", on="waits.asked", steps=[step(first, undo=unfirst), naps])
app.saga("waits-little", on="waits-little.asked", steps=[step(first, undo=unfirst), step(naps, timeout=1.5)])
app.saga("held", on="held.asked", steps=[step(first, undo=unfirst, final=True), step(blocks, timeout=LONG)])
app.saga("final", on="final.asked", steps=[step(first, undo=unfirst, final=True), step(last, timeout=LONG), step(left)])
app.saga(
    "parts",
    on="parts.asked",
    steps=[step(first, undo=unfirst), step(part, each="data.items", undo=unparts, name="parts"), last],
)
app.workflow(
    "review",
    on="review.asked",
    steps={
        "plan": step(plan),
        "parts": step(part, each="results.plan.got.items", after="plan", on_failure="collect"),
        "trips": step(payment, each="data.trips", after="plan"),
        "last": step(last, after=["parts", "trips"]),
    },
)


def amounts(event: Event, results: dict[str, Any]) -> dict[str, Any]:
    """Return what a step gets, made of what it is not to be named for."""
    return {"amount": event.data["total"] * 2, "by": results["first"]["by"]}


steps = [step(first, undo=unfirst), step(last, input=None if "WITHOUT" in os.environ else amounts)]
if "WITHOUT" not in os.environ:
    app.saga("made", on="made.asked", steps=steps)


@app.agent(on=["*.completed", "*.failed", "sides.done", "saga.*"])
def outcome(data: Any, ctx: Context) -> None:
    journal("outcome", ctx, data)
