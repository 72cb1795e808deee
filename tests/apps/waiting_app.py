"""Agents that do things once, and that wait."""

from __future__ import annotations

import asyncio
from typing import Any

from contract_app import append, once  # type: ignore[import-not-found]
from pydantic import BaseModel

from pipeline import Context, Pipeline, Retry, WaitTimeout

app = Pipeline("waiting")


class Draft(BaseModel):
    text: str
    words: int


def paid(what: str, ctx: Context, **more: Any) -> None:
    append({"agent": what, "id": ctx.event.id, "attempt": ctx.attempt, **more})


def draft(ctx: Context, topic: str) -> Draft:
    paid("draft", ctx)
    return Draft(text=f"about {topic}", words=2)


async def search(ctx: Context, topic: str) -> list[str]:
    await asyncio.sleep(0)
    paid("search", ctx)
    return [topic, topic]


@app.agent(on="report.wanted", retry=Retry(max=3, base=0.01))
def writer(data: dict[str, Any], ctx: Context) -> None:
    one = ctx.step("draft", draft, ctx, data["topic"])
    ctx.publish("report.drafted", {"text": one.text})
    if once(f"failed-{ctx.event.id}"):
        raise RuntimeError("after the draft")
    ctx.sleep(0.2)
    paid("writer", ctx, words=one.words)


@app.agent(on="report.wanted")
async def searcher(data: dict[str, Any], ctx: Context) -> None:
    found = await ctx.step("search", search, ctx, data["topic"])
    await ctx.sleep("200ms" if data.get("bad") else 0.2)
    paid("searcher", ctx, found=found)


@app.agent(on="order.placed")
def shipper(data: dict[str, Any], ctx: Context) -> None:
    ctx.publish("payment.asked", {"order": data["n"]})
    try:
        payment = ctx.wait_for("payment.made", where={"data.order": data["n"]}, timeout=data.get("timeout", "1h"))
    except WaitTimeout:
        paid("unpaid", ctx, n=data["n"])
        return
    paid("shipper", ctx, n=data["n"], by=payment.data["by"])


@app.agent(on="tea.wanted")
async def teahouse(data: dict[str, Any], ctx: Context) -> None:
    cups = [ctx.wait_for("tea.poured", timeout=60).data["cup"] for _ in range(3)]
    paid("teahouse", ctx, cups=cups)


@app.agent(on="payment.asked")
def cashier(data: dict[str, Any], ctx: Context) -> None:
    paid("cashier", ctx, n=data["order"])


@app.agent(on="mistake.made", retry=Retry(max=0))
def mistaken(data: dict[str, Any], ctx: Context) -> None:
    match data["how"]:
        case "no json":
            ctx.step("one", object)
        case "two functions":
            ctx.step("one", len, "a")
            ctx.step("one", str, "a")
        case "past":
            ctx.sleep(-1)
        case "caught":
            try:
                ctx.sleep(60)
            except BaseException:
                paid("caught", ctx)
        case "pattern":
            ctx.wait_for("order.*")
        case "many":
            for _ in range(1001):
                ctx.step("one", len, "a")


@app.agent(on="book.wanted")
def librarian(data: dict[str, Any], ctx: Context) -> None:
    def print_it(size: int) -> str:
        paid("printed", ctx)
        return "x" * size

    text = ctx.step("print", print_it, data["size"])
    ctx.sleep(0)
    paid("librarian", ctx, size=len(text), runs="once")


@app.agent(on="chain.wanted", retry=Retry(max=0))
def chained(data: dict[str, Any], ctx: Context) -> None:
    for name in ("first", "second", "third"):
        ctx.step(name, paid, name, ctx)
    paid("chained", ctx)
    raise RuntimeError("and then it fails")
