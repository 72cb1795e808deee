"""Agents of a class, which are given tasks by events, and agents that answer every event."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from pipeline import Pipeline
from tests.harness import Broker, StartWorker, Worker
from tests.records import logged
from tests.servers import wait_for

pytestmark = pytest.mark.usefixtures("nothing_disappears")


@pytest.fixture
def started(worker: StartWorker) -> Worker:
    return worker(app="driven_app", pool="threads", concurrency=4)


def told(broker: Broker, correlation: str) -> list[tuple[str, Any]]:
    lines = broker.journal.lines(agent="hears")
    return [(line["data"]["type"], line["data"]) for line in lines if line["correlation"] == correlation]


@pytest.mark.usefixtures("started")
def test_a_task_is_acknowledged_before_it_is_done_and_its_end_is_told(bus: Pipeline, broker: Broker) -> None:
    slow = bus.publish("task.assigned.c1", {"task_id": "t0"})
    wait_for(lambda: [type for type, _ in told(broker, slow.id)] == ["task.acknowledged"], "it to be acknowledged")
    good = bus.publish("task.assigned.r1", {"task_id": "t1", "input": "tea"})
    bad = bus.publish("task.assigned.r1", {"task_id": "t2", "input": "fail"})
    (broker.directory / "gate").touch()
    for event in (slow, good, bad):
        bus.settle(event, timeout=60)
    assert {type for type, _ in told(broker, slow.id)} == {"task.acknowledged", "task.completed", "agent.response"}
    found = dict(told(broker, good.id))
    assert found["task.acknowledged"] == {"type": "task.acknowledged", "task_id": "t1", "agent_id": "r1"}
    assert found["task.completed"]["task_id"] == "t1"
    assert found["task.completed"]["result"]["output"] == {"found": "tea"}
    assert found["task.completed"]["result"]["metrics"]["duration_ms"] >= 0
    failed = dict(told(broker, bad.id))
    assert failed["task.failed"] == {"type": "task.failed", "task_id": "t2", "error": "LookupError: nothing found"}
    assert "task.completed" not in failed
    for type, number in (("task.acknowledged", 3), ("task.completed", 2), ("task.failed", 1)):
        assert len(logged(bus, type)) == number  # however often it was tried


@pytest.mark.usefixtures("started")
def test_it_is_asked_and_told_of_the_end(bus: Pipeline, broker: Broker) -> None:
    assert bus.request("agent.r1.query", {"about": "tea"}, timeout=30).result == "about tea"
    bus.settle(bus.publish("system.shutdown", {"reason": "night"}), timeout=60)
    assert [line["data"] for line in broker.journal.lines(agent="c1")] == ["night"]


@pytest.mark.usefixtures("started")
def test_an_agent_that_responds_answers_what_it_handles_and_who_has_asked(bus: Pipeline, broker: Broker) -> None:
    good, bad, asked = bus.publish("greeted", "ada"), bus.publish("greeted", "fail"), bus.publish("asked", "bob")
    for event in (good, bad, asked):
        bus.settle(event, timeout=60)
    (response,) = [data for _, data in told(broker, good.id)]
    assert (response["status"], response["result"]) == ("success", {"hello": "ada"})
    assert (response["agent_id"], response["original_event_id"]) == ("polite", good.id)
    assert response["processing_time_ms"] >= 0
    assert uuid.UUID(response["response_id"])
    (response,) = [data for _, data in told(broker, bad.id)]
    assert (response["status"], response["result"]) == ("failure", "LookupError: no manners")
    assert told(broker, asked.id) == []  # it is for the agent that has asked
    (answer,) = [event for event in logged(bus, "agent.response") if event.correlation_id == asked.id]
    assert answer.targets == ("asking",)
    other = bus.publish("asked.without", "eve")
    bus.settle(other, timeout=60)
    assert [data["result"] for _, data in told(broker, other.id)] == [{"hello": "eve"}]  # nobody else could use it
