"""Agents that are asked: what they answer is written in the question."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from contract_app import is_open, journal  # type: ignore[import-not-found]

from pipeline import Context, Payload, Pipeline, Retry

app = Pipeline("asked")
FAST = Retry(max=1, base=0.05)


class Quoted(Payload, type="price.quoted"):
    price: float


@app.agent(on="price.asked", retry=FAST)
def quote(data: dict[str, Any], ctx: Context) -> Any:
    journal("quote", ctx, data)
    if data.get("fail"):
        raise LookupError("no such article")
    while data.get("wait") and not is_open("gate"):
        time.sleep(0.02)
    return Quoted(price=data["n"] * 2) if data.get("typed") else {"price": data["n"] * 2}


@app.agent(on="#")
def audit(data: Any, ctx: Context) -> None:
    journal("audit", ctx, data)


@app.agent(on="poll.asked", retry=FAST)
async def left(data: Any) -> str:
    await asyncio.sleep(data.get("seconds", 0))
    return "left"


@app.agent(on="poll.asked", retry=FAST)
def right(data: Any) -> str:
    if data.get("fail"):
        raise LookupError("no opinion")
    return "right"


@app.agent(on="chain.asked", retry=Retry(max=0))
def chain(data: dict[str, Any]) -> Any:
    return app.request("price.asked", data, timeout=20).result


@app.agent(on="chained.asked", retry=Retry(max=0))
async def chained(data: dict[str, Any]) -> Any:
    return (await app.arequest("price.asked", data, timeout=20)).result
