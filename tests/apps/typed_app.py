"""A user's application as type checkers see it: a line that has to be an error says which, to mypy and to pyright."""

from __future__ import annotations

from collections.abc import Coroutine
from datetime import timedelta
from typing import Any, assert_type

from pipeline import Agent, Context, Event, Payload, Pipeline, Retry, default_app

app = Pipeline("shop")


class OrderPlaced(Payload, type="order.placed", version="1.0.0"):
    order_id: str
    total: float = 0.0


class OrderPaid(Payload, type="order.paid"):
    order_id: str


@app.agent(on=OrderPlaced, retry=Retry(max=2))
def billing(order: OrderPlaced) -> OrderPaid:
    return OrderPaid(order_id=order.order_id)


@app.agent(on="order.*", timeout=5)
async def audit(event: Event, ctx: Context) -> None:
    assert_type(ctx.publish("order.seen", {"id": event.id}), Event)


@app.agent(on=[OrderPaid, "order.shipped"])
async def receipt(order: OrderPaid) -> list[OrderPaid]:
    return [order]


joined = app.join("both", on="order.checked", agents=[billing, receipt], emits=OrderPaid)
app.schedule("daily", timedelta(days=1), OrderPaid(order_id="A1"))


def names(agents: list[Agent]) -> list[str]:
    return [agent.name for agent in agents]


async def used() -> None:
    order = OrderPlaced(order_id="A1")
    ctx = Context.for_test(order)
    assert_type(billing(order), OrderPaid)
    assert_type(billing(order=order).order_id, str)
    nothing: Coroutine[Any, Any, None] = audit(ctx.event, ctx)
    await nothing
    assert_type(await receipt(OrderPaid(order_id="A1")), list[OrderPaid])
    assert_type(app.publish(order), Event)
    assert_type(await app.apublish(order), Event)
    assert_type(app.agents["billing"], Agent)
    app.settle(app.publish(order))
    app.celery.send_task("other.task")
    names([billing, audit, receipt, joined, *default_app().agents])


async def wrong(order: OrderPlaced, ctx: Context) -> None:
    OrderPlaced(order_idd="A1")  # call-arg, reportCallIssue
    app.publsh(order)  # attr-defined, reportAttributeAccessIssue
    assert app.conf  # attr-defined, reportAttributeAccessIssue
    app.publish(5)  # arg-type, reportArgumentType
    app.publish(order, prioritty=1)  # call-arg, reportCallIssue
    ctx.publsh(order)  # attr-defined, reportAttributeAccessIssue
    billing("A1")  # arg-type, reportArgumentType
    billing()  # call-arg, reportCallIssue
    assert billing(order).total  # attr-defined, reportAttributeAccessIssue
    assert billing.nmae  # attr-defined, reportAttributeAccessIssue
    number: int = billing(order)  # assignment, reportAssignmentType
    await audit(ctx.event)  # call-arg, reportCallIssue
    assert (await receipt(OrderPaid(order_id="A1"))).order_id  # attr-defined, reportAttributeAccessIssue
    assert number


@app.agent(on=5)  # arg-type, reportArgumentType
def odd(data: Any) -> None: ...


@app.agent(on="order.late", retries=3)  # arg-type, reportArgumentType
def late(data: Any) -> None: ...
