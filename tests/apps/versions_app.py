"""One agent in two versions, whose payload classes are of two major versions; the new one has an upcaster."""

from __future__ import annotations

import os
from typing import Any

from contract_app import journal

from pipeline import Context, Payload, Pipeline

app = Pipeline("versions")
VERSION = os.environ.get("VERSION", "new")

if VERSION == "old":

    class Order(Payload, type="order.placed", version="1.0.0"):
        order_id: str
        total: float

else:

    class Order(Payload, type="order.placed", version="2.0.0"):  # type: ignore[no-redef]
        order_id: str
        total: dict[str, float]

    @app.upcaster("order.placed", "1.0.0", "2.0.0")
    def with_currency(data: dict[str, Any]) -> dict[str, Any]:
        data["total"] = {"EUR": data["total"]}
        return data


if VERSION == "gap":

    @app.upcaster("order.placed", "2.0.0", "3.0.0")
    def into_nothing(data: dict[str, Any]) -> dict[str, Any]:
        return data


class Billed(Payload, type="order.billed", version="1.1.0"):
    order_id: str


app.types.add(Billed)


@app.agent(on=Order)
def billing(order: Order, ctx: Context) -> None:
    journal("billing", ctx, order.model_dump(), version=VERSION)
    ctx.publish("order.billed", {"order_id": order.order_id})
