"""Agents that say how it goes: in the pool and on the loop, with an open session, and again after a failure."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

from sqlalchemy import text

from pipeline import Context, Pipeline, Retry

app = Pipeline("t")


@app.agent(on="say.plain")
def plain(data: Any, ctx: Context) -> None:
    for n in range(data["number"]):
        ctx.stream("answer", f"{n} ")
    ctx.progress(1, "done")


def opened(gate: Path) -> None:
    while not gate.exists():
        time.sleep(0.01)


@app.agent(on="say.slowly")
async def slowly(data: Any, ctx: Context) -> None:
    for n in range(data["number"]):
        ctx.progress(n / data["number"], f"page {n}")
        ctx.stream("answer", f"{n} ")
        await asyncio.to_thread(opened, Path(data["gates"], str(n)))


@app.agent(on="say.writing")
def writing(data: Any, ctx: Context) -> None:
    ctx.session.execute(text("SELECT 1"))
    ctx.stream("answer", "from inside")


@app.agent(on="say.twice", retry=Retry(max=1, base=0.01))
def twice(data: Any, ctx: Context) -> None:
    ctx.stream("answer", f"attempt {ctx.attempt}")
    if ctx.attempt == 1:
        raise ValueError("once more")
