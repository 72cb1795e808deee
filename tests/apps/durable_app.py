"""Agents that show what the ledger adds; what an attempt does is written in the event's data."""

from __future__ import annotations

import os
import signal
from typing import Any

from contract_app import journal, once
from sqlalchemy import text

from pipeline import Context, Event, Pipeline, Retry

app = Pipeline("durable")
FAST = Retry(max=2, base=0.05, cap=0.2)


@app.agent(on="write.#", retry=FAST)
def writer(event: Event, ctx: Context) -> None:
    journal("writer", ctx, event.data)
    ctx.session.execute(text("CREATE TABLE IF NOT EXISTS effects (id TEXT, delivery TEXT)"))
    ctx.session.execute(
        text("INSERT INTO effects VALUES (:id, :delivery)"), {"id": event.id, "delivery": ctx.delivery_id}
    )
    if event.data.get("fail") and once(event.id):
        raise RuntimeError("after the effect")


@app.agent(on="kill.#", retry=FAST)
def killer(event: Event, ctx: Context) -> None:
    journal("killer", ctx, event.data)
    os.kill(os.getpid(), signal.SIGKILL)


@app.agent(on=["order.#", "late.#"], retry=FAST, since=0)
def order(data: Any, ctx: Context) -> None:
    journal("order", ctx, data, replay=ctx.replay)
    if data.get("amount", 1) < 0:
        raise ValueError("negative amount")
    ctx.publish("echo.order", {"n": data.get("n")})
    if data.get("later"):
        ctx.publish("echo.later", {}, delay=data["later"])


@app.agent(on="order.#")
def bystander(data: Any, ctx: Context) -> None:
    journal("bystander", ctx, data)


@app.agent(on="echo.#")
def echo(data: Any, ctx: Context) -> None:
    journal("echo", ctx, data)


@app.agent(on="delivery.*")
def letters(data: Any, ctx: Context) -> None:
    journal("letters", ctx, data)


@app.projection(on="order.#")
def totals(event: Event, session: Any) -> None:
    session.execute(text("CREATE TABLE IF NOT EXISTS totals (amount INTEGER)"))
    session.execute(text("INSERT INTO totals VALUES (:amount)"), {"amount": event.data.get("amount", 1)})
