"""Steps that are sagas of which there is one for each business key, in virtual time."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline import Agent, Context, Pipeline, step
from pipeline.testing import TestedBus


class Shop:
    """An app whose orders register their customer, of whom there is one, after the point of no return."""

    def __init__(self) -> None:
        self.app = app = Pipeline("desk")
        self.done: list[str] = []
        self.broken = False

        @app.agent()
        def first(data: dict[str, Any]) -> None: ...

        @app.agent()
        def looks(data: dict[str, Any], ctx: Context) -> dict[str, Any]:
            ctx.sleep("1h")
            self.done.append(f"looks {data['customer']}")
            return {"seen": data["customer"]}

        @app.agent(retry=0)
        def files(data: dict[str, Any], ctx: Context) -> dict[str, Any]:
            if self.broken:
                raise ValueError("no files")
            self.done.append(f"files {data['customer']}")
            return {"filed": data["customer"]}

        self.register: Agent[Any, Any] = app.saga(
            "register", on="customer.new", steps=[looks, files], key="data.customer"
        )
        registers = step(self.register, input={"customer": "data.who"})
        app.saga("orders", on="order.placed", steps=[step(first, final=True), registers, step(first, name="last")])

    def order(self, bus: TestedBus, who: Any = "ann") -> str:
        """Place an order, and return the id of its flow."""
        event = self.app.publish("order.placed", {"who": who})
        bus.settle()
        (flow,) = (flow for flow in self.app.flows.list(name="orders") if flow.event_id == event.id)
        return flow.id

    def statuses(self, name: str) -> list[str]:
        """Return what became of flows, those first that started first."""
        return [flow.status for flow in reversed(self.app.flows.list(name=name))]


def test_a_step_waits_for_the_one_that_there_is_for_its_key_whoever_has_started_it() -> None:
    shop = Shop()
    with shop.app.testing() as bus:
        one, other = shop.order(bus), shop.order(bus)
        shop.app.publish("customer.new", {"customer": "ann"})
        third = shop.order(bus, "bob")
        assert shop.statuses("register") == ["active", "active"]
        shown = [shop.app.flows.show(id) for id in (one, other, third)]
        assert [len(flow.inner) for flow in shown] == [1, 0, 1], "it belongs to the order that has started it"
        told = f"waits for the end of flow {shown[0].inner[0]}"
        assert [shown[n].steps[1].error for n in (0, 1)] == [told, told]
        bus.advance("2h")
        assert shop.statuses("orders") == ["completed"] * 3
        assert sorted(shop.done) == ["files ann", "files bob", "looks ann", "looks bob"]
        results = [event.data["results"]["register"] for event in bus.published("orders.completed")]
        assert results.count({"looks": {"seen": "ann"}, "files": {"filed": "ann"}}) == 2
        shop.order(bus)
        assert shop.statuses("orders") == ["completed"] * 4, "one that has completed has its results at once"
        assert len(shop.done) == 4


def test_a_step_waits_for_one_that_an_event_has_started() -> None:
    shop = Shop()
    with shop.app.testing() as bus:
        shop.app.publish("customer.new", {"customer": "ann"})
        bus.settle()
        shop.order(bus)
        bus.advance("2h")
        assert (shop.statuses("register"), shop.statuses("orders")) == (["completed"], ["completed"])


def test_one_that_has_ended_badly_fails_all_that_wait_and_is_started_anew_once_for_all_of_them() -> None:
    shop = Shop()
    shop.broken = True
    with shop.app.testing() as bus:
        ids = [shop.order(bus), shop.order(bus)]
        bus.advance("2h")
        late = shop.order(bus)
        assert shop.statuses("orders") == ["stuck"] * 3
        (failed,) = shop.app.flows.list(name="register")
        reason = f"FlowFailed: saga register {failed.id} is failed: step 'files' is dead: ValueError: no files"
        assert [letter.error for letter in bus.dead(agent="register")] == [reason] * 3
        shop.broken = False
        for id in (*ids, late):
            assert shop.app.flows.retry_step(id, "register") == ["register"]
        bus.settle()
        assert shop.statuses("register") == ["failed", "active"]
        bus.advance("2h")
        assert (shop.statuses("register"), shop.statuses("orders")) == (["failed", "completed"], ["completed"] * 3)
        assert shop.done.count("files ann") == 1
        shop.order(bus)
        assert shop.statuses("orders") == ["completed"] * 4, "the newest one is what the key has"
        bus.expect_dead()


def test_a_shared_one_that_ends_badly_once_more_is_not_started_anew_by_itself() -> None:
    shop = Shop()
    shop.broken = True
    with shop.app.testing() as bus:
        ids = [shop.order(bus), shop.order(bus)]
        bus.advance("2h")
        for id in ids:
            shop.app.flows.resume(id)
        bus.advance("2h")
        assert (shop.statuses("register"), shop.statuses("orders")) == (["failed"] * 2, ["stuck"] * 2)
        bus.expect_dead()


def test_who_only_waits_is_given_up_without_the_one_that_he_waits_for() -> None:
    shop = Shop()
    with shop.app.testing() as bus:
        shop.order(bus)
        other = shop.order(bus)
        assert shop.app.flows.cancel(other)
        assert shop.statuses("register") == ["active"]
        bus.advance("2h")
        assert shop.statuses("orders") == ["completed", "cancelled"]


@pytest.mark.parametrize("way", ["flow", "tree"])
def test_who_waits_fails_when_the_one_that_has_started_it_is_stopped(way: str) -> None:
    shop = Shop()
    with shop.app.testing() as bus:
        one = shop.app.flows.show(shop.order(bus))
        shop.order(bus)
        if way == "flow":
            shop.app.flows.cancel(one.id)
        else:
            shop.app.cancel(one.event_id, tree=True)
        bus.settle()
        assert shop.statuses("register") == ["cancelled"]
        assert shop.statuses("orders") == ["cancelled", "stuck"]
        assert f"saga register {one.inner[0]} is cancelled" in bus.dead(agent="register")[0].error
        bus.expect_dead()


def test_a_step_whose_input_has_no_key_is_dead_and_says_so() -> None:
    shop = Shop()
    with shop.app.testing() as bus:
        shop.order(bus, None)
        (letter,) = bus.dead(agent="register")
        assert "saga 'register': key='data.customer' is missing in order.placed" in letter.error
        assert shop.statuses("register") == []
        bus.expect_dead()
