"""Agents with filters."""

from __future__ import annotations

from typing import Any

from contract_app import FAST, journal, once

from pipeline import Context, Payload, Pipeline

app = Pipeline("filtered")


class Alert(Payload, type="alert.raised"):
    level: str
    amount: int = 0
    tags: list[str] = []  # pydantic copies it


@app.agent(on="alert.*", where={"payload.level": {"$gte": "high"}}, retry=FAST)
def urgent(data: Any, ctx: Context) -> None:
    journal("urgent", ctx, data)


@app.agent(on=Alert, where="amount > 100 AND metadata.tenant = acme", retry=FAST)
async def large(alert: Alert, ctx: Context) -> None:
    journal("large", ctx, alert.model_dump())


@app.agent(on="alert.#")
def everything(data: Any, ctx: Context) -> None:
    journal("everything", ctx, data)


class Order(Payload, type="order.placed", version="2.0.0"):
    total_cents: int


@app.upcaster("order.placed", "1.0.0", "2.0.0")
def in_cents(data: dict[str, Any]) -> dict[str, Any]:
    return {"total_cents": data["total"] * 100}


@app.agent(on=Order, where="total_cents > 100", retry=FAST)
def orders(order: Order, ctx: Context) -> None:
    journal("orders", ctx, order.total_cents)


@app.agent()
def left(data: Any, ctx: Context) -> str:
    return "left"


@app.agent()
def right(data: Any, ctx: Context) -> str:
    return "right"


app.join("both", on="both.wanted", agents=[left, right], emits="both.done")


@app.agent(on="both.done", where="metadata.user = ada")
def joined(data: Any, ctx: Context) -> None:
    journal("joined", ctx, data, user=ctx.event.metadata["user"])


@app.agent(on="alert.raised", where="$.data.tags[?@ == 'fails']", retry=0)
def fails(data: Any, ctx: Context) -> None:
    journal("fails", ctx, data)
    if once(f"fails-{ctx.event.id}"):
        raise ValueError("told to fail")
