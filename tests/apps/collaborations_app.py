"""Agents that work together as somebody says at run time; what one does is written in the payload, by its name."""

from __future__ import annotations

import asyncio
from typing import Any

from contract_app import journal  # type: ignore[import-not-found]

from pipeline import Agent, Context, Pipeline, Retry

app = Pipeline("together")
ONCE = Retry(max=0)


def agent(name: str) -> Agent[Any, Any]:
    async def handler(data: dict[str, Any], ctx: Context) -> Any:
        assert ctx.flow is not None
        assert ctx.flow.kind == "collaboration"
        journal(name, ctx, data, results=ctx.flow.results)
        wish = (ctx.flow.original or {}).get(name)
        if wish == "wait":
            await asyncio.sleep(3600)
        if wish == "fail":
            raise RuntimeError(f"{name} was told to fail")
        return {"by": name}

    return app.agent(name=name, retry=ONCE)(handler)


for name in ("quote", "stock", "reserve", "release", "pay", "search", "write"):
    agent(name)


@app.agent(retry=ONCE)
async def caller(data: dict[str, Any], ctx: Context) -> None:
    journal("caller", ctx, data)
    if data["payload"].get("caller") == "fail":
        raise RuntimeError("caller was told to fail")
    ctx.publish("dance.left", data["payload"])
    ctx.publish("dance.right", data["payload"], delay=0.5)


@app.agent(on=["dance.left", "dance.right"], retry=ONCE)
async def dancer(data: dict[str, Any], ctx: Context) -> None:
    journal("dancer", ctx, data)
    if data.get("dancer") == "wait":
        await asyncio.sleep(3600)
    ctx.publish("dance.done", {"step": ctx.event.type})


@app.agent(on="many.asked", retry=ONCE)
def chooser(data: dict[str, Any], ctx: Context) -> None:
    app.collaborate("saga", ["reserve", "pay"], {"n": 1}, context=ctx)
    app.collaborate("request-response", ["quote"], {"n": 2}, context=ctx)
    ctx.sleep(0.2)
    if data.get("fail"):
        raise RuntimeError("chooser was told to fail")


@app.agent(on=["collaboration.#", "saga.#"])
def audit(data: dict[str, Any], ctx: Context) -> None:
    journal("audit", ctx, data)
