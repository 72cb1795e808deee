"""Flows, and what waits for something, when others come in between, in virtual time."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from pipeline import Context, Event, InvalidSelection, Payload, Pipeline, step


class Paid(Payload, type="order.paid"):
    total: int


def test_no_event_takes_the_place_of_a_step_of_a_saga() -> None:
    app, shipped = Pipeline("desk"), []

    @app.agent(on="pay.asked", singleton="cancel")
    def pay(data: dict[str, Any], ctx: Context) -> dict[str, Any] | None:
        ctx.sleep("1h")
        return {"paid": data["n"]} if ctx.in_flow else None

    @app.agent()
    def ship(data: dict[str, Any], ctx: Context) -> None:
        shipped.append(ctx.flow.results["pay"])

    app.saga("orders", on="order.placed", steps=[step(pay), step(ship)])
    with app.testing() as bus:
        app.publish("pay.asked", {"n": 1})
        bus.settle()
        app.publish("order.placed", {"n": 2})  # its step waits in line
        bus.settle()
        app.publish("pay.asked", {"n": 3})  # takes the place of the first one
        bus.settle()
        bus.advance("1m")
        assert shipped == []
        app.publish("pay.asked", {"n": 4})  # the step runs now
        bus.advance("3h")
        assert shipped == [{"paid": 2}]


def test_a_saga_with_a_key_that_starts_with_other_data_works_on_those() -> None:
    app, got = Pipeline("desk"), []

    @app.agent()
    def reserve(data: dict[str, Any]) -> dict[str, Any]:
        got.append(data)
        return {}

    @app.agent()
    def ship(data: dict[str, Any], ctx: Context) -> None:
        got.extend([data, ctx.flow.original])

    saga = app.saga("orders", on="order.placed", steps=[reserve, step(ship, input={"id": "data.id"})], key="data.id")
    with app.testing() as bus:
        app.publish("order.placed", {"total": 1})
        bus.settle()
        (letter,) = bus.dead(agent=saga.name)
        app.dead_letters.requeue(letter.id, data={"id": "A1", "total": 1})
        bus.settle()
        (completed,) = bus.published("orders.completed")
    whole = {"id": "A1", "total": 1}
    assert got == [whole, {"id": "A1"}, whole]
    assert completed.data["original"] == whole


def test_a_choreography_keeps_its_events_until_all_of_its_tree_is_done() -> None:
    app = Pipeline("desk")

    @app.agent()
    def asks(data: dict[str, Any], ctx: Context) -> None:
        ctx.publish("stock.asked", {})

    @app.agent(on="stock.asked")
    def counts(data: dict[str, Any], ctx: Context) -> None:
        ctx.sleep("2h")
        ctx.publish("stock.counted", {"number": 3})

    with app.testing() as bus:
        id = app.collaborate("choreography", [asks], {})
        bus.settle()
        bus.advance("10m")
        assert app.prune(older_than=timedelta(minutes=5)).events == 0
        bus.advance("10m")
        assert app.collaborations.get(id).status == "active"
        bus.advance("2h")
        assert len(bus.published("stock.counted")) == 1
        assert app.collaborations.get(id).status == "completed"
        assert app.prune(older_than=timedelta(0)).events > 0


def test_what_a_step_returns_is_its_result_and_no_event_whether_its_flow_was_asked_for_or_not() -> None:
    app, got = Pipeline("desk"), []

    @app.agent()
    def pay(data: dict[str, Any]) -> Paid:
        return Paid(total=data["total"])

    @app.agent()
    def ship(data: dict[str, Any], ctx: Context) -> None:
        got.append(ctx.flow.results["pay"])

    app.saga("orders", on="order.placed", steps=[pay, ship])
    with app.testing() as bus:
        app.publish("order.placed", {"total": 1})
        bus.settle()
        bus.request("order.placed", {"total": 2})
        bus.settle()
        assert got == [{"total": 1}, {"total": 2}]
        assert bus.published("order.paid") == []


def test_what_came_before_is_found_although_publishers_clocks_differ() -> None:
    app, found = Pipeline("desk"), []

    @app.agent(on="go")
    def waits(event: Event, ctx: Context) -> None:
        found.append(ctx.wait_for("sign", anywhere=True, lookback="10m", timeout="1m").data["n"])

    with app.testing() as bus:
        bus.advance("1h")
        for n, behind in ((1, 1), (2, 3)):
            at = bus.now - timedelta(seconds=behind)
            app.publish(Event(id=str(n), type="sign", source="/other", data={"n": n}, time=at))
        bus.settle()
        app.publish("go", {})
        bus.settle()
    assert found == [1]


def test_why_a_step_before_the_point_of_no_return_is_not_left_out() -> None:
    app = Pipeline("desk")

    @app.agent(retry=0)
    def pay(data: dict[str, Any]) -> None:
        raise ValueError("no money")

    @app.agent()
    def pack(data: dict[str, Any], ctx: Context) -> None:
        ctx.sleep("1d")

    app.workflow("orders", on="order.placed", steps={"pay": step(pay), "pack": step(pack)})
    with app.testing() as bus:
        app.publish("order.placed", {})
        bus.settle()
        (flow,) = app.flows.list()
        assert flow.status == "active"
        with pytest.raises(InvalidSelection, match=r"step 'pay' has failed before a point of no return: .* retry-step"):
            app.flows.skip(flow.id, "pay")
        with pytest.raises(InvalidSelection, match="step 'pack' does not hold workflow orders"):
            app.flows.skip(flow.id, "pack")
        bus.expect_dead()
