"""`app.testing()`: one thread, virtual time, and the real path of every delivery."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pipeline import Event
from pipeline.core.errors import ConfigError, InvalidAgent, LedgerOff
from pipeline.operations.letters import DeadLetter
from pipeline.testing import TestedBus
from tests.kit import OrderPaid, OrderPlaced, Shop, shop


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    monkeypatch.chdir(tmp_path)
    return shop()


def test_what_is_published_is_delivered_when_the_bus_settles(here: Shop) -> None:
    with here.app.testing() as bus:
        here.app.publish(OrderPlaced(number=1))
        assert here.seen == []
        bus.settle()
        assert here.seen == [("pay", 1), ("ship", 1)]
        assert [event.type for event in bus.published()] == ["order.placed", "order.paid"]
        assert [event.data for event in bus.published(OrderPaid, where="number == 1")] == [{"number": 1}]
        assert bus.published("order.*", where={"data.number": 2}) == []


def test_what_is_measured_in_workers_is_not_here_and_webhooks_of_one_test_are_not_in_the_next(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        here = shop(metrics_port=taken.getsockname()[1])
        before = {agent.name for agent in here.app.agents}
        with here.app.testing() as bus:
            here.app.subscriptions.add("crm", on="order.*", url="https://example.com/hook")
            bus.advance("1m")
            assert "crm" in here.app.agents
        assert {agent.name for agent in here.app.agents} == before
        with here.app.testing() as bus:
            here.app.publish(OrderPlaced(number=1))
            bus.settle()
            assert here.of("pay") == [1]


def test_retries_come_when_time_has_passed(here: Shop) -> None:
    here.failures = 2
    with here.app.testing() as bus:
        event = here.app.publish(OrderPlaced(number=1))
        bus.settle()
        assert here.of("pay") == [1]
        bus.advance("5s")
        assert here.of("pay") == [1]
        bus.advance("1h")
        assert here.of("pay") == [1, 1, 1]
        assert here.of("ship") == [1]
        assert "succeeded" in str(here.app.trace(event))


def test_settling_within_a_time_goes_no_further_than_it_has_to(here: Shop) -> None:
    here.failures = 1
    with here.app.testing(start=datetime(2030, 1, 1, tzinfo=UTC)) as bus:
        here.app.publish(OrderPlaced(number=1))
        bus.settle(within="1d")
        assert here.of("ship") == [1]
        assert timedelta(0) < bus.now - datetime(2030, 1, 1, tzinfo=UTC) < timedelta(minutes=5)


def test_a_delayed_event_comes_to_its_time(here: Shop) -> None:
    with here.app.testing() as bus:
        here.app.publish(OrderPlaced(number=1), delay=timedelta(days=3))
        bus.advance(timedelta(days=2))
        assert here.seen == []
        bus.advance("2d")
        assert here.of("ship") == [1]


def run_a_day(here: Shop, more: Callable[[TestedBus], object] = bool) -> None:
    here.failures = 10
    with here.app.testing() as bus:
        here.app.publish(OrderPlaced(number=1))
        bus.advance("1d")
        more(bus)


def test_a_dead_letter_fails_the_test_that_has_not_expected_it(here: Shop) -> None:
    with pytest.raises(AssertionError, match=r"(?s)1 dead letter.*agent pay, order.placed: .*the bank is away"):
        run_a_day(here)
    letters: list[DeadLetter] = []
    run_a_day(here, lambda bus: letters.extend(bus.dead()))
    assert [(letter.agent, letter.attempts) for letter in letters] == [("pay", 4)]
    run_a_day(here, lambda bus: bus.expect_dead())


def test_an_error_of_the_test_is_not_hidden_by_a_dead_letter(here: Shop) -> None:
    with pytest.raises(ZeroDivisionError):
        run_a_day(here, lambda bus: 1 / 0)


@pytest.mark.parametrize("at", ["before_handler", "after_handler", "after_commit", "before_ack"])
@pytest.mark.parametrize("agent", ["pay", "ship"])
def test_a_worker_that_is_killed_loses_nothing_and_does_nothing_twice(here: Shop, agent: str, at: str) -> None:
    with here.app.testing() as bus:
        before = here.app.bus.worker_id
        bus.crash(agent, at=at)
        here.app.publish(OrderPlaced(number=1))
        bus.settle()
        assert here.app.bus.worker_id != before
        bus.advance("10m")
        assert len(bus.published(OrderPaid)) == 1
        times = {"before_handler": 1, "after_handler": 2, "after_commit": 1, "before_ack": 1}[at]
        assert here.of(agent) == [1] * times
        assert here.of({"pay": "ship", "ship": "pay"}[agent]) == [1]


def test_an_agent_answers_with_what_the_test_says(here: Shop) -> None:
    with here.app.testing() as bus:
        bus.reply("pay", OrderPaid(number=99))
        here.app.publish(OrderPlaced(number=1))
        bus.settle()
        assert here.seen == [("ship", 99)]
        bus.reply("pay", lambda order, *_: OrderPaid(number=order.number + 1))
        assert bus.request("order.placed", {"number": 5}).result == {"number": 6}
        bus.reply("pay", ValueError("stop"))
        here.app.publish(OrderPlaced(number=1))
        bus.advance("1d")
        assert [letter.agent for letter in bus.dead()] == ["pay"]
        with pytest.raises(InvalidAgent):
            bus.reply("pai", None)


def test_every_run_is_the_same(here: Shop) -> None:
    def run(seed: int) -> list[Event]:
        here.failures = 2
        with here.app.testing(seed=seed, start=datetime(2030, 1, 1, tzinfo=UTC)) as bus:
            for number in range(5):
                here.app.publish(OrderPlaced(number=number))
            bus.advance("1h")
            return bus.published()

    assert run(1) == run(1)
    assert [event.id for event in run(1)] != [event.id for event in run(2)]


def test_all_of_it_is_one_thread_but_for_the_loop_of_async_handlers(here: Shop) -> None:
    before = set(threading.enumerate())
    with here.app.testing() as bus:
        for number in (1, 101):
            here.app.publish(OrderPlaced(number=number))
        bus.settle()
        assert {thread.name for thread in set(threading.enumerate()) - before} == {"pipeline-handlers"}
    assert set(threading.enumerate()) == before


def test_it_is_explained_who_gets_an_event(here: Shop) -> None:
    with here.app.testing() as bus:
        answers = {answer.agent: answer for answer in bus.explain(OrderPlaced(number=1))}
        assert set(answers) >= {"pay", "check"}


def test_what_cannot_be_is_refused(here: Shop, tmp_path: Path) -> None:
    with pytest.raises(LedgerOff, match="needs a ledger"):
        shop(ledger_url="", directory=tmp_path).app.testing().__enter__()
    with pytest.raises(ConfigError, match="no time zone"):
        here.app.testing(start=datetime(2030, 1, 1)).__enter__()
    with here.app.testing() as bus:
        with pytest.raises(ConfigError, match="after_commit"):
            bus.crash("pay", at="after_comit")
        with pytest.raises(AssertionError, match="no 'refund' waits"):
            bus.approve("refund")
