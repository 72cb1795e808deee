"""Steps that are flows of their own, are done for each item of a list, get what a function makes, or have a time."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline import Pipeline
from pipeline.ledger.database.waiting import waits
from tests.harness import Broker, StartWorker, Worker
from tests.ledgers import end_times
from tests.records import rows
from tests.servers import wait_for

pytestmark = pytest.mark.usefixtures("nothing_disappears")


@pytest.fixture
def started(worker: StartWorker) -> Worker:
    return worker(app="flows_app")


def result(broker: Broker, type: str, number: int = 1) -> Any:
    """Return the data of the newest event of a type, of which there are so many."""
    broker.journal.wait(number, agent="outcome", type=type)
    lines = broker.journal.lines(agent="outcome", type=type)
    assert len(lines) == number
    return lines[-1]["data"]


def done(broker: Broker) -> list[str]:
    return [line["agent"] for line in broker.journal.lines() if line["agent"] != "outcome"]


def outcomes(bus: Pipeline, agent: str) -> list[str]:
    return [row["outcome"] for row in rows(bus, agent=agent) if row["flow"]]


# -- flows as steps


@pytest.mark.usefixtures("started")
def test_a_step_that_is_a_flow_ends_with_it_and_has_its_results(bus: Pipeline, broker: Broker) -> None:
    event = bus.publish("trip.asked", {})
    found = result(broker, "trip.completed")
    by = {name: {"by": name} for name in ("first", "authorize", "capture", "last")}
    inside = {"authorize": by["authorize"], "capture": by["capture"]}
    assert found["results"] == {"first": by["first"], "payment": inside, "last": by["last"]}
    assert done(broker) == ["first", "authorize", "capture", "last"]
    bus.settle(event)
    (outer,), (inner,) = bus.flows.list(name="trip"), bus.flows.list(name="payment")
    assert (inner.status, inner.reason) == ("completed", "all")
    assert [step.id for step in bus.flows.show(outer.id).steps if step.agent == "payment"] == [inner.id]
    assert bus.flows.show(outer.id).inner == (inner.id,)
    assert bus.flows.show(inner.id).outer == outer.id
    assert bus.flows.show(outer.id).outer is None
    assert rows(bus, waits) == []


@pytest.mark.usefixtures("started")
def test_a_flow_that_has_failed_fails_the_step_that_it_is(bus: Pipeline, broker: Broker) -> None:
    bus.publish("trip.asked", {"capture": "fail"})
    found = result(broker, "trip.failed")
    (inner,) = bus.flows.list(name="payment")
    assert inner.status == "compensated"
    assert found["error"] == (
        f"step 'payment' is dead: FlowFailed: saga payment {inner.id} is compensated: step 'capture' is dead: "
        "RuntimeError: capture was told to fail"
    )
    assert done(broker) == ["first", "authorize", "capture", "void", "unfirst"]
    assert found["compensated"] == ["first"]


@pytest.mark.usefixtures("started")
def test_what_undoes_a_flow_gets_its_results(bus: Pipeline, broker: Broker) -> None:
    bus.publish("trip.asked", {"last": "fail"})
    found = result(broker, "trip.failed")
    assert found["compensated"] == ["first", "payment"]
    (line,) = broker.journal.lines(agent="unpay")
    assert line["data"] == {"authorize": {"by": "authorize"}, "capture": {"by": "capture"}}
    assert done(broker)[-2:] == ["unpay", "unfirst"]


@pytest.mark.usefixtures("started")
def test_a_flow_that_is_given_up_gives_up_those_that_are_its_steps_first(bus: Pipeline, broker: Broker) -> None:
    bus.publish("trip.asked", {"capture": "wait"})
    broker.journal.wait(1, agent="capture")
    (outer,) = bus.flows.list(name="trip")
    assert bus.flows.abort(outer.id, "the customer has called")
    found = result(broker, "trip.failed")
    assert (found["error"], found["compensated"]) == ("the customer has called", ["first"])
    assert done(broker) == ["first", "authorize", "capture", "void", "unfirst"], (
        "what the inner one did is undone first"
    )
    (inner,) = bus.flows.list(name="payment")
    assert inner.status == "compensated"
    assert inner.reason is not None
    assert "the customer has called" in inner.reason


@pytest.mark.usefixtures("started")
def test_a_flow_that_is_a_step_works_on_what_the_step_gets(bus: Pipeline, broker: Broker) -> None:
    bus.publish("given.asked", {"how": "echo", "left": "echo"})
    found = result(broker, "given.completed")
    assert found["results"]["payment"]["capture"] == {"by": "capture", "got": {"capture": "echo"}}
    assert found["results"]["sides"]["right"] == {"by": "right"}
    assert found["results"]["sides"]["left"] == {"by": "left", "got": {"how": "echo", "left": "echo"}}
    bus.publish("lists.asked", {"items": [1, 2]})
    assert result(broker, "lists.completed")["results"]["each-part"] == [{"part": 1}, {"part": 2}]
    bus.publish("lists.asked", {"items": []})
    assert result(broker, "lists.completed", 2)["results"]["each-part"] == []
    bus.publish("given.asked", {"how": "", "left": "fail"})
    assert "is failed: 1 of 2 have failed" in result(broker, "given.failed")["error"]


# -- times


@pytest.mark.usefixtures("started")
def test_a_step_that_is_not_done_within_its_time_has_failed(bus: Pipeline, broker: Broker) -> None:
    bus.publish("timely.asked", {})
    result(broker, "timely.completed")
    (flow,) = bus.flows.list()
    assert flow.due is None, "its clock stopped when it was done"
    bus.publish("timely.asked", {"last": "wait"})
    broker.journal.wait(2, agent="last")
    end_times(bus.ledger)
    found = result(broker, "timely.failed")
    assert (found["error"], found["compensated"]) == ("step 'last' is late: it was not done within 600 s", ["first"])
    assert sorted(outcomes(bus, "last")) == ["late", "succeeded"]


def test_what_a_step_comes_to_after_its_time_does_not_count(bus: Pipeline, broker: Broker, worker: StartWorker) -> None:
    worker(app="flows_app", pool="threads", concurrency=4)
    event = bus.publish("blocked.asked", {})
    broker.journal.wait(1, agent="blocks")
    end_times(bus.ledger)
    assert result(broker, "blocked.failed")["status"] == "compensated"
    (broker.directory / "gate").touch()
    bus.settle(event)
    assert outcomes(bus, "blocks") == ["late"]
    assert [flow.status for flow in bus.flows.list()] == ["compensated"]
    assert done(broker) == ["first", "blocks", "unfirst"]


def test_a_sync_handler_is_told_that_its_step_is_late(bus: Pipeline, broker: Broker, worker: StartWorker) -> None:
    worker(app="flows_app", pool="threads", concurrency=4)
    bus.publish("blocked.asked", {"blocks": "ask"})
    broker.journal.wait(1, agent="blocks")
    end_times(bus.ledger)
    broker.journal.wait(1, agent="told")
    assert result(broker, "blocked.failed")["status"] == "compensated"


@pytest.mark.usefixtures("started")
def test_a_flow_is_given_up_when_the_time_of_the_step_that_it_is_is_over(bus: Pipeline, broker: Broker) -> None:
    bus.publish("hurried.asked", {"capture": "wait"})
    broker.journal.wait(1, agent="capture")
    end_times(bus.ledger)
    found = result(broker, "hurried.failed")
    assert "it was not done within 600 s" in found["error"]
    assert done(broker) == ["first", "authorize", "capture", "void", "unfirst"]


@pytest.mark.usefixtures("started")
def test_a_step_may_sleep_and_ask_and_its_time_ends_that_too(bus: Pipeline, broker: Broker) -> None:
    bus.publish("waits.asked", {"order": "A-1"})
    wait_for(bus.approvals.list, "the question")
    (question,) = bus.approvals.list()
    bus.approvals.approve(question.id, by="ann")
    assert result(broker, "waits.completed")["results"]["naps"] == "approved A-1"
    bus.publish("waits-little.asked", {"order": "A-2"})
    found = result(broker, "waits-little.failed")
    assert (found["error"], found["compensated"]) == ("step 'naps' is late: it was not done within 1.5 s", ["first"])
    assert rows(bus, waits) == []


# -- lists


@pytest.mark.usefixtures("started")
def test_a_step_is_done_for_each_item_of_a_list(bus: Pipeline, broker: Broker) -> None:
    event = bus.publish("parts.asked", {"items": [3, "x", [1], None]})
    found = result(broker, "parts.completed")
    assert found["results"]["parts"] == [{"part": 3}, {"part": "x"}, {"part": [1]}, {"part": None}]
    (line,) = broker.journal.lines(agent="last")
    assert line["results"]["parts"] == found["results"]["parts"]
    bus.settle(event)
    (flow,) = bus.flows.list()
    assert (flow.members, flow.done, flow.failed) == (6, 6, 0)
    shown = bus.flows.show(flow.id)
    titles = ["first", "last", "parts 0", "parts 1", "parts 2", "parts 3"]
    assert [shown.title(step) for step in shown.steps] == titles
    assert '"parts #40;4 of 4#41;: succeeded' in bus.flows.show(flow.id).mermaid
    bus.publish("parts.asked", {"items": []})
    assert result(broker, "parts.completed", 2)["results"]["parts"] == []


@pytest.mark.usefixtures("started")
def test_an_item_that_fails_fails_the_step_and_what_its_others_did_is_undone(bus: Pipeline, broker: Broker) -> None:
    bus.publish("parts.asked", {"items": [1, {"fail": "at the gate"}, {"wait": True}]})
    wait_for(lambda: sorted(outcomes(bus, "part")) == ["running", "running", "succeeded"], "the others to wait")
    (broker.directory / "gate").touch()
    found = result(broker, "parts.failed")
    assert found["error"] == "step 'parts' is dead: item 1: RuntimeError: part was told to fail"
    assert found["compensated"] == ["first", "parts"]
    (undone,) = broker.journal.lines(agent="unparts")
    assert undone["data"] == [{"part": 1}, None, None]
    assert sorted(outcomes(bus, "part")) == ["dead", "late", "succeeded"]
    for wrong, why in (({}, "is missing"), ({"items": 1}, "is no list"), ({"items": [0] * 10_001}, "has 10,001 items")):
        event = bus.publish("parts.asked", wrong)
        bus.settle(event)
        (flow,) = (flow for flow in bus.flows.list() if flow.event_id == event.id)
        assert flow.status == "compensated"
        assert flow.reason is not None
        assert f"it could not begin: ValueError: each='data.items' {why}" in flow.reason


@pytest.mark.usefixtures("started")
def test_lists_side_by_side_of_results_and_of_flows(bus: Pipeline, broker: Broker) -> None:
    event = bus.publish("review.asked", {"plan": "echo", "items": [1, {"fail": True}], "trips": [{}, {}]})
    found = result(broker, "review.completed")
    assert found["results"]["parts"] == [{"part": 1}, None]
    assert [sorted(trip) for trip in found["results"]["trips"]] == [["authorize", "capture"]] * 2
    bus.settle(event)
    (flow,) = bus.flows.list(name="review")
    assert len(bus.flows.show(flow.id).inner) == 2
    bus.publish("review.asked", {"plan": "echo", "items": [{"fail": True}], "trips": []})
    assert "step 'parts' is dead: item 0" in result(broker, "review.failed")["error"]


# -- functions


@pytest.mark.usefixtures("started")
def test_a_function_makes_what_a_step_gets(bus: Pipeline, broker: Broker) -> None:
    bus.publish("made.asked", {"total": 4, "last": "echo"})
    assert result(broker, "made.completed")["results"]["last"]["got"] == {"amount": 8, "by": "first"}
    told = [line["data"] for line in broker.journal.lines(agent="outcome", type="saga.step")]
    assert [one["input"] for one in told if one["step"] == "last"] == [{"amount": 8, "by": "first"}]
    bus.publish("made.asked", {})
    found = result(broker, "made.failed")
    assert found["error"] == "step 'last' is cancelled: it could not begin: KeyError: 'total'"
    assert found["compensated"] == ["first"]


def test_a_worker_without_the_function_leaves_the_step_to_one_that_has_it(
    bus: Pipeline, broker: Broker, worker: StartWorker
) -> None:
    one = worker(app="flows_app", name="one", options=("-Q", "agent.made,agent.outcome"))
    bus.publish("made.asked", {"total": 4})
    wait_for(bus.flows.list, "the saga to start")
    one.stop()
    other = worker(app="flows_app", name="other", environment={"WITHOUT": "1"})
    wait_for(lambda: bus.flows.list(status="stuck"), "the saga to be held")
    (flow,) = bus.flows.list()
    assert flow.reason is not None
    assert flow.reason.startswith("step 'last' gets what a function makes, and saga 'made' has none for it")
    assert other.output().count("waits for somebody: step 'last' gets") == 1
    worker(app="flows_app", name="new")
    assert result(broker, "made.completed")["results"]["last"] == {"by": "last"}
