"""What happens on a market, and a market that only pretends: the same seed makes the same day."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random
from typing import Literal

from pydantic import Field

from pipeline import Payload

#: What is traded here, and what else there is on the market.
OURS = ("AAPL", "MSFT", "GOOGL")
OTHERS = ("XMSFT", "NFLX")
#: A volume is unusual beyond this many times the average.
UNUSUAL = 1.5
#: How many ticks have such a volume, by chance, and how many pieces of news are about volatility.
SHARE, NERVOUS = 0.15, 0.4
PRICES = {"AAPL": 190.0, "MSFT": 410.0, "GOOGL": 150.0, "XMSFT": 12.0, "NFLX": 620.0}
AVERAGE = 10_000

Kind = Literal["risk_limit_exceeded", "market_halt", "market_resumed"]


class SessionOpened(Payload, type="session.opened"):
    """The market opens: the seed makes its data."""

    seed: int
    ticks: int = Field(ge=0, le=10_000)


class MarketTick(Payload, type="market.tick"):
    """A price, the one before it, and the volume beside its average."""

    symbol: str
    price: float = Field(gt=0)
    previous: float = Field(gt=0)
    volume: int = Field(ge=0)
    average_volume: int = Field(ge=1)

    @property
    def is_unusual(self) -> bool:
        """Whether so much is traded that it is worth a look."""
        return self.volume > UNUSUAL * self.average_volume


class MarketAlert(Payload, type="market.alert"):
    """Something that traders have to know; urgency 1 is the most urgent."""

    kind: Kind
    urgency: int = Field(ge=1, le=5)
    message: str


class MarketNews(Payload, type="market.news"):
    """Somebody has written about a company."""

    symbol: str
    headline: str


class OrderRequested(Payload, type="order.requested"):
    """The exchange is to buy or sell; the reason is for the books."""

    order_id: str
    symbol: str
    side: Literal["buy", "sell"]
    quantity: int = Field(ge=1)
    price: float = Field(gt=0)
    reason: Literal["volume", "risk"]


class OrderUpdated(Payload, type="order.updated"):
    """What has become of an order."""

    order_id: str
    status: Literal["filled", "rejected"]
    symbol: str
    side: Literal["buy", "sell"]
    quantity: int
    price: float

    @property
    def change(self) -> int:
        """What it adds to the position: less than nothing for what is sold."""
        return 0 if self.status == "rejected" else self.quantity if self.side == "buy" else -self.quantity


def ticks(seed: int, number: int) -> Iterator[MarketTick]:
    """Yield ticks of all symbols, each a small step away from the price before."""
    chance, prices = Random(f"ticks {seed}"), dict(PRICES)
    for _ in range(number):
        symbol = chance.choice((*OURS, *OTHERS))
        before = prices[symbol]
        prices[symbol] = round(before * (1 + chance.gauss(0, 0.002)), 2)
        times = chance.uniform(1.6, 4.0) if chance.random() < SHARE else chance.uniform(0.4, 1.4)
        yield MarketTick(
            symbol=symbol,
            price=prices[symbol],
            previous=before,
            volume=round(times * AVERAGE),
            average_volume=AVERAGE,
        )


def news(seed: int, number: int) -> list[MarketNews]:
    """Return news about all symbols, some of them about volatility."""
    chance = Random(f"news {seed}")
    calm, nervous = (
        ("New offices for {}", "{} has a new logo"),
        ("Volatility of {} rises", "Traders fear volatility: {}"),
    )
    found = []
    for _ in range(number):
        symbol = chance.choice((*OURS, *OTHERS))
        headline = chance.choice(nervous if chance.random() < NERVOUS else calm).format(symbol)
        found.append(MarketNews(symbol=symbol, headline=headline))
    return found


def warnings(seed: int) -> Sequence[MarketAlert]:
    """Return alerts that can wait: risk comes near its limit, and nobody has to do anything yet."""
    chance = Random(f"warnings {seed}")
    return [
        MarketAlert(kind="risk_limit_exceeded", urgency=chance.randint(3, 5), message=f"desk {desk} is near its limit")
        for desk in range(1, 5)
    ]
