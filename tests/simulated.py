"""An application for simulations, what is published in it, and what has to hold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from random import Random

from pipeline import Context, Event, Limit, Payload, Pipeline, Retry, step
from pipeline.testing import Simulated, Simulation, TestedBus


class OrderPlaced(Payload, type="order.placed", version="1.0.0"):
    number: int
    account: str


class OrderPaid(Payload, type="order.paid", version="1.0.0"):
    number: int
    account: str


def orders(chance: Random, number: int) -> OrderPlaced:
    return OrderPlaced(number=number, account=chance.choice("abc"))


def paying(app: Pipeline) -> None:
    """Retries, order by key, a rate, a wait."""

    @app.agent(on=OrderPlaced, retry=Retry(max=8, base=5))
    def pay(order: OrderPlaced, ctx: Context) -> OrderPaid:
        if order.number % 5 == 0 and ctx.attempt == 1:
            raise ValueError("the bank is away")
        return OrderPaid(number=order.number, account=order.account)

    @app.agent(on=OrderPaid, order_by="data.account", retry=Retry(max=8, base=5))
    async def book(order: OrderPaid, ctx: Context) -> None:
        if order.number % 2 == 0 and ctx.attempt == 1:
            raise ValueError("the books are closed")

    @app.agent(on=OrderPaid, limit=Limit(rate="30/m", burst=3), retry=Retry(max=8, base=5))
    def tell(order: OrderPaid, ctx: Context) -> None:
        ctx.step("once", bool)
        ctx.sleep("1h")


def checking(app: Pipeline) -> None:
    """A join."""
    members = [app.agent(on=f"never.{name}", name=name, retry=Retry(max=8))(lambda event: {"ok": 1}) for name in "xy"]
    app.join("checks", on=OrderPlaced, agents=members, emits="order.checked")


def delivering(app: Pipeline) -> None:
    """A saga, some of which are undone."""
    on = OrderPaid if len(app.agents) else OrderPlaced  # where nobody pays

    @app.agent(on="never.reserve", retry=Retry(max=8))
    def reserve(event: Event) -> dict[str, int]:
        return {"reserved": event.data["number"]}

    @app.agent(on="never.release", retry=Retry(max=8))
    def release(event: Event) -> None: ...

    @app.agent(on="never.ship", retry=0)
    def ship(event: Event) -> dict[str, int]:
        if event.data["number"] % 3 == 0:
            raise ValueError("no parcels")
        return {"parcel": 1}

    app.saga("delivery", on=on, steps=[step(reserve, undo=release), ship], emits="order.delivered")


PARTS = (paying, checking, delivering)


def shop(directory: Path, parts: Sequence[Callable[[Pipeline], None]] = PARTS) -> Pipeline:
    """An application with something of everything, or with some of it, which takes less time."""
    app = Pipeline("shop", directory=directory)
    for part in parts:
        part(app)
    return app


def one_of_each(bus: TestedBus) -> None:
    paid = [event.data["number"] for event in bus.published(OrderPaid)]
    assert len(paid) == len(set(paid)), "an order is paid twice"
    checked = [event.causation_id for event in bus.published("order.checked")]
    assert len(checked) == len(set(checked)), "a join has ended twice"


#: What goes wrong in turns: a little of all, much of one.
SHARES: Sequence[dict[str, float] | None] = (
    None,
    {"crash": 0.1},
    {"duplicate": 0.5, "reorder": 0.5},
    {"broker_away": 0.2, "slow": 0.2, "crash": 0.03},
    {"skew": 0.2, "crash": 0.03, "duplicate": 0.1},
)


@cache
def _one_of_the_shops(number: int) -> Pipeline:
    return shop(Path("never"), PARTS if number == len(PARTS) else [PARTS[number]])


def simulate(seed: int, *, short: bool = False) -> Simulated:
    """Run what a seed says; raises SimulationFailed.

    Arguments:
        short: whether just a few events go through a part of the shop: hundreds of those are a minute.

    """
    app = _one_of_the_shops(seed % (len(PARTS) + (not short)))
    return Simulation(app, orders, seed=seed, invariants=[one_of_each]).run(
        2 if short else 6, SHARES[seed % len(SHARES)]
    )
