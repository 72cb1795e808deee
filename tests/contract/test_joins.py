"""Joins as flows: complete by all, some, one, a condition or a deadline; once, whatever fails or comes twice."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline import Event, Pipeline
from pipeline.ledger.database.tables import flows
from pipeline.ledger.database.waiting import waits
from tests.harness import Broker, StartWorker, Worker
from tests.ledgers import end_times
from tests.records import rows
from tests.servers import wait_for

pytestmark = pytest.mark.usefixtures("nothing_disappears")


@pytest.fixture
def started(worker: StartWorker) -> Worker:
    return worker(app="joins_app")


def result(broker: Broker, type: str) -> Any:
    """Return the data of the one event of a type that follows from a join."""
    broker.journal.wait(1, agent="outcome", type=type)
    (line,) = broker.journal.lines(agent="outcome", type=type)
    return line["data"]


def outcomes(bus: Pipeline, **like: str) -> dict[str, str]:
    return {row["agent"]: row["outcome"] for row in rows(bus, **like) if row["flow"]}


def is_over(bus: Pipeline, event: Event, **members: str) -> None:
    """Let the deadline of an event's join pass, when its members are so far."""
    wait_for(lambda: outcomes(bus, event_id=event.id) == members, f"its members to be {members}")
    end_times(bus.ledger)


@pytest.mark.usefixtures("started")
def test_all_members_are_waited_for_in_the_pool_and_on_the_loop(bus: Pipeline, broker: Broker) -> None:
    event = bus.publish("all.wanted", {"two": "sleep", "one": "fail once"}, correlation_id="c-1")
    found = result(broker, "all.done")
    assert found == {
        "original": {"two": "sleep", "one": "fail once"},
        "completed_by": "all",
        "results": {"one": {"name": "one", "score": 0}, "two": {"name": "two", "score": 0}, "loop": "from the loop"},
        "errors": {},
        "missing": [],
    }
    (line,) = broker.journal.lines(agent="outcome", type="all.done")
    assert (line["correlation"], line["causation"], line["source"]) == ("c-1", event.id, "/joins/agent/all")
    trace = bus.settle(event)
    (flow,) = trace.flows
    assert (flow.name, flow.kind, flow.status, flow.reason) == ("all", "join", "completed", "all")
    assert [row["outcome"] for row in rows(bus) if row["flow"]] == ["succeeded"] * 3


def test_a_member_that_is_dead_ends_the_join_and_what_has_not_ended_is_late(
    bus: Pipeline, broker: Broker, worker: StartWorker
) -> None:
    worker(app="joins_app", pool="threads", concurrency=4)
    event = bus.publish("all.wanted", {"one": "fail at the gate", "loop": "wait"})
    wait_for(lambda: outcomes(bus).get("two") == "succeeded", "what has ended before")
    (broker.directory / "gate").touch()
    found = result(broker, "all.failed")
    assert found["error"] == "1 of 3 have failed: one: RuntimeError: one was told to fail"
    assert found["results"] == {"two": {"name": "two", "score": 0}}
    assert (found["errors"], found["missing"]) == ({"one": "RuntimeError: one was told to fail"}, ["loop"])
    wait_for(lambda: outcomes(bus) == {"one": "dead", "two": "succeeded", "loop": "late"}, "loop to be late")
    (flow,) = bus.settle(event).flows
    assert (flow.status, flow.reason) == ("failed", "1 of 3 have failed")


@pytest.mark.usefixtures("started")
def test_a_member_that_waits_when_the_join_ends_waits_no_longer(bus: Pipeline, broker: Broker) -> None:
    bus.publish("first.wanted", {"one": "sleep long", "two": "fail once", "loop": "wait"})
    assert list(result(broker, "first.done")["results"]) == ["two"]
    wait_for(lambda: outcomes(bus) == {"one": "late", "two": "succeeded", "loop": "late"}, "the others to be late")
    assert rows(bus, waits) == []


@pytest.mark.usefixtures("started")
def test_results_that_fit_into_no_event_make_a_join_fail(bus: Pipeline, broker: Broker) -> None:
    bus.publish("list.wanted", {"items": ["x" * 1000] * 100, "each": "y" * 140_000})
    found = result(broker, "list.failed")
    assert found["error"].startswith("the results of its members are too large for one event")
    (flow,) = bus.flows.list()
    assert (flow.status, flow.reason) == ("failed", found["error"])


@pytest.mark.usefixtures("started")
def test_the_first_of_several_is_enough_and_the_others_are_stopped(bus: Pipeline, broker: Broker) -> None:
    bus.publish("first.wanted", {"one": "fail", "loop": "wait"})
    found = result(broker, "first.done")
    assert (found["completed_by"], list(found["results"])) == ("first", ["two"])
    wait_for(lambda: outcomes(bus)["loop"] == "late", "the other one to be stopped")


@pytest.mark.usefixtures("started")
def test_a_quorum_completes_and_fails_when_it_cannot_be_reached(bus: Pipeline, broker: Broker) -> None:
    bus.publish("two.wanted", {"one": "fail"})
    found = result(broker, "two.done")
    assert (found["completed_by"], sorted(found["results"])) == ("quorum", ["three", "two"])
    bus.publish("two.wanted", {"one": "fail", "two": "fail"})
    assert result(broker, "two.failed")["error"].startswith("2 of 3 have failed, and 2 are needed: one: RuntimeError")


def test_a_deadline_ends_a_join_with_what_is_there(bus: Pipeline, broker: Broker, worker: StartWorker) -> None:
    worker(app="joins_app", pool="threads", concurrency=4)
    begun = bus.publish("slow.wanted", {"two": "wait"})
    is_over(bus, begun, one="succeeded", two="running")
    found = result(broker, "slow.done")
    assert (found["completed_by"], list(found["results"]), found["missing"]) == ("deadline", ["one"], ["two"])
    begun = bus.publish("slow.wanted", {"one": "wait", "two": "wait"})
    is_over(bus, begun, one="running", two="running")
    assert result(broker, "slow.failed")["error"] == "0 of 2 were done at the deadline"
    (broker.directory / "gate").touch()  # a thread cannot be stopped: what it returns is recorded for nobody
    wait_for(lambda: {row["outcome"] for row in rows(bus) if row["flow"]} == {"late", "succeeded"}, "all to end")
    assert len(broker.journal.lines(agent="outcome")) == 2


def test_what_is_not_cancelled_runs_to_its_end_and_is_late(bus: Pipeline, broker: Broker, worker: StartWorker) -> None:
    worker(app="joins_app", pool="threads", concurrency=4)
    begun = bus.publish("kept.wanted", {"two": "wait"})
    is_over(bus, begun, one="succeeded", two="running")
    assert result(broker, "kept.done")["completed_by"] == "deadline"
    assert outcomes(bus) == {"one": "succeeded", "two": "running"}
    (broker.directory / "gate").touch()
    wait_for(lambda: outcomes(bus)["two"] == "late", "the other one to end")
    (late,) = (row for row in rows(bus, agent="two") if row["flow"])
    assert late["result"] == '{"name":"two","score":0}'


def test_a_condition_on_the_results_completes_a_join(bus: Pipeline, broker: Broker, worker: StartWorker) -> None:
    worker(app="joins_app", pool="threads", concurrency=4)
    bus.publish("good.wanted", {"two": "wait", "score": 7})
    assert result(broker, "good.done")["completed_by"] == "until"
    (broker.directory / "gate").touch()
    bus.publish("good.wanted", {"score": 3})
    broker.journal.wait(2, agent="outcome", type="good.done")
    assert [line["data"]["completed_by"] for line in broker.journal.lines(agent="outcome")] == ["until", "all"]


@pytest.mark.usefixtures("started")
def test_failures_are_collected_where_they_are_to_be(bus: Pipeline, broker: Broker) -> None:
    bus.publish("some.wanted", {"one": "fail", "two": "fail"})
    found = result(broker, "some.done")
    assert (found["completed_by"], list(found["results"])) == ("all", ["three"])
    assert sorted(found["errors"]) == ["one", "two"]
    bus.publish("some.wanted", {"one": "fail", "two": "fail", "three": "fail"})
    assert result(broker, "some.failed")["error"].startswith("0 of 3 were done: one: RuntimeError")


@pytest.mark.usefixtures("started")
def test_members_are_chosen_when_the_event_is_there(bus: Pipeline, broker: Broker) -> None:
    bus.publish("chosen.wanted", {"which": ["two", "three"]})
    assert sorted(result(broker, "chosen.done")["results"]) == ["three", "two"]
    wrong = bus.publish("chosen.wanted", {"which": ["tow"]})
    wait_for(lambda: bus.dead_letters.list(agent="chosen"), "what names nobody to be dead")
    (letter,) = bus.dead_letters.list(agent="chosen")
    assert letter.event.id == wrong.id
    assert "expect= names 'tow', which is none of its agents; did you mean 'two'?" in letter.error


@pytest.mark.usefixtures("started")
def test_each_item_of_a_list_has_its_member(bus: Pipeline, broker: Broker) -> None:
    event = bus.publish("list.wanted", {"items": [1, {"fail": True}, "x", [2]]})
    found = result(broker, "list.done")
    assert found["results"] == [{"saw": 1}, None, {"saw": "x"}, {"saw": [2]}]
    assert (found["errors"], found["missing"]) == ({"1": "RuntimeError: item was told to fail"}, [])
    assert {line["id"] for line in broker.journal.lines(agent="item")} == {event.id}
    bus.publish("list.wanted", {"items": []})
    broker.journal.wait(2, agent="outcome", type="list.done")
    assert broker.journal.lines(agent="outcome", type="list.done")[-1]["data"]["results"] == []
    bus.publish("list.wanted", {"itmes": [1]})
    wait_for(lambda: bus.dead_letters.list(agent="mapped"), "what has no list to be dead")
    (letter,) = bus.dead_letters.list(agent="mapped")
    assert "each='data.items' is no list in list.wanted" in letter.error
    assert "there is itmes" in letter.error


@pytest.mark.usefixtures("started")
def test_what_members_emit_goes_out_and_a_requeued_member_completes_nothing_twice(
    bus: Pipeline, broker: Broker
) -> None:
    bus.publish("all.wanted", {"one": "fail once", "two": "emit"})
    assert result(broker, "member.said") == {"name": "two"}
    result(broker, "all.done")
    event = bus.publish("all.wanted", {"two": "fail twice"})
    result(broker, "all.failed")
    (letter,) = bus.dead_letters.list(agent="two")
    bus.dead_letters.requeue(letter.id)
    bus.settle(event)
    assert outcomes(bus, event_id=event.id)["two"] == "late"
    assert len(broker.journal.lines(agent="outcome", type="all.done")) == 1
    assert {row["status"] for row in rows(bus, flows)} == {"completed", "failed"}
