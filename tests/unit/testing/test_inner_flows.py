"""Steps that are flows which have ended badly, done again, in virtual time."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from pipeline import InvalidEvent, InvalidSelection, Pipeline, step
from pipeline.coordination.flows.instances import Flow, Instances
from pipeline.testing import TestedBus


class Shop:
    """An app whose order goes on with a payment that is a saga, after the point of no return."""

    def __init__(self, kind: str = "saga") -> None:
        self.app = app = Pipeline("desk")
        self.done: list[str] = []
        self.broken = True

        @app.agent()
        def first(data: dict[str, Any]) -> None: ...

        @app.agent()
        def charge(data: dict[str, Any]) -> dict[str, Any]:
            self.done.append("charge")
            return {"for": data["n"]}

        @app.agent()
        def uncharge(data: dict[str, Any]) -> None:
            self.done.append("uncharge")

        @app.agent(retry=0)
        def book(data: dict[str, Any]) -> dict[str, Any]:
            self.done.append("book")
            if self.broken:
                raise ValueError("no books")
            return {"booked": data["n"]}

        if kind == "join":
            payment = app.join("payment", on="payment.asked", agents=[charge, book], emits="payment.completed")
        else:
            payment = app.saga("payment", on="payment.asked", steps=[step(charge, undo=uncharge), book])
        pays = step(payment, input={"n": "data.number"})
        app.saga("orders", on="order.placed", steps=[step(first, final=True), pays, step(first, name="last")])

    def stuck(self, bus: TestedBus) -> Flow:
        """Let an order be stuck, and return its flow."""
        self.app.publish("order.placed", {"number": 7})
        bus.settle()
        (flow,) = self.app.flows.list(name="orders")
        assert flow.status == "stuck"
        return self.app.flows.show(flow.id)

    def payments(self) -> list[str]:
        """Return what became of the payments, the first one first."""
        flow = self.app.flows.show(self.app.flows.list(name="orders")[0].id)
        return [self.app.flows.show(id).status for id in flow.inner]


@pytest.mark.parametrize("kind", ["saga", "join"])
def test_a_step_that_is_a_flow_which_has_ended_badly_is_done_again_as_another_one(kind: str) -> None:
    shop = Shop(kind)
    with shop.app.testing() as bus:
        flow = shop.stuck(bus)
        (old,) = flow.inner
        assert shop.app.flows.retry_step(flow.id, "payment") == ["payment"]
        bus.settle()
        bad = "failed" if kind == "join" else "compensated"
        assert shop.payments() == [bad, bad], "it is started once for each time that somebody says so"
        assert shop.app.flows.show(flow.id).status == "stuck"
        shop.broken = False
        assert shop.app.flows.resume(flow.id) == ["payment"]
        bus.settle()
        assert shop.payments() == [bad, bad, "completed"]
        (completed,) = bus.published("orders.completed")
        assert completed.data["results"]["payment"] == {"charge": {"for": 7}, "book": {"booked": 7}}
        shown = shop.app.flows.show(flow.id)
        assert shown.inner[0] == old
        first = shop.app.flows.show(old)
        undone = ["0", "1"] if kind == "join" else ["charge", "book", "undo charge"]
        assert [first.title(step) for step in first.steps] == undone
        assert {shop.app.flows.show(id).outer for id in shown.inner} == {flow.id}
        assert shop.done.count("book") == 3
        assert len(bus.published("saga.step")) == (0 if kind == "join" else 6) + 3, "each instance tells of its steps"
        bus.expect_dead()


def test_a_dead_letter_that_is_requeued_does_the_same_and_twice_at_once_it_is_one() -> None:
    shop = Shop()
    with shop.app.testing() as bus:
        flow = shop.stuck(bus)
        shop.broken = False
        (letter,) = bus.dead(agent="payment")
        assert shop.app.dead_letters.requeue(letter.id).number == 1
        assert shop.app.dead_letters.requeue(agent="payment").number == 0
        bus.settle()
        assert shop.payments() == ["compensated", "completed"]
        assert shop.app.flows.show(flow.id).status == "completed"
        bus.expect_dead()


def test_who_comes_second_is_told_and_changes_nothing() -> None:
    shop = Shop()
    with shop.app.testing() as bus:
        flow, app = shop.stuck(bus), shop.app

        class Beaten:
            """Dead letters that somebody else has just given back, or dropped."""

            def requeue(self, ids: Iterable[str], *, by: str = "") -> Any:
                ids = list(ids)
                app.dead_letters.requeue(ids)
                return app.dead_letters.requeue(ids, by=by)

            def drop(self, ids: Iterable[str], *, by: str = "") -> Any:
                ids = list(ids)
                app.dead_letters.drop(ids)
                return app.dead_letters.drop(ids, by=by)

        second = Instances(app.bus, Beaten())
        with pytest.raises(InvalidSelection, match=r"step 'payment' of saga orders .*: somebody else was quicker"):
            second.retry_step(flow.id, "payment")
        bus.settle()
        assert shop.payments() == ["compensated", "compensated"]
        with pytest.raises(InvalidSelection, match="somebody else was quicker"):
            second.skip(flow.id, "payment")
        bus.settle()
        assert app.flows.show(flow.id).status == "completed"
        with pytest.raises(InvalidSelection, match="has ended"):
            app.flows.retry_step(flow.id, "payment")
        bus.expect_dead()


def test_nothing_begins_anew_for_a_flow_that_has_ended() -> None:
    shop = Shop()
    with shop.app.testing() as bus:
        flow = shop.stuck(bus)
        (letter,) = bus.dead(agent="payment")
        shop.app.flows.cancel(flow.id)
        shop.app.dead_letters.requeue(letter.id)
        bus.settle()
        (letter,) = bus.dead(agent="payment")
        assert letter.error == f"FlowFailed: saga orders {flow.id} has ended (cancelled): no step of it begins anew"
        assert shop.payments() == ["compensated"]
        bus.expect_dead()


def test_a_flow_that_has_completed_is_not_started_anew_whatever_became_of_its_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shop = Shop()
    shop.broken = False

    def unreadable(found: Any) -> Any:
        raise InvalidEvent("its results cannot be read")

    with shop.app.testing() as bus:
        with monkeypatch.context() as patched:
            patched.setattr("pipeline.coordination.flows.inner._results", unreadable)
            flow = shop.stuck(bus)
        assert shop.payments() == ["completed"]
        shop.app.flows.retry_step(flow.id, "payment")
        bus.settle()
        assert shop.payments() == ["completed"]
        assert shop.app.flows.show(flow.id).status == "completed"
        assert shop.done == ["charge", "book"]
        bus.expect_dead()
