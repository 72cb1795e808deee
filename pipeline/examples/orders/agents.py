"""Orders: four steps one after the other, and when one fails, those that were done are undone, the last one first.

order.placed --> order    a saga: create --> reserve --> pay --> complete    --> order.completed
                          undone:  cancel <-- release <-- refund             --> order.failed

A step asks a service (services.py), which is outside of the bus's transactions. So each call carries the id of its
delivery, which is the same however often the delivery is tried: a service that has done it before answers the same.
"""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import Field

from pipeline import Context, Payload, Pipeline, Retry, step

from .services import (
    Inventory,
    InventoryRequest,
    Opened,
    Payment,
    PaymentRequest,
    Services,
    Shipping,
    ShippingRequest,
)

app = Pipeline("orders")


class OrderPlaced(Payload, type="order.placed"):
    """A customer has ordered something; the amount is in cents."""

    order_id: str = Field(min_length=1, max_length=64)
    product_id: str
    quantity: int = Field(ge=1)
    amount: int = Field(ge=1)
    payment_method: str
    shipping_address: str


class Refused(Exception):
    """A service says no, and would say so again."""


#: A step that was refused has failed at once; what goes wrong otherwise is tried again.
FIRM = Retry(max=3, give_up_on=(Refused,))
#: What undoes a step has to succeed some time.
PATIENT = Retry(max=10, cap=300)


def services() -> Services:
    """Return the services of this process."""
    return Services(Path(os.environ.get("ORDERS_STATE", "orders")))


def order_of(ctx: Context) -> OrderPlaced:
    """Return the order that a step belongs to."""
    assert ctx.flow is not None
    return OrderPlaced.model_validate(ctx.flow.original)


# -- the steps


@app.agent(retry=FIRM)
def create(order: OrderPlaced, ctx: Context) -> Opened:
    """Open the order's file."""
    return services().create(ctx.delivery_id, order.order_id)


@app.agent(retry=FIRM)
def reserve(asked: InventoryRequest, ctx: Context) -> Inventory:
    """Put the pieces aside."""
    found = services().reserve(ctx.delivery_id, order_of(ctx).order_id, asked)
    if not found.available:
        raise Refused(f"there are no {asked.quantity} pieces of {asked.product_id}")
    return found


@app.agent(retry=FIRM)
def pay(asked: PaymentRequest, ctx: Context) -> Payment:
    """Take the money."""
    paid = services().pay(ctx.delivery_id, order_of(ctx).order_id, asked)
    if paid.status == "declined":
        raise Refused(f"the payment with {asked.payment_method} is declined")
    return paid


@app.agent(retry=FIRM)
def complete(asked: ShippingRequest, ctx: Context) -> Shipping:
    """Send the parcel."""
    sent = services().ship(ctx.delivery_id, asked)
    if sent.tracking_number is None:
        raise Refused(f"nobody delivers to {asked.shipping_address}")
    return sent


# -- what undoes them; each gets what its step came to


@app.agent(retry=PATIENT)
def cancel(opened: Opened, ctx: Context) -> Opened:
    """Close the order's file."""
    return services().cancel(ctx.delivery_id, opened.order_id)


@app.agent(retry=PATIENT)
def release(reserved: Inventory, ctx: Context) -> Inventory:
    """Put the pieces back."""
    order = order_of(ctx)
    return services().release(ctx.delivery_id, order.order_id, order.product_id, reserved.reserved_quantity)


@app.agent(retry=PATIENT)
def refund(paid: Payment, ctx: Context) -> Payment:
    """Give the money back."""
    return services().refund(ctx.delivery_id, order_of(ctx).order_id, paid.transaction_id)


app.saga(
    "order",
    on=OrderPlaced,
    steps=[
        step(create, undo=cancel),
        step(reserve, undo=release, input={"product_id": "data.product_id", "quantity": "data.quantity"}),
        step(pay, undo=refund, input={"amount": "data.amount", "payment_method": "data.payment_method"}),
        step(complete, input={"order_id": "data.order_id", "shipping_address": "data.shipping_address"}),
    ],
    key="data.order_id",  # however often a customer has clicked
)
