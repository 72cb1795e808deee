"""Stopping a tree of work on real workers: whatever it is about, nothing of it goes on."""

from __future__ import annotations

import os
from collections import Counter
from typing import Any

import pytest

from pipeline import Pipeline
from pipeline.core.outcome import OPEN
from tests.harness import SOON, Broker, StartWorker, Worker
from tests.records import rows
from tests.servers import wait_for

BEGIN = ("holder", "awaiter", "poller", "sleeper", "failer")


@pytest.fixture
def trees(worker: StartWorker) -> StartWorker:
    def start(**how: Any) -> Worker:
        return worker(app="trees_app", **{"pool": "prefork", "concurrency": 4, **how})

    return start


def begun(bus: Pipeline, broker: Broker) -> Any:
    """Publish a tree, and return its top when each of its deliveries is where it is stopped."""
    top = bus.publish("tree.begun", {})
    for agent in BEGIN:
        broker.journal.wait(1, agent=agent, says="began")
    broker.journal.wait(1, agent="picker", says="early")
    done = {("planter", "succeeded"), ("picker", "succeeded")}  # recorded later than said
    states = done | {("sleeper", "parked"), ("failer", "retrying"), ("holder", "running")}
    wait_for(lambda: states <= {(row["agent"], row["outcome"]) for row in rows(bus)}, "all to be where they wait")
    return top


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def ended(bus: Pipeline) -> bool:
    return not [row for row in rows(bus) if row["outcome"] in OPEN]


def test_nothing_of_a_stopped_tree_goes_on_and_handlers_are_told(
    bus: Pipeline, broker: Broker, trees: StartWorker
) -> None:
    trees()
    top = begun(bus, broker)
    other = bus.publish("fruit.ripe", {"other": True})
    bus.settle(other, timeout=60)
    found = bus.cancel(top, tree=True, by="ada", reason="wrong customer")
    assert {part.agent for part in found.running} == {"holder", "awaiter", "poller"}
    assert {(part.agent, part.outcome.value) for part in found.stopped} == {
        ("sleeper", "parked"), ("failer", "retrying"),
    }  # fmt: skip
    assert {(part.agent, part.outcome.value) for part in found.done} == {
        ("planter", "succeeded"), ("picker", "succeeded"),
    }  # fmt: skip
    assert len(found.delayed) == 1
    bus.settle(top, timeout=1)
    broker.journal.wait(1, agent="awaiter", says="stopped")
    broker.journal.wait(1, agent="poller", says="saw it")
    assert broker.journal.lines(agent="holder", says="ended") == [], "a sync handler goes on"
    (broker.directory / "go-on").touch()
    broker.journal.wait(1, agent="holder", says="ended")
    late = bus.publish("fruit.ripe", {}, correlation_id=top.correlation_id)
    wait_for(lambda: rows(bus, event_id=late.id, outcome="cancelled"), "the late one to be refused")
    last = bus.publish("fruit.ripe", {"other": True})
    bus.settle(last, timeout=60)
    assert {line["id"] for line in broker.journal.lines(agent="picker", says="began")} == {other.id, last.id}
    assert ended(bus)
    assert len([*bus.get_events(type="tree.cancelled")]) == 1
    bus.settle(top, timeout=1)


def test_a_sync_handler_is_ended_on_request(bus: Pipeline, broker: Broker, trees: StartWorker) -> None:
    trees()
    top = begun(bus, broker)
    (held,) = broker.journal.lines(agent="holder")
    bus.cancel(top, tree=True, terminate=True)
    wait_for(lambda: not is_alive(held["pid"]), "the handler's process to end")
    (broker.directory / "go-on").touch()
    broker.journal.wait(1, agent="awaiter", says="stopped")
    assert broker.journal.lines(agent="holder", says="ended") == []
    assert rows(bus, agent="holder")[0]["outcome"] == "cancelled"
    after = bus.publish("fruit.ripe", {"other": True})
    broker.journal.wait(1, agent="picker", id=after.id)
    assert bus.dead_letters.list() == []


def test_nothing_of_a_stopped_tree_goes_on_when_its_worker_is_killed_meanwhile(
    bus: Pipeline, broker: Broker, trees: StartWorker
) -> None:
    one = trees(environment=SOON)
    top = begun(bus, broker)
    one.kill()
    found = bus.cancel(top, tree=True)
    assert {"holder", "awaiter", "poller"} <= {part.agent for part in found.running}
    (broker.directory / "go-on").touch()
    trees(name="two", environment=SOON)
    after = bus.publish("fruit.ripe", {"other": True})
    broker.journal.wait(1, agent="picker", id=after.id)
    wait_for(lambda: ended(bus), "everything to have ended")
    assert broker.journal.count(agent="picker", says="began") == {after.id: 1}
    assert Counter(line["agent"] for line in broker.journal.lines(says="began")) == {
        **dict.fromkeys(BEGIN, 1),
        "picker": 1,
    }


def test_a_tree_that_grows_is_stopped_while_it_does(bus: Pipeline, broker: Broker, trees: StartWorker) -> None:
    one, two = trees(concurrency=2), trees(name="two", concurrency=2)
    tops = [bus.publish("chain.begun", {"width": 3}) for _ in range(3)]
    wait_for(lambda: len(broker.journal.lines(agent="link")) > 40, "the trees to have grown")
    stopped = [bus.cancel(top, tree=True) for top in tops]
    assert all(stopped)
    events = {one.event.id for one in bus.get_events(type="chain.#")}
    wait_for(lambda: ended(bus), "everything to have ended", 60)
    after = bus.publish("work.late", {})
    broker.journal.wait(1, agent="latecomer", id=after.id)
    for worker in (one, two):
        worker.stop()
    late = {found.event.id for found in bus.get_events(type="chain.#")} - events
    ran = broker.journal.count(agent="link")
    assert not late & ran.keys(), "what was emitted after the cancel has run"
    assert {row["outcome"] for row in rows(bus, agent="link")} == {"succeeded", "cancelled"}


def test_agents_that_call_each_other_end_in_a_dead_letter_that_shows_the_way(
    bus: Pipeline, broker: Broker, trees: StartWorker
) -> None:
    trees(environment={"PIPELINE_MAX_HOPS": "3"})
    top = bus.publish("chain.begun", {"width": 1})
    wait_for(bus.dead_letters.list, "the dead letter")
    (letter,) = bus.dead_letters.list()
    assert letter.error == (
        "TooManyHops: hops: the event has gone 4, and max_hops is 3; on its way were link -> link -> link -> link -> "
        "link. If that is no circle, set PIPELINE_MAX_HOPS higher and requeue it"
    )
    assert letter.attempts == 1
    assert [line["hops"] for line in broker.journal.lines(agent="link")] == [0, 1, 2, 3]
    bus.settle(top, timeout=30)
