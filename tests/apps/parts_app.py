"""A join whose members write down what they see."""

from __future__ import annotations

from typing import Any

from celery import current_task
from contract_app import app, journal  # type: ignore[import-not-found]

from pipeline import Context


@app.agent(retry=0)
def part(data: Any, ctx: Context) -> Any:
    request = current_task.request
    is_short = type(request).__name__ == "Current"
    flow = ctx.flow
    assert flow is not None
    about = {"id": request.id, "delivery": ctx.delivery_id, "root": request.root_id, "flow": [flow.id, flow.name]}
    journal("part", ctx, data, is_short=is_short, about=about)
    ctx.publish("way.told", {"n": data["n"]})
    if data.get("fail"):
        raise RuntimeError("told to fail")
    return {"n": data["n"]}


app.join("parts", on="way.parted", agents=[part], each="data.items", emits="way.joined", fails="way.parted.failed")


@app.agent(on=["way.joined", "way.told", "way.parted.failed"])
def told(data: Any, ctx: Context) -> None:
    journal("told", ctx, data)
