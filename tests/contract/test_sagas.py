"""Sagas and workflows: steps that follow each other, are undone in reverse order, and end once."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline import Pipeline
from pipeline.ledger.database.tables import flows
from tests.harness import Broker, StartWorker, Worker
from tests.ledgers import move
from tests.records import rows
from tests.servers import wait_for

pytestmark = pytest.mark.usefixtures("nothing_disappears")

AGENTS = ("create", "reserve", "pay", "complete", "refund", "release", "cancel")


@pytest.fixture
def started(worker: StartWorker) -> Worker:
    return worker(app="sagas_app")


def result(broker: Broker, type: str) -> Any:
    """Return the data of the one event of a type that follows."""
    broker.journal.wait(1, agent="outcome", type=type)
    (line,) = broker.journal.lines(agent="outcome", type=type)
    return line["data"]


def done(broker: Broker) -> list[str]:
    """Return the agents that were called, in their order."""
    return [line["agent"] for line in broker.journal.lines() if line["agent"] in AGENTS]


@pytest.mark.usefixtures("started")
def test_steps_follow_each_other_and_see_what_those_before_came_to(bus: Pipeline, broker: Broker) -> None:
    event = bus.publish("order.placed", {"total": 5, "reserve": "fail once"}, correlation_id="c-1")
    found = result(broker, "order.done")
    assert found == {
        "original": {"total": 5, "reserve": "fail once"},
        "results": {
            "create": {"id": "create-1"},
            "reserve": {"id": "reserve-1"},
            "pay": {"id": "pay-1", "amount": 5},
            "complete": {"id": "complete-1"},
        },
    }
    assert done(broker) == ["create", "reserve", "reserve", "pay", "complete"]
    (paid,) = broker.journal.lines(agent="pay")
    assert paid["data"] == {"amount": 5, "order": "create-1"}
    assert paid["results"] == {"create": {"id": "create-1"}, "reserve": {"id": "reserve-1"}}
    trace = bus.settle(event)
    assert [(flow.name, flow.kind, flow.status) for flow in trace.flows] == [("order", "saga", "completed")]
    steps = [line["data"]["step"] for line in broker.journal.lines(agent="outcome", type="saga.step")]
    assert sorted(steps) == ["complete", "create", "pay", "reserve"]
    assert {line["correlation"] for line in broker.journal.lines()} == {"c-1"}


@pytest.mark.usefixtures("started")
@pytest.mark.parametrize(
    ("failing", "called", "compensated"),
    [
        ("create", ["create", "create"], []),
        ("reserve", ["create", "reserve", "reserve", "cancel"], ["create"]),
        ("pay", ["create", "reserve", "pay", "pay", "release", "cancel"], ["create", "reserve"]),
        (
            "complete",
            ["create", "reserve", "pay", "complete", "complete", "refund", "release", "cancel"],
            ["create", "reserve", "pay"],
        ),
    ],
)
def test_what_was_done_is_undone_in_reverse_order(
    bus: Pipeline, broker: Broker, failing: str, called: list[str], compensated: list[str]
) -> None:
    event = bus.publish("order.placed", {"total": 5, failing: "fail"})
    found = result(broker, "order.failed")
    assert done(broker) == called
    assert found["compensated"] == compensated
    assert found["status"] == ("compensated" if compensated else "failed")
    assert found["error"] == f"step {failing!r} is dead: RuntimeError: {failing} was told to fail"
    for undo, undone in (("cancel", "create"), ("release", "reserve"), ("refund", "pay")):
        lines = broker.journal.lines(agent=undo)
        assert [line["data"]["id"] for line in lines] == ([f"{undone}-1"] if undone in compensated else [])
    bus.settle(event)
    told = [line["data"]["step"] for line in broker.journal.lines(agent="outcome", type="saga.compensate")]
    assert sorted(told) == sorted(compensated)


def test_what_cannot_be_undone_waits_for_somebody_and_goes_on(bus: Pipeline, broker: Broker, started: Worker) -> None:
    bus.publish("order.placed", {"total": 5, "pay": "fail", "release": "fail until mended"})
    wait_for(lambda: [row["status"] for row in rows(bus, flows)] == ["stuck"], "the saga to be stuck")
    (flow,) = bus.flows.list(status="stuck")
    assert flow.reason == "what undoes 'reserve' is dead: requeue it, or drop it to go on without it"
    assert broker.journal.lines(agent="cancel") == []
    (broker.directory / "mended").touch()
    bus.dead_letters.requeue(agent="release")
    found = result(broker, "order.failed")
    assert (found["status"], found["compensated"]) == ("compensated", ["create", "reserve"])
    bus.publish("order.placed", {"total": 5, "pay": "fail", "release": "fail"})
    wait_for(lambda: bus.flows.list(status="stuck"), "the other one to be stuck")
    bus.dead_letters.drop(agent="release")
    broker.journal.wait(2, agent="outcome", type="order.failed")
    assert broker.journal.lines(agent="outcome", type="order.failed")[-1]["data"]["compensated"] == ["create"]
    assert started.output().count("waits for somebody: ") == 2, "each is told of once, however often it is looked at"


@pytest.mark.usefixtures("started")
def test_one_saga_for_each_key_however_many_events(bus: Pipeline, broker: Broker) -> None:
    events = [bus.publish("once.placed", {"total": n, "number": "A-1"}) for n in range(5)]
    result(broker, "once.completed")
    for event in events:
        bus.settle(event)
    assert len(broker.journal.lines(agent="create")) == 1
    assert len(broker.journal.lines(agent="outcome", type="saga.step")) == 4
    bus.publish("once.placed", {"total": 1, "number": "A-2"})
    broker.journal.wait(2, agent="outcome", type="once.completed")
    wrong = bus.publish("once.placed", {"total": 1})
    wait_for(lambda: bus.dead_letters.list(agent="once"), "what has no key to be dead")
    (letter,) = bus.dead_letters.list(agent="once")
    assert f"key='data.number' is missing in once.placed {wrong.id}" in letter.error


@pytest.mark.usefixtures("started")
def test_a_saga_is_given_up_at_its_deadline_or_when_somebody_says_so(bus: Pipeline, broker: Broker) -> None:
    bus.publish("hurried.placed", {"total": 5, "pay": "wait"})
    broker.journal.wait(1, agent="pay")
    move(bus.ledger, flows, 3600)
    found = result(broker, "hurried.failed")
    assert (found["error"], found["compensated"]) == ("its time is over", ["create", "reserve"])
    bus.publish("order.placed", {"total": 5, "pay": "wait"})
    broker.journal.wait(2, agent="pay")
    (flow,) = bus.flows.list(name="order")
    assert bus.flows.abort(flow.id, "the customer has called")
    found = result(broker, "order.failed")
    assert (found["error"], found["compensated"]) == ("the customer has called", ["create", "reserve"])
    assert not bus.flows.abort(flow.id, "again")


@pytest.mark.usefixtures("started")
def test_after_the_point_of_no_return_nothing_is_undone(bus: Pipeline, broker: Broker) -> None:
    bus.publish("brave.placed", {"amount": 5, "complete": "fail twice"})
    wait_for(lambda: bus.flows.list(status="stuck"), "the saga to be stuck")
    (flow,) = bus.flows.list()
    assert flow.reason is not None
    assert flow.reason.endswith("nothing is undone after 'pay': requeue or drop what is dead")
    bus.dead_letters.requeue(agent="complete")
    assert result(broker, "brave.completed")["results"]["complete"] == {"id": "complete-1"}
    assert broker.journal.lines(agent="cancel") == []


@pytest.mark.usefixtures("started")
def test_a_workflow_is_a_graph_with_conditions(bus: Pipeline, broker: Broker) -> None:
    bus.publish("review.asked", {"total": 5, "stock": 1})
    found = result(broker, "review.completed")
    assert sorted(found["results"]) == ["complete", "create", "pay", "reserve"]
    assert done(broker)[0] == "create"
    assert done(broker)[-1] == "complete"
    bus.publish("review.asked", {"total": 5, "stock": 0})
    broker.journal.wait(2, agent="outcome", type="review.completed")
    assert sorted(broker.journal.lines(agent="outcome", type="review.completed")[-1]["data"]["results"]) == [
        "complete", "create", "pay",
    ]  # fmt: skip
    bus.publish("review.asked", {"total": 5, "stock": 1, "pay": "fail"})
    assert result(broker, "review.failed")["status"] == "failed"
    assert broker.journal.lines(agent="cancel") == []
