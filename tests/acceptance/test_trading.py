"""`pipeline demo trading`, as a user runs it: what is urgent overtakes what waits, and a halt holds the trader back."""

from __future__ import annotations

import json
import re
import signal
import sqlite3
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from pipeline.examples.trading import market
from pipeline.examples.trading.demo import DURING, OPENING
from tests.demos import demo, interrupted, workers_in

pytestmark = pytest.mark.usefixtures("nothing_is_left")


def book(directory: Path, session: str) -> list[dict[str, Any]]:
    """Return what the desk has handled, in the order in which that was begun."""
    file = sqlite3.connect(directory / "trading" / "book.db")
    file.row_factory = sqlite3.Row
    try:
        rows = file.execute("SELECT * FROM handled WHERE session = ? ORDER BY number", (session,))
        return [dict(row) for row in rows]
    finally:
        file.close()


def test_an_urgent_alert_overtakes_what_waits_and_a_halt_holds_the_trader_back(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    # As somebody has it who uses the bus already: it may not be asked.
    environment |= {"PIPELINE_LEDGER_URL": "postgresql://nobody@127.0.0.1:1/none", "TRADING_STATE": "/nowhere"}
    found = demo("trading", "--json", "--seed", "3", "--directory", "here", environment=environment)
    assert (found.returncode, found.stderr) == (0, "")
    told = json.loads(found.stdout)
    rows = book(tmp_path / "here", told["session"])
    mine = [row for row in rows if row["agent"] == "trader"]

    # The alert has overtaken ticks that came long before it: what the worker had got was begun before, and not more.
    (place,) = (number for number, row in enumerate(mine) if row["type"] == "market.alert")
    assert mine[place]["priority"] == 1
    alert = told["overtaking"]
    assert alert["begun_before"] < alert["overtaken"] / 2
    assert alert["overtaken"] > 25
    assert alert["overtaken"] <= sum(row["type"] == "market.tick" for row in mine[place:])
    assert alert["closed"]
    # So do order updates, of which none is routine either.
    assert told["updates_ahead"] > 0
    assert {row["priority"] for row in mine if row["type"] == "order.updated"} == {3}

    # While the market is halted nothing is begun, and what comes then is handled afterwards.
    assert told["halt"]["handled"] == 0
    assert told["halt"]["reason"] == "the exchange has halted the market"
    wanted = [*market.ticks(3, OPENING), *market.ticks(4, DURING)]
    ours = sum(tick.symbol in market.OURS for tick in wanted)
    assert 0 < told["halt"]["waiting"] < ours

    # At most five at once, and no event is handled twice, or by nobody.
    assert max(row["at_once"] for row in mine) == told["most_at_once"] == 5
    assert Counter(row["type"] for row in mine)["market.tick"] == ours
    assert len({row["delivery"] for row in rows}) == len(rows)
    assert (told["lost"], told["twice"]) == ([], [])

    # What filters kept back, by symbol, by urgency, and by a word.
    deliveries = told["deliveries"]
    assert deliveries["trader"]["market.tick"] == {"filtered": len(wanted) - ours, "succeeded": ours}
    assert deliveries["trader"]["market.alert"] == {"filtered": 6, "succeeded": 1}
    assert deliveries["supervisor"]["market.alert"] == {"filtered": 5, "succeeded": 2}
    nervous = [one for one in market.news(3, 12) if one.symbol in market.OURS and "volatility" in one.headline.lower()]
    assert deliveries["newsdesk"]["market.news"].get("succeeded", 0) == len(nervous)

    # Unusual volumes were traded, and the desk's book says what the orders in the ledger say.
    unusual = sum(tick.is_unusual for tick in wanted if tick.symbol in market.OURS)
    assert told["evaluated"] == unusual
    assert told["requested"] == told["filled"] == unusual + len(alert["closed"])
    assert told["positions"] == told["by_ledger"]

    # The commands that it ends with say why XMSFT, which looks like MSFT, is none of its symbols.
    explained = subprocess.run(
        told["try"][0], shell=True, capture_output=True, text=True, env=environment, timeout=60, check=True
    ).stdout
    assert "no   trader: it listens to market.tick, market.alert, order.updated, but its" in explained


def test_it_tells_what_happens_as_it_does(environment: dict[str, str]) -> None:
    found = demo("trading", environment=environment)
    assert (found.returncode, found.stderr) == (0, "")
    told = found.stdout
    words = ("OPEN:", "worth a look", "ALERT:", "OVERTAKEN: the trader", "HALT:", "RESUMED:", "DONE:", "LOST: nothing.")
    order = [told.index(word) for word in words]
    assert order == sorted(order)
    assert "HALTED: 0 events were begun while the market was halted" in told
    assert "HANDLED TWICE: nothing." in told
    assert "AT ONCE: 5 events" in told
    assert re.search(r"OVERTAKEN: the alert \(priority 1\) has overtaken \d{2,} events", told)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_demo_that_is_interrupted_during_the_halt_stops_its_worker_and_the_next_one_goes_on(
    tmp_path: Path, environment: dict[str, str], number: signal.Signals, code: int
) -> None:
    how: Any = {"said": "HALT:", "number": number, "directory": tmp_path, "environment": environment}
    ended, told, errors = interrupted("trading", "--directory", "here", **how)
    assert (ended, errors) == (code, "")
    assert "DONE" not in told
    assert workers_in(tmp_path) == []
    if number == signal.SIGINT:  # the trader is still paused: the next run lets it go on
        again = json.loads(demo("trading", "--json", "--directory", "here", environment=environment).stdout)
        assert (again["lost"], again["twice"]) == ([], [])
