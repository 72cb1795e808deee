"""Libraries that let the time stand still in tests: what waits still gives up, and what sleeps wakes up."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import freezegun
import pytest
import time_machine

from pipeline import BrokerUnavailable, LedgerUnavailable, Pipeline, SettleTimeout
from pipeline.agents.loop import EventLoop
from pipeline.core.event import Event
from pipeline.core.times import now
from tests.servers import free_port

THEN = datetime(2031, 3, 1, 12, tzinfo=UTC)
Freeze = Callable[[], AbstractContextManager[Any]]

LIBRARIES: dict[str, Freeze] = {
    "freezegun": lambda: freezegun.freeze_time(THEN),
    "time-machine": lambda: time_machine.travel(THEN, tick=False),
}


@pytest.fixture(params=LIBRARIES)
def freeze(request: pytest.FixtureRequest) -> Freeze:
    """Let the time stand still, by each of the libraries."""
    return LIBRARIES[request.param]


@pytest.fixture
def make(tmp_path: Path, no_settings: None) -> Iterator[Callable[..., Pipeline]]:
    made: list[Pipeline] = []

    def make(**settings: Any) -> Pipeline:
        made.append(Pipeline("shop", directory=tmp_path, **settings))
        return made[-1]

    yield make
    for app in made:
        app.close()


def event() -> Event:
    return Event(id="e1", type="order.placed", source="/test", time=datetime(2026, 3, 1, tzinfo=UTC))


def within(seconds: float, do: Callable[[], Any]) -> Any:
    """Return what a call returns, or the error that it ends with; fail when it goes on for ever."""
    answer: list[Any] = []

    def run() -> None:
        try:
            answer.append(do())
        except Exception as exc:
            answer.append(exc)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(timeout=seconds)
    assert answer, "it has not ended"
    return answer[0]


def test_publishing_gives_up_a_broker_that_is_away(make: Callable[..., Pipeline], freeze: Freeze) -> None:
    app = make(broker_url=f"amqp://127.0.0.1:{free_port()}//", ledger_url="", publish_timeout=0.3)
    given = event()
    with freeze():
        assert isinstance(within(60, lambda: app.publish(given)), BrokerUnavailable)


def test_settling_gives_up(make: Callable[..., Pipeline], freeze: Freeze) -> None:
    app = make()
    app.bus.ledger.subscribers.register({"billing": (("order.#",), 0)})
    given = event()
    with freeze():
        app.publish(given)
        assert isinstance(within(60, lambda: app.settle(given.id, timeout=0.1)), SettleTimeout)


def test_a_ledger_that_is_locked_is_given_up(make: Callable[..., Pipeline], freeze: Freeze, tmp_path: Path) -> None:
    app = make(ledger_timeout=0.3)
    app.publish(event())
    other = sqlite3.connect(tmp_path / "ledger.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    second = event().evolve(id="e2")
    with freeze():
        assert isinstance(within(60, lambda: app.publish(second)), LedgerUnavailable)
    other.execute("ROLLBACK")
    other.close()


def test_an_async_handler_that_sleeps_wakes_up_and_its_timeout_ends_it(freeze: Freeze) -> None:
    async def sleep(seconds: float) -> str:
        await asyncio.sleep(seconds)
        return "awake"

    with freeze():
        loop = EventLoop()
        assert within(60, lambda: loop.run(sleep(0.01), timeout=30)) == "awake"
        assert isinstance(within(60, lambda: loop.run(sleep(3600), timeout=0.05)), TimeoutError)


def test_what_is_delayed_is_due_on_the_clock_that_stands_still(make: Callable[..., Pipeline]) -> None:
    app = make()
    with time_machine.travel(THEN, tick=False) as clock:
        delayed = app.publish("order.placed", {"n": 1}, delay=60)
        assert not app.ledger.due.look().timers
        clock.shift(timedelta(seconds=61))
        assert app.ledger.due.look().timers
        assert app.cancel(delayed.id)
        assert now() == round((THEN + timedelta(seconds=61)).timestamp() * 1_000_000)
