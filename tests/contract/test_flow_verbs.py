"""What somebody may say to a flow that goes on: do a step again, go on without it, stop."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline import InvalidSelection, Pipeline
from pipeline.coordination.flows.instances import Flow
from tests.contract.test_flows import done, outcomes, result
from tests.harness import Broker, StartWorker, Worker
from tests.ledgers import end_times
from tests.records import rows
from tests.servers import wait_for

pytestmark = pytest.mark.usefixtures("nothing_disappears")


@pytest.fixture
def started(worker: StartWorker) -> Worker:
    return worker(app="flows_app")


def stuck(bus: Pipeline) -> str:
    """Wait until a flow is stuck, and return its id."""
    wait_for(lambda: bus.flows.list(status="stuck"), "the flow to be stuck")
    (flow,) = bus.flows.list(status="stuck")
    return flow.id


def running_on(bus: Pipeline) -> list[Any]:
    """Return the steps that were given up, and whose handlers run."""
    return [row for row in rows(bus, outcome="late") if row["process"] is not None]


@pytest.mark.usefixtures("started")
@pytest.mark.parametrize("wish", ["fail until mended", "wait"], ids=["dead", "late"])
def test_a_step_that_has_failed_after_the_point_of_no_return_is_done_again(
    bus: Pipeline, broker: Broker, wish: str
) -> None:
    bus.publish("final.asked", {"last": wish})
    if wish == "wait":
        broker.journal.wait(1, agent="last")
        end_times(bus.ledger)
    id = stuck(bus)
    for wrong, why in (
        ("first", r"step 'first' does not hold saga final .* \(stuck\): it is succeeded"),
        ("left", "step 'left' does not hold .*: it has not begun"),
        ("lost", "saga final .* has no step 'lost'; did you mean 'last'"),
    ):
        with pytest.raises(InvalidSelection, match=why):
            bus.flows.retry_step(id, wrong)
    (broker.directory / "mended").touch()
    if wish == "wait":
        wait_for(lambda: not running_on(bus), "its handler to be stopped")
        assert bus.flows.retry_step(id, "last") == ["last"]
        broker.journal.wait(2, agent="last")
        end_times(bus.ledger)
        assert stuck(bus) == id, "its time runs anew, and is over again"
        assert bus.flows.skip(id, "last") == ["last"]
        assert sorted(result(broker, "final.completed")["results"]) == ["first", "left"]
    else:
        assert bus.flows.resume(id, by="ann") == ["last"]
        assert sorted(result(broker, "final.completed")["results"]) == ["first", "last", "left"]
    assert "unfirst" not in done(broker)
    with pytest.raises(InvalidSelection, match="has ended \\(completed\\)"):
        bus.flows.resume(id)


def test_a_step_whose_handler_still_runs_is_done_again_only_when_that_has_ended(
    bus: Pipeline, broker: Broker, worker: StartWorker
) -> None:
    worker(app="flows_app", pool="threads", concurrency=4)
    bus.publish("held.asked", {})
    broker.journal.wait(1, agent="blocks")
    end_times(bus.ledger)
    id = stuck(bus)
    told = r"step 'blocks' .* its handler still runs on worker \S+, .* `pipeline flows skip` goes on without it"
    for again in (bus.flows.resume, lambda id: bus.flows.retry_step(id, "blocks")):
        with pytest.raises(InvalidSelection, match=told):
            again(id)
    assert outcomes(bus, "blocks") == ["late"], "nothing was changed"
    (broker.directory / "gate").touch()
    wait_for(lambda: not running_on(bus), "its handler to end")
    assert outcomes(bus, "blocks") == ["late"]
    assert bus.flows.retry_step(id, "blocks") == ["blocks"]
    assert result(broker, "held.completed")["results"]["blocks"] == "late"
    assert done(broker) == ["first", "blocks", "blocks"]


def test_a_step_whose_process_dies_after_its_time_runs_on_no_more(
    bus: Pipeline, broker: Broker, worker: StartWorker
) -> None:
    worker(app="flows_app", pool="prefork", concurrency=2)
    bus.publish("held.asked", {"blocks": "die"})
    broker.journal.wait(1, agent="blocks")
    end_times(bus.ledger)
    id = stuck(bus)
    assert len(running_on(bus)) == 1
    (broker.directory / "gate").touch()
    wait_for(lambda: not running_on(bus), "its process to have died")
    assert bus.flows.skip(id, "blocks") == ["blocks"]
    assert sorted(result(broker, "held.completed")["results"]) == ["first"]


@pytest.mark.usefixtures("started")
def test_a_dead_step_after_the_point_of_no_return_is_left_out(bus: Pipeline, broker: Broker) -> None:
    bus.publish("final.asked", {"last": "fail"})
    assert bus.flows.skip(stuck(bus), "last", by="ann") == ["last"]
    assert sorted(result(broker, "final.completed")["results"]) == ["first", "left"]
    assert bus.dead_letters.list() == []


@pytest.mark.usefixtures("started")
def test_what_undoes_a_step_is_done_again_or_left_out(bus: Pipeline, broker: Broker) -> None:
    bus.publish("trip.asked", {"last": "fail", "unpay": "fail until mended"})
    id = stuck(bus)
    (broker.directory / "mended").touch()
    assert bus.flows.retry_step(id, "payment") == ["payment"]
    assert result(broker, "trip.failed")["compensated"] == ["first", "payment"]
    bus.publish("trip.asked", {"last": "fail", "unpay": "fail"})
    assert bus.flows.skip(stuck(bus), "payment") == ["payment"]
    assert result(broker, "trip.failed", 2)["compensated"] == ["first"]


@pytest.mark.usefixtures("started")
def test_a_flow_is_stopped_as_it_stands_with_those_that_are_its_steps(bus: Pipeline, broker: Broker) -> None:
    event = bus.publish("trip.asked", {"capture": "wait"})
    broker.journal.wait(1, agent="capture")
    (outer,) = bus.flows.list(name="trip")
    assert bus.flows.cancel(outer.id, "it was a test")
    assert not bus.flows.cancel(outer.id)
    assert {flow.status for flow in bus.flows.list()} == {"cancelled"}
    bus.settle(event)
    assert done(broker) == ["first", "authorize", "capture"], "nothing is undone"
    assert broker.journal.lines(agent="outcome", type="trip.failed") == []
    bus.publish("trip.asked", {"capture": "wait"})
    broker.journal.wait(2, agent="capture")
    (inner,) = bus.flows.list(name="payment", status="active")
    assert bus.flows.cancel(inner.id)
    found: Any = result(broker, "trip.failed")
    assert found["error"].endswith(f"saga payment {inner.id} is cancelled: somebody has cancelled it")


@pytest.mark.usefixtures("started")
def test_a_step_that_is_a_flow_which_has_ended_badly_is_done_again_as_another_one(
    bus: Pipeline, broker: Broker
) -> None:
    bus.publish("paid.asked", {"capture": "fail until mended"})
    id = stuck(bus)
    assert bus.flows.retry_step(id, "payment") == ["payment"]
    wait_for(lambda: len(ended(bus)) == 2, "the second payment to end")
    (broker.directory / "mended").touch()
    assert stuck(bus) == id
    assert bus.flows.resume(id, by="ann") == ["payment"]
    found = result(broker, "paid.completed")
    assert found["results"]["payment"] == {"authorize": {"by": "authorize"}, "capture": {"by": "capture"}}
    assert [flow.status for flow in ended(bus)] == ["compensated", "compensated", "completed"]
    assert done(broker) == ["first", *["authorize", "capture", "void"] * 2, "authorize", "capture", "last"]
    assert [flow.id for flow in ended(bus)] == list(bus.flows.show(id).inner)


@pytest.mark.usefixtures("started")
def test_steps_share_the_flow_of_their_key_and_start_it_anew_together(bus: Pipeline, broker: Broker) -> None:
    for _ in range(3):
        bus.publish("sharing.asked", {"of": 7, "capture": "fail until mended"})
    wait_for(lambda: len(bus.flows.list(status="stuck")) == 3, "all to be stuck")
    assert [flow.status for flow in bus.flows.list(name="shared")] == ["compensated"]
    (broker.directory / "mended").touch()
    for flow in bus.flows.list(name="sharing"):
        assert bus.flows.resume(flow.id) == ["shared"]
    assert result(broker, "sharing.completed", 3)["results"]["shared"] == {
        "authorize": {"by": "authorize"}, "capture": {"by": "capture"},
    }  # fmt: skip
    assert [flow.status for flow in bus.flows.list(name="shared")] == ["completed", "compensated"]
    assert [done(broker).count(name) for name in ("authorize", "void", "capture", "last")] == [2, 1, 2, 3]


def ended(bus: Pipeline) -> list[Flow]:
    """Return the payments that have ended, the first one first."""
    return [flow for flow in reversed(bus.flows.list(name="payment")) if flow.ended]
