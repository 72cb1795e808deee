"""A shop whose agents show what the page has to show: steps, failures, approvals, a saga, and names that are markup."""

from __future__ import annotations

import os
from typing import Any

from pipeline import Context, Payload, Pipeline, Retry

app = Pipeline("shop")
ONCE = Retry(max=0)
MARKUP = "<img src=x onerror='window.hacked = 1'><script>window.hacked = 1</script>"
#: What is wrong with an order, and with a parcel; pictures of the page say it in words.
NEGATIVE, BROKEN = os.environ.get("PAGE_APP_SAYS", f"negative: {MARKUP}|{MARKUP}").split("|")


class OrderPlaced(Payload, type="order.placed"):
    order_id: str
    total: float = 1.0


@app.agent(on=OrderPlaced, retry=ONCE)
def billing(order: OrderPlaced, ctx: Context) -> None:
    ctx.step("charge", lambda: order.total)
    if order.total < 0:
        raise ValueError(NEGATIVE)
    ctx.publish("order.paid", {"order_id": order.order_id})


@app.agent(on="order.paid", where="order_id = VIP")
def gift(data: Any) -> None:
    pass


@app.agent(on="refund.wanted")
def refund(data: Any, ctx: Context) -> None:
    decision = ctx.ask("refund", data, expires="24h", message=BROKEN)
    ctx.publish("refund.made", decision.args)


@app.agent()
def make(data: Any) -> None:
    pass


@app.agent(retry=ONCE)
def pack(data: Any) -> None:
    raise ValueError(BROKEN)


app.saga("parcel", on="box.wanted", steps=[make, pack], emits="box.ready", fails="box.failed")
