"""What waits for hours in an application waits for milliseconds in its tests, and in the same order."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from pipeline import (
    Batch,
    Breaker,
    Context,
    Debounce,
    Event,
    Limit,
    NoResponder,
    Pipeline,
    RateLimited,
    RequestTimeout,
    Retry,
    Singleton,
    Vetoed,
    WaitTimeout,
    step,
)
from pipeline.testing import TestedBus

START = datetime(2030, 1, 1, tzinfo=UTC)


class Log(list[tuple[float, Any]]):
    """What handlers have seen, each with the seconds since the test began."""

    def __init__(self, app: Pipeline) -> None:
        super().__init__()
        self.app = app
        self.bus: TestedBus | None = None

    def note(self, what: Any) -> None:
        assert self.bus is not None
        self.append(((self.bus.now - START).total_seconds(), what))

    @property
    def what(self) -> list[Any]:
        return [what for _, what in self]

    @property
    def seconds(self) -> list[int]:
        return [round(at) for at, _ in self]

    @contextmanager
    def running(self) -> Iterator[TestedBus]:
        with self.app.testing(start=START) as bus:
            self.bus = bus
            yield bus


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(Pipeline("waits", directory=tmp_path / "never"))


def test_a_rate_is_kept_over_hours(log: Log) -> None:
    @log.app.agent(on="page", limit=Limit(rate="6/h"))
    def read(event: Event) -> None:
        log.note(event.data["n"])

    with log.running() as bus:
        for n in range(5):
            log.app.publish("page", {"n": n})
        bus.settle()
        assert log.what == [0]
        bus.advance("25m")
        assert len(log) == 3
        bus.advance("1h")
    assert sorted(log.what) == [0, 1, 2, 3, 4]
    assert log.seconds == pytest.approx([0, 600, 1200, 1800, 2400], abs=2)


def test_a_handler_sleeps_and_its_steps_are_done_once(log: Log) -> None:
    @log.app.agent(on="trial.begun")
    def remind(event: Event, ctx: Context) -> None:
        ctx.step("welcome", log.note, "welcome")
        ctx.sleep("14d")
        ctx.step("remind", log.note, "remind")

    with log.running() as bus:
        log.app.publish("trial.begun", {})
        bus.advance("13d")
        assert log.what == ["welcome"]
        bus.advance("2d")
    assert log.what == ["welcome", "remind"]
    assert log.seconds[1] == pytest.approx(14 * 86400, abs=2)


def test_an_async_handler_waits_for_an_event_or_for_too_long(log: Log) -> None:
    @log.app.agent(on="order.placed")
    async def wait(event: Event, ctx: Context) -> None:
        where = {"data.order": event.data["order"]}
        try:
            paid = ctx.wait_for("order.paid", where=where, timeout="1h")
        except WaitTimeout:
            log.note(("late", event.data["order"]))
        else:
            log.note((paid.data["by"], event.data["order"]))

    with log.running() as bus:
        for order in ("a", "b"):
            event = log.app.publish("order.placed", {"order": order})
            if order == "a":
                bus.advance("10m")
                log.app.publish("order.paid", {"order": "a", "by": "card"}, correlation_id=event.correlation_id)
                bus.settle()
                assert log.what == [("card", "a")]
        bus.advance("2h")
    assert log.what == [("card", "a"), ("late", "b")]


def test_people_are_asked_and_the_test_answers(log: Log) -> None:
    @log.app.agent(on="refund.wanted")
    def refund(event: Event, ctx: Context) -> None:
        try:
            answer = ctx.ask("refund", {"amount": event.data["amount"]}, expires="24h")
            log.note(answer.args["amount"])
        except Vetoed:
            log.note("vetoed")

    with log.running() as bus:
        for amount in (1, 2, 3):
            log.app.publish("refund.wanted", {"amount": amount})
            bus.settle()
            if amount == 1:
                assert len(bus.approve("refund", edit={"amount": 10})) == 1
            elif amount == 2:
                bus.veto("refund", reason="no")
            bus.settle()
        assert log.what == [10, "vetoed"]
        bus.advance("25h")
    assert log.what == [10, "vetoed", "vetoed"]


def test_a_join_ends_at_its_deadline(log: Log) -> None:
    def stock(event: Event) -> dict[str, int]:
        return {"stock": 1}

    def credit(event: Event, ctx: Context) -> dict[str, int]:
        ctx.sleep("2h")
        return {"credit": 1}

    app = log.app
    members = [app.agent(on="never.one")(stock), app.agent(on="never.two")(credit)]
    app.join("checks", on="order.placed", agents=members, emits="order.checked", deadline="10m")
    with log.running() as bus:
        app.publish("order.placed", {})
        bus.advance("9m")
        assert bus.published("order.checked") == []
        bus.advance("2m")
        (checked,) = bus.published("order.checked")
        assert checked.data["completed_by"] == "deadline"
        bus.advance("3h")
        assert len(bus.published("order.checked")) == 1


def test_a_saga_is_undone_in_reverse_order(log: Log) -> None:
    app = log.app

    @app.agent(on="never.reserve")
    def reserve(event: Event) -> dict[str, str]:
        log.note("reserve")
        return {"reserved": "r1"}

    @app.agent(on="never.release")
    def release(event: Event) -> None:
        log.note("release")

    @app.agent(on="never.pay", retry=Retry(max=1, base=600))
    def pay(event: Event) -> None:
        log.note("pay")
        raise ValueError("no money")

    app.saga("order", on="order.placed", steps=[step(reserve, undo=release), step(pay)])
    with log.running() as bus:
        bus.expect_dead()
        app.publish("order.placed", {})
        bus.settle()
        assert log.what == ["reserve", "pay"]
        bus.advance("1d")
    assert log.what == ["reserve", "pay", "pay", "release"]


def test_a_provider_that_says_no_is_left_alone_for_as_long_as_it_says(log: Log) -> None:
    @log.app.agent(on="page")
    def read(event: Event) -> None:
        log.note(event.data["n"])
        if len(log) == 1:
            raise RateLimited(retry_after="30m")

    with log.running() as bus:
        log.app.publish("page", {"n": 1})
        bus.settle()
        log.app.publish("page", {"n": 2})
        bus.advance("29m")
        assert log.what == [1]
        bus.advance("1h")
    assert sorted(log.what) == [1, 1, 2]


def test_a_breaker_opens_and_closes(log: Log) -> None:
    @log.app.agent(on="page", retry=0, breaker=Breaker(min=3, within=300, share=0.5, pause=600))
    def read(event: Event) -> None:
        log.note(event.data["n"])
        if event.data["n"] < 3:
            raise ValueError("away")

    with log.running() as bus:
        bus.expect_dead()
        for n in range(3):
            log.app.publish("page", {"n": n})
        bus.settle()
        log.app.publish("page", {"n": 3})
        bus.advance("9m")
        assert log.what == [0, 1, 2]
        bus.advance("5m")
    assert log.what == [0, 1, 2, 3]


def test_the_last_of_a_series_is_handled_after_a_quiet_time(log: Log) -> None:
    @log.app.agent(on="saved", debounce=Debounce("30s", most="10m", key="data.document"))
    def index(event: Event) -> None:
        log.note(event.data["n"])

    with log.running() as bus:
        for n in range(4):
            log.app.publish("saved", {"document": "d", "n": n})
            bus.advance("10s")
        assert log.what == []
        bus.advance("1m")
    assert log.what == [3]
    assert log.seconds == pytest.approx([60], abs=2)


def test_a_batch_goes_when_its_time_is_over(log: Log) -> None:
    @log.app.agent(on="page", batch=Batch(most=100, wait="5m"))
    def read(pages: list[dict[str, Any]]) -> None:
        log.note(len(pages))

    with log.running() as bus:
        for n in range(7):
            log.app.publish("page", {"n": n})
        bus.advance("4m")
        assert log.what == []
        bus.advance("2m")
    assert log.what == [7]


def test_events_of_a_key_keep_their_order_through_retries(log: Log) -> None:
    @log.app.agent(on="moved", order_by="data.account", retry=Retry(max=3, base=300))
    def book(event: Event) -> None:
        log.note(event.data["n"])
        if log.what.count(0) < 2:
            raise ValueError("away")

    with log.running() as bus:
        for n in range(3):
            log.app.publish("moved", {"account": "a", "n": n})
        bus.settle()
        assert log.what == [0]
        bus.advance("1h")
    assert log.what == [0, 0, 1, 2]


def test_one_at_a_time_skips_what_comes_meanwhile(log: Log) -> None:
    @log.app.agent(on="sync", singleton=Singleton("skip"))
    def sync(event: Event, ctx: Context) -> None:
        ctx.sleep("10m")
        log.note(event.data["n"])

    with log.running() as bus:
        for n in range(3):
            log.app.publish("sync", {"n": n})
            bus.settle()
        bus.advance("1h")
    assert len(log) == 1


def test_a_request_is_answered_or_ends(log: Log) -> None:
    @log.app.agent(on="price.asked")
    async def quote(data: dict[str, Any]) -> dict[str, Any]:
        return {"price": data["number"] * 9.5}

    with log.running() as bus:
        assert bus.request("price.asked", {"number": 2}).result == {"price": 19.0}
        assert log.app.gather("price.asked", {"number": 2})["quote"].result == {"price": 19.0}
        with pytest.raises(NoResponder):
            bus.request("nobody.asked", {})


def test_a_request_to_an_agent_of_batches_comes_alone(log: Log) -> None:
    @log.app.agent(on="price.asked", batch=Batch(most=3, wait="1m"))
    def quote(data: list[dict[str, Any]], ctx: Context) -> list[float] | None:
        log.note([one["number"] for one in data])
        return [one["number"] * 9.5 for one in data] if data[0]["number"] > 1 else None

    with log.running() as bus:
        log.app.publish("price.asked", {"number": 1})
        bus.settle()
        assert bus.request("price.asked", {"number": 2}).result == [19.0]
        bus.advance("2m")
    assert log.what == [[2], [1]]


def test_a_request_that_nobody_answers_in_time_ends_at_once(log: Log) -> None:
    @log.app.agent(on="price.asked")
    def quote(event: Event, ctx: Context) -> dict[str, Any]:
        ctx.sleep("1h")
        return {"price": 1}

    began = monotonic()
    with log.running() as bus, pytest.raises(RequestTimeout):
        bus.request("price.asked", {}, timeout=600)
    assert monotonic() - began < 300


def test_a_filter_keeps_events_back(log: Log) -> None:
    @log.app.agent(on="page", where={"data.n": {"$gte": 2}})
    def read(event: Event) -> None:
        log.note(event.data["n"])

    with log.running() as bus:
        sent = [log.app.publish("page", {"n": n}) for n in range(4)]
        bus.settle()
        assert "filtered" in str(log.app.trace(sent[0]))
    assert log.what == [2, 3]


def test_a_worker_that_was_away_for_days_of_virtual_time_lives(log: Log) -> None:
    @log.app.agent(on="page")
    def read(event: Event) -> None:
        log.note(event.data["n"])

    with log.running() as bus:
        bus.advance("30d")
        log.app.publish("page", {"n": 1})
        bus.settle()
        assert [one.state.value for one in log.app.presence.agents()] == ["online"]
        assert bus.now - START >= timedelta(days=30)
    assert log.what == [1]


def test_whoever_settles_with_the_apps_own_verb_gets_the_trace(log: Log) -> None:
    calls: list[int] = []

    @log.app.agent(on="page", retry=Retry(max=2, base=1))
    def read(event: Event) -> None:
        calls.append(1)
        if len(calls) < 2:
            raise ValueError("away")

    with log.running():
        assert "succeeded" in str(log.app.settle(log.app.publish("page", {"n": 1})))


def test_a_handler_that_asks_is_told_where_that_can_be_tested(log: Log) -> None:
    @log.app.agent(on="price.asked")
    def quote(event: Event) -> dict[str, Any]:
        return {"price": 1}

    @log.app.agent(on="order.placed", retry=0)
    async def order(event: Event) -> None:
        await log.app.arequest("price.asked", {})

    @log.app.agent(on="order.placed", retry=0)
    def check(event: Event) -> None:
        log.app.request("price.asked", {})

    with log.running() as bus:
        log.app.publish("order.placed", {})
        bus.settle()
        assert ["app.local()" in letter.error for letter in bus.dead()] == [True, True]
    with log.app.local():
        log.app.settle(log.app.publish("order.placed", {}), timeout=30)
        assert [letter.agent for letter in log.app.dead_letters.list()] == ["check"]
