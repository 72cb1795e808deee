"""The trading desk's parts: its market, whom its filters let through, how it decides, its book and its figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline import Context, Payload
from pipeline.examples.trading import market
from pipeline.examples.trading.agents import LOT, OURS, SMALL_LOT, close, evaluate, newsdesk, supervisor, trader
from pipeline.examples.trading.book import Book, Handled
from pipeline.examples.trading.figures import ahead, most_at_once, overtaken, positions, tally, twice
from pipeline.examples.trading.market import MarketAlert, MarketNews, MarketTick, OrderUpdated
from pipeline.filters import parse


def tick(symbol: str = "AAPL", price: float = 190.0, volume: int = 20_000) -> MarketTick:
    return MarketTick(symbol=symbol, price=price, previous=189.0, volume=volume, average_volume=10_000)


def alert(kind: market.Kind, urgency: int) -> MarketAlert:
    return MarketAlert(kind=kind, urgency=urgency, message="")


def updated(order_id: str = "1", *, side: Any = "buy", quantity: int = 100, status: Any = "filled") -> OrderUpdated:
    return OrderUpdated(order_id=order_id, status=status, symbol="AAPL", side=side, quantity=quantity, price=190.0)


# -- the market


def test_the_same_seed_makes_the_same_day_and_another_one_another() -> None:
    assert [*market.ticks(7, 50)] == [*market.ticks(7, 50)] != [*market.ticks(8, 50)]
    assert market.news(7, 12) == market.news(7, 12)
    assert market.warnings(7) == market.warnings(7)


def test_a_day_has_what_filters_keep_back_and_what_they_do_not() -> None:
    for seed in range(20):
        ticks = [*market.ticks(seed, 250)]
        assert {one.symbol for one in ticks} == {*market.OURS, *market.OTHERS}
        assert 0 < sum(one.is_unusual for one in ticks) < 125
        assert all(one.urgency >= 3 for one in market.warnings(seed))


@pytest.mark.parametrize(("volume", "is_unusual"), [(15_000, False), (15_001, True)])
def test_a_volume_is_unusual_beyond_one_and_a_half_times_the_average(volume: int, is_unusual: bool) -> None:
    assert tick(volume=volume).is_unusual is is_unusual


# -- the filters


@pytest.mark.parametrize(
    ("agent", "what", "is_wanted"),
    [
        (trader, tick("AAPL"), True),
        (trader, tick("MSFT"), True),
        (trader, tick("GOOGL"), True),
        (trader, tick("XMSFT"), False),  # which `^AAPL|MSFT|GOOGL$` would let through
        (trader, tick("AAPLX"), False),
        (trader, alert("risk_limit_exceeded", 2), True),
        (trader, alert("risk_limit_exceeded", 3), False),
        (trader, alert("market_halt", 1), False),
        (trader, updated(), True),
        (supervisor, alert("market_halt", 1), True),
        (supervisor, alert("market_resumed", 2), True),
        (supervisor, alert("market_halt", 3), False),
        (supervisor, alert("risk_limit_exceeded", 1), False),
        (newsdesk, MarketNews(symbol="MSFT", headline="Volatility of MSFT rises"), True),
        (newsdesk, MarketNews(symbol="XMSFT", headline="Volatility of XMSFT rises"), False),
        (newsdesk, MarketNews(symbol="MSFT", headline="New offices for MSFT"), False),
    ],
)
def test_filters_look_at_symbol_urgency_and_words(agent: Any, what: Payload, is_wanted: bool) -> None:
    event = {"type": what.event_type, "source": "/test", "priority": 5, "data": what.model_dump()}
    assert parse(agent.filter).matches(event) is is_wanted


def test_the_brackets_of_the_symbols_are_needed() -> None:
    assert OURS == "^(AAPL|MSFT|GOOGL)$"


def test_the_trader_takes_five_at_once_and_what_it_emits_overtakes_ticks() -> None:
    assert (trader.max_concurrent, trader.priority) == (5, 3)


# -- how they decide


@pytest.mark.parametrize(
    ("price", "is_nervous", "side", "quantity"),
    [(190.0, False, "buy", LOT), (188.0, False, "sell", LOT), (189.0, True, "buy", SMALL_LOT)],
)
def test_an_unusual_volume_is_gone_with(price: float, is_nervous: bool, side: str, quantity: int) -> None:
    (order,) = evaluate(tick(price=price), "key", is_nervous=is_nervous)
    assert (order.order_id, order.side, order.quantity, order.reason) == ("key-AAPL", side, quantity, "volume")


def test_all_positions_are_closed_whatever_is_owned_or_owed() -> None:
    orders = close({"AAPL": 300, "MSFT": -50}, "key")
    assert [(one.symbol, one.side, one.quantity) for one in orders] == [("AAPL", "sell", 300), ("MSFT", "buy", 50)]


# -- the book


def test_the_book_counts_each_order_once_and_only_what_was_filled(tmp_path: Path) -> None:
    book = Book(tmp_path / "book.db", "s")
    for order in (updated("1"), updated("1"), updated("2", side="sell", quantity=30), updated("3", status="rejected")):
        book.fill(order)
    assert book.positions() == {"AAPL": 70}
    assert Book(tmp_path / "book.db", "other").positions() == {}
    book.fill(updated("4", side="sell", quantity=70))
    assert book.positions() == {}


def test_the_book_knows_what_is_volatile_in_this_session(tmp_path: Path) -> None:
    Book(tmp_path / "book.db", "s").beware("AAPL")
    assert [Book(tmp_path / "book.db", one).is_nervous("AAPL") for one in ("s", "other")] == [True, False]


def test_the_book_has_who_is_handled_at_once_and_in_which_order(tmp_path: Path) -> None:
    book = Book(tmp_path / "book.db", "s")
    first, second, third = (Context.for_test(tick(), agent="trader") for _ in range(3))
    with book.handling(first, "a"), book.handling(second, "b"):
        pass
    with book.handling(third, "c"):
        pass
    found = book.handled()
    assert [(one.about, one.at_once, one.priority) for one in found] == [("a", 1, 5), ("b", 2, 5), ("c", 1, 5)]
    assert [one.event for one in found] == [first.event.id, second.event.id, third.event.id]
    assert [one.about for one in book.handled(after=found[1].number)] == ["c"]


# -- the figures


def handled(*rows: tuple[str, str]) -> list[Handled]:
    return [
        Handled(number, "trader", f"d-{event}", event, type, 5, "", number % 3 + 1)
        for number, (event, type) in enumerate(rows)
    ]


@pytest.mark.parametrize(
    ("order", "number"), [("abcX", 0), ("abXc", 1), ("Xabc", 3), ("aXbYc", 2), ("aXbcX", 2), ("YXabc", 3)]
)
def test_what_was_published_before_and_handled_after_is_overtaken(order: str, number: int) -> None:
    assert overtaken("abcXY", order, "X") == number


def test_events_that_have_overtaken_a_routine_one_are_counted() -> None:
    rows = handled(("t1", "tick"), ("u2", "update"), ("t2", "tick"), ("u1", "update"), ("t3", "tick"))
    assert ahead(["t1", "t2", "u1", "u2", "t3"], rows, "update", "tick") == 1


def test_what_was_handled_twice_is_named() -> None:
    assert twice(handled(("a", "tick"), ("b", "tick"), ("a", "tick"))) == ["d-a"]


def test_the_most_at_once_is_what_was_written_down() -> None:
    assert most_at_once(handled(("a", "tick"), ("b", "tick"), ("c", "tick"))) == 3
    assert most_at_once([]) == 0


def test_positions_are_what_was_filled() -> None:
    assert positions([("MSFT", 50), ("AAPL", 100), ("MSFT", -50), ("AAPL", -30)]) == {"AAPL": 70}


def test_deliveries_are_counted_by_agent_type_and_end() -> None:
    ends = [("trader", "tick", "succeeded"), ("trader", "tick", "filtered"), ("trader", "tick", "filtered")]
    assert tally(ends) == {"trader": {"tick": {"filtered": 2, "succeeded": 1}}}
