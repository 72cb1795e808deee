"""Joins of every kind: what a member does is written in the event's data, by its name."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from contract_app import is_open, journal, once  # type: ignore[import-not-found]

from pipeline import Agent, Context, Event, Pipeline, Retry

app = Pipeline("joins")
FAST = Retry(max=1, base=0.05)
#: Seconds that are over when the test says so.
LONG = 600


def works(data: dict[str, Any], ctx: Context) -> tuple[str, str]:
    journal(ctx.agent, ctx, data)
    wish = data.get(ctx.agent, "")
    times = {"fail": 1000, "fail once": 1, "fail twice": 2}.get(wish, 0)
    if any(once(f"{ctx.agent}-{n}") for n in range(times)):
        raise RuntimeError(f"{ctx.agent} was told to fail")
    return ctx.agent, wish


def member(name: str) -> Agent[Any, Any]:
    def handler(data: dict[str, Any], ctx: Context) -> dict[str, Any]:
        own, wish = works(data, ctx)
        while wish in ("wait", "fail at the gate") and not is_open("gate"):
            time.sleep(0.02)
        if wish == "fail at the gate":
            raise RuntimeError(f"{own} was told to fail")
        if wish == "sleep":
            ctx.sleep(0.3)
        if wish == "sleep long":
            ctx.sleep(3600)
        if wish == "emit":
            ctx.publish("member.said", {"name": own})
        return {"name": own, "score": data.get("score", 0)}

    return app.agent(name=name, retry=FAST)(handler)


one, two, three = (member(name) for name in ("one", "two", "three"))


@app.agent(retry=FAST)
async def loop(data: dict[str, Any], ctx: Context) -> str:
    _, wish = works(data, ctx)
    if wish == "wait":
        await asyncio.sleep(3600)
    return "from the loop"


@app.agent(retry=FAST, where="data.never > 5")
def item(data: Any, ctx: Context) -> Any:
    journal("item", ctx, data)
    if isinstance(data, dict) and data.get("fail"):
        raise RuntimeError("item was told to fail")
    return {"saw": data}


def some_of(event: Event) -> list[Agent[Any, Any] | str]:
    return event.data["which"]  # type: ignore[no-any-return]


app.join("all", on="all.wanted", agents=[one, two, loop], emits="all.done")
app.join("fastest", on="first.wanted", agents=[one, two, loop], emits="first.done", first=True)
app.join("enough", on="two.wanted", agents=[one, two, three], emits="two.done", quorum=2)
app.join("late", on="slow.wanted", agents=[one, two], emits="slow.done", deadline=LONG)
app.join("kept", on="kept.wanted", agents=[one, two], emits="kept.done", deadline=LONG, cancel_rest=False)
app.join("good", on="good.wanted", agents=[one, two], emits="good.done", until={"results.one.score": {"$gte": 5}})
app.join("gathered", on="some.wanted", agents=[one, two, three], emits="some.done", on_failure="collect")
app.join("chosen", on="chosen.wanted", agents=[one, two, three], emits="chosen.done", expect=some_of)
app.join("mapped", on="list.wanted", agents=[item], emits="list.done", each="data.items", on_failure="collect")


@app.agent(on=["*.done", "*.failed", "member.said"])
def outcome(data: Any, ctx: Context) -> None:
    journal("outcome", ctx, data)
