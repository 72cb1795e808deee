"""One agent in two versions, old and new, whose payload classes differ in each way that a rolling deploy may show."""

from __future__ import annotations

import os

from contract_app import journal
from pydantic import AliasChoices, Field

from pipeline import Context, Payload, Pipeline, Retry

app = Pipeline("payloads")
VERSION = os.environ.get("VERSION", "new")
READ_BOTH = AliasChoices("customer_id", "customer")

if VERSION == "old":

    class Address(Payload):
        street: str

    class Order(Payload, type="order.placed", version="1.0.0"):
        order_id: str
        to: Address
        coupon: str = ""
        customer_id: str = Field(default="", validation_alias=READ_BOTH, serialization_alias="customer")

else:

    class Address(Payload):  # type: ignore[no-redef]
        street: str
        floor: int = 0

    class Order(Payload, type="order.placed", version="1.1.0"):  # type: ignore[no-redef]
        order_id: str
        to: Address
        gift: bool = False
        customer_id: str = Field(default="", validation_alias=READ_BOTH)


@app.agent(on=Order, retry=Retry(max=0))
def shipping(order: Order, ctx: Context) -> None:
    journal("shipping", ctx, order.model_dump(), version=VERSION)


def order(n: int) -> Order:
    """Return an order with everything set that this version knows."""
    more = {"coupon": "TEA"} if VERSION == "old" else {"gift": True}
    to = Address(street="Main") if VERSION == "old" else Address(street="Main", floor=2)
    return Order(order_id=str(n), to=to, customer_id="7", **more)  # type: ignore[arg-type]


if __name__ == "__main__":
    app.publish_many([order(n) for n in range(8)])
