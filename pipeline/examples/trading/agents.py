"""Trading: one agent gets ticks, alerts and order updates from one queue, and what is urgent overtakes what is routine.

session.opened  --> feed        --> market.tick, market.news, market.alert
market.tick     --> trader      volume > 1.5 x average: evaluate     --> order.requested
market.alert    --> trader      risk_limit_exceeded: close all       --> order.requested for each position
                --> supervisor  market_halt: pause the trader;  market_resumed: let it go on
market.news     --> newsdesk    volatility: smaller orders
order.requested --> exchange    --> order.updated --> trader
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from time import sleep

from pipeline import Context, Pipeline
from pipeline.filters import Content, Regex

from . import market
from .book import Book
from .market import MarketAlert, MarketNews, MarketTick, OrderRequested, OrderUpdated, SessionOpened

app = Pipeline("trading")

#: What events are published with: an urgent alert overtakes all else that waits for the trader.
URGENT, ROUTINE = 1, 5
#: Seconds that a trader thinks about anything, and that the exchange takes.
THINKING, TRADING = 0.12, 0.02
#: Pieces that are bought or sold at once; fewer of what is volatile.
LOT, SMALL_LOT = 100, 50
#: What is said of a tick that is evaluated.
WORTHY = ": worth a look"
#: The brackets matter: without them ^ belongs to the first alternative alone, $ to the last, and XMSFT would match.
OURS = f"^({'|'.join(market.OURS)})$"


def book_of(ctx: Context) -> Book:
    """Return the book of the session that an event belongs to."""
    return Book(Path(os.environ.get("TRADING_STATE", "trading")) / "book.db", ctx.event.correlation_id)


@app.agent(on=SessionOpened)
def feed(opened: SessionOpened, ctx: Context) -> None:
    """Publish what happens on the market: ticks at the priority of everything, 5."""
    for warning in market.warnings(opened.seed):
        ctx.publish(warning)
    for piece in market.news(opened.seed, number=12):
        ctx.publish(piece)
    for tick in market.ticks(opened.seed, opened.ticks):
        ctx.publish(tick)


@app.agent(
    on=[MarketTick, MarketAlert, OrderUpdated],
    where={
        "$or": [
            {"type": "market.tick", "payload.symbol": {"$regex": OURS}},
            {"type": "market.alert", "payload.kind": "risk_limit_exceeded", "payload.urgency": {"$lt": 3}},
            {"type": "order.updated"},
        ]
    },
    priority=3,  # what it emits, and what follows from that, overtakes ticks
    max_concurrent=5,
)
def trader(what: MarketTick | MarketAlert | OrderUpdated, ctx: Context) -> Sequence[OrderRequested]:
    """Trade what is traded unusually much; when the risk is too high, close all positions."""
    book = book_of(ctx)
    with book.handling(ctx, about(what)):
        sleep(THINKING)
        match what:
            case MarketTick():
                return (
                    evaluate(what, ctx.delivery_id, is_nervous=book.is_nervous(what.symbol)) if what.is_unusual else ()
                )
            case MarketAlert():
                return close(book.positions(), ctx.delivery_id)
            case OrderUpdated():
                book.fill(what)
                return ()


@app.agent(on=MarketAlert, where="kind IN (market_halt, market_resumed) AND urgency < 3", max_concurrent=1)
def supervisor(alert: MarketAlert, ctx: Context) -> None:
    """Hold the trader back while the market is halted: who is paused hears no more, so somebody else has to listen."""
    with book_of(ctx).handling(ctx, about(alert)):
        if alert.kind == "market_halt":
            app.pause(trader.name, reason=alert.message)
        else:
            app.resume(trader.name)


@app.agent(on=MarketNews, where=[Regex(OURS, path="payload.symbol"), Content("volatility", path="payload.headline")])
def newsdesk(news: MarketNews, ctx: Context) -> None:
    """Let the trader be careful with what is said to be volatile."""
    with book_of(ctx).handling(ctx, about(news)):
        book_of(ctx).beware(news.symbol)


@app.agent(on=OrderRequested)
def exchange(order: OrderRequested) -> OrderUpdated:
    """Fill an order, as an exchange would."""
    sleep(TRADING)
    return OrderUpdated(status="filled", **order.model_dump(exclude={"reason"}))


# -- how they decide


def evaluate(tick: MarketTick, key: str, *, is_nervous: bool) -> list[OrderRequested]:
    """Return what to do about an unusual volume: go with the price, which has risen or fallen.

    Arguments:
        key: makes the order's id, which is the same when the delivery is tried again.

    """
    return [
        OrderRequested(
            order_id=f"{key}-{tick.symbol}",
            symbol=tick.symbol,
            side="buy" if tick.price >= tick.previous else "sell",
            quantity=SMALL_LOT if is_nervous else LOT,
            price=tick.price,
            reason="volume",
        )
    ]


def close(positions: dict[str, int], key: str) -> list[OrderRequested]:
    """Return the orders that close all positions."""
    return [
        OrderRequested(
            order_id=f"{key}-{symbol}",
            symbol=symbol,
            side="sell" if owned > 0 else "buy",
            quantity=abs(owned),
            price=market.PRICES[symbol],
            reason="risk",
        )
        for symbol, owned in positions.items()
    ]


def about(what: MarketTick | MarketAlert | MarketNews | OrderUpdated) -> str:
    """Return in words what an event is about."""
    match what:
        case MarketTick():
            times = what.volume / what.average_volume
            return f"{what.symbol} {what.price:,.2f}, volume {times:.1f} x average{WORTHY * what.is_unusual}"
        case MarketAlert():
            return f"{what.kind}: {what.message}"
        case MarketNews():
            return f"{what.symbol}: {what.headline}"
        case OrderUpdated():
            return f"{what.side} {what.quantity} {what.symbol} at {what.price:,.2f}: {what.status}"
