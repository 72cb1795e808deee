"""Agents of a class, which are given tasks and asked, and one that answers all that it handles."""

from __future__ import annotations

import time
from typing import Any

from contract_app import is_open, journal  # type: ignore[import-not-found]

from pipeline import Context, EventDrivenAgent, Pipeline, Retry
from pipeline.families import TaskAssigned

app = Pipeline("driven")
FAST = Retry(max=1, base=0.05)


class Researcher(EventDrivenAgent):
    async def perform(self, task: TaskAssigned, ctx: Context) -> Any:
        journal("r1", ctx, task.input)
        if task.input == "fail":
            raise LookupError("nothing found")
        return {"found": task.input}

    async def answer(self, query: Any, ctx: Context) -> Any:
        return f"about {query['about']}"


class Clerk(EventDrivenAgent):
    def perform(self, task: TaskAssigned, ctx: Context) -> Any:
        journal("c1", ctx, task.input)
        while not is_open("gate"):
            time.sleep(0.02)
        return None

    def shut_down(self, reason: str | None, ctx: Context) -> None:
        journal("c1", ctx, reason)


app.add_agent(Researcher("r1"), retry=FAST)
app.add_agent(Clerk("c1"), retry=FAST)


@app.agent(on="greeted", respond=True, retry=FAST)
def polite(data: Any) -> Any:
    if data == "fail":
        raise LookupError("no manners")
    return {"hello": data}


@app.agent(on=["asked", "agent.response"])
def asking(data: Any, ctx: Context) -> None:
    if ctx.event.type == "asked":
        ctx.publish("greeted", data)


@app.agent(on="asked.without")
def careless(data: Any, ctx: Context) -> None:
    ctx.publish("greeted", data)


@app.agent(on=["task.acknowledged", "task.completed", "task.failed", "agent.response"])
def hears(data: Any, ctx: Context) -> None:
    journal("hears", ctx, {**data, "type": ctx.event.type})
