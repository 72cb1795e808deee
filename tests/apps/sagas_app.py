"""A saga of four steps and a workflow: what a step does is written in the order's data, by its name."""

from __future__ import annotations

import asyncio
from typing import Any

from contract_app import is_open, journal, once  # type: ignore[import-not-found]

from pipeline import Agent, Context, Pipeline, Retry, step

app = Pipeline("sagas")
FAST = Retry(max=1, base=0.05)


def works(wishes: dict[str, Any], ctx: Context, data: Any) -> None:
    journal(ctx.agent, ctx, data, results=ctx.flow.results if ctx.flow else None)
    wish = wishes.get(ctx.agent, "")
    times = {"fail": 1000, "fail once": 1, "fail twice": 2}.get(wish, 0)
    if (wish == "fail until mended" and not is_open("mended")) or any(once(f"{ctx.agent}-{n}") for n in range(times)):
        raise RuntimeError(f"{ctx.agent} was told to fail")


def does(name: str) -> Agent[Any, Any]:
    def handler(data: dict[str, Any], ctx: Context) -> dict[str, Any]:
        assert ctx.flow is not None
        works(ctx.flow.original, ctx, data)
        return {"id": f"{name}-1"}

    return app.agent(name=name, retry=FAST)(handler)


def undoes(name: str) -> Agent[Any, Any]:
    def handler(result: dict[str, Any], ctx: Context) -> None:
        assert ctx.flow is not None
        works(ctx.flow.original, ctx, result)

    return app.agent(name=name, retry=FAST)(handler)


create, reserve, complete = (does(name) for name in ("create", "reserve", "complete"))
cancel, release, refund = (undoes(name) for name in ("cancel", "release", "refund"))


@app.agent(retry=FAST)
async def pay(data: dict[str, Any], ctx: Context) -> dict[str, Any]:
    assert ctx.flow is not None
    works(ctx.flow.original, ctx, data)
    if ctx.flow.original.get("pay") == "wait":
        await asyncio.sleep(3600)
    return {"id": "pay-1", "amount": data["amount"]}


STEPS = [
    step(create, undo=cancel),
    step(reserve, undo=release),
    step(pay, undo=refund, input={"amount": "data.total", "order": "results.create.id"}),
    complete,
]
app.saga("order", on="order.placed", steps=STEPS, emits="order.done", fails="order.failed")
app.saga("once", on="once.placed", steps=STEPS, key="data.number")
app.saga("hurried", on="hurried.placed", steps=STEPS, deadline=3600)
app.saga("brave", on="brave.placed", steps=[step(create, undo=cancel), step(pay, final=True), complete])
app.workflow(
    "review",
    on="review.asked",
    steps={
        "create": step(create),
        "reserve": step(reserve, after="create", when={"data.stock": {"$gt": 0}}),
        "pay": step(pay, after=["create"], input={"amount": "data.total"}),
        "complete": step(complete, after=["reserve", "pay"]),
        "never": step(cancel, after="reserve", when={"results.reserve.id": "nobody"}, name="ignored"),
    },
)


@app.agent(on=["order.done", "order.failed", "*.completed", "*.failed", "saga.*"])
def outcome(data: Any, ctx: Context) -> None:
    journal("outcome", ctx, data)
