"""A small shop for the tests of the kit."""

from __future__ import annotations

from dataclasses import dataclass, field

from pipeline import Context, Payload, Pipeline, Retry


class OrderPlaced(Payload, type="order.placed", version="1.0.0"):
    number: int


class OrderPaid(Payload, type="order.paid", version="1.0.0"):
    number: int


@dataclass
class Shop:
    """An application, and what its handlers have seen."""

    app: Pipeline
    seen: list[tuple[str, int]] = field(default_factory=list)
    failures: int = 0

    def of(self, agent: str) -> list[int]:
        return [number for name, number in self.seen if name == agent]


def shop(**settings: object) -> Shop:
    made = Shop(Pipeline("shop", **settings))
    app = made.app

    @app.agent(on="order.placed", retry=Retry(max=3, base=60))
    def pay(order: OrderPlaced) -> OrderPaid:
        made.seen.append(("pay", order.number))
        if made.failures:
            made.failures -= 1
            raise ValueError("the bank is away")
        return OrderPaid(number=order.number)

    @app.agent(on="order.paid")
    async def ship(order: OrderPaid, ctx: Context) -> None:
        made.seen.append(("ship", order.number))

    @app.agent(on="order.placed", where="number > 100")
    def check(order: OrderPlaced) -> None:
        made.seen.append(("check", order.number))

    return made
