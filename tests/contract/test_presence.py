"""Presence: who is there, who may have failed, what agents can do, and what is told of that."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from typing import Any

import pytest

from pipeline import (
    InvalidEvent,
    InvalidSelection,
    LedgerUnavailable,
    NoResponder,
    Pipeline,
    RequestFailed,
    UnknownAgent,
)
from pipeline.core.times import now
from tests.harness import Broker, StartWorker, Worker
from tests.records import logged, rows
from tests.servers import wait_for

pytestmark = pytest.mark.usefixtures("nothing_disappears")

SOON = {"PIPELINE_SUSPECT_AFTER": "15", "PIPELINE_HEARTBEAT_EVERY": "1"}


def started(worker: StartWorker, name: str, *queues: str, skew: float = 0) -> Worker:
    only = ("-Q", ",".join(f"agent.{queue}" for queue in queues))
    environment = {**SOON, "SKEW": str(skew)}
    return worker(app="presence_app", name=name, pool="threads", concurrency=4, options=only, environment=environment)


def stop(pid: int, bus: Pipeline) -> None:
    """Stop a process, but not in a transaction: SQLite would let nobody else write until it goes on."""
    for _ in range(100):
        os.kill(pid, signal.SIGSTOP)
        with suppress(LedgerUnavailable):
            return bus.ledger.workers.heartbeat("another")
        os.kill(pid, signal.SIGCONT)
        time.sleep(0.1)
    raise AssertionError("it is in a transaction all the time")


def told(broker: Broker, type: str, agent: str) -> list[dict[str, Any]]:
    lines = broker.journal.lines(agent="hears")
    return [line["data"] for line in lines if (line["data"]["type"], line["data"]["agent_id"]) == (type, agent)]


def test_a_worker_that_is_stopped_is_suspected_once_and_recovers_once_whatever_its_clock_says(
    bus: Pipeline, broker: Broker, worker: StartWorker
) -> None:
    started(worker, "others", "hears", "audit")
    alone = started(worker, "alone", "writer", skew=600)
    wait_for(lambda: told(broker, "agent.online", "writer"), "the agent to be announced")
    assert bus.presence.agent("writer").state == "online"
    assert abs(bus.presence.agent("writer").last_seen.timestamp() * 1e6 - now()) < 30e6
    assert alone.process is not None
    stop(alone.process.pid, bus)
    try:
        wait_for(lambda: told(broker, "agent.suspected_failure", "writer"), "the suspicion", 90)
        assert bus.presence.agent("writer").state == "suspected"
        assert bus.presence.agent("hears").state == "online"
    finally:
        os.kill(alone.process.pid, signal.SIGCONT)
    wait_for(lambda: told(broker, "agent.recovered", "writer"), "the recovery", 60)
    (suspected,) = told(broker, "agent.suspected_failure", "writer")
    assert told(broker, "agent.recovered", "writer") == [
        {"type": "agent.recovered", "agent_id": "writer", "last_seen": suspected["last_seen"]}
    ]
    assert bus.presence.agent("writer").state == "online"
    for type in ("agent.suspected_failure", "agent.recovered"):
        assert {event.data["agent_id"] for event in logged(bus, type)} == {"writer"}


def test_who_leaves_says_so_before_it_ends_what_it_has_begun(
    bus: Pipeline, broker: Broker, worker: StartWorker
) -> None:
    started(worker, "others", "hears")
    one = started(worker, "one", "writer")
    asked = bus.request("summarize.requested", {"text": "wait"}, durable=True)
    broker.journal.wait(1, agent="writer")
    wait_for(lambda: bus.presence.agent("writer").running == 1, "the handler to be seen")
    found = bus.presence.agent("writer")
    assert (found.capacity, found.free, round(found.load, 1)) == (3, 2, 0.3)
    assert one.process is not None
    one.process.send_signal(signal.SIGTERM)
    wait_for(lambda: told(broker, "agent.offline", "writer"), "the farewell")
    assert bus.presence.agent("writer").state == "draining"
    assert one.process.poll() is None
    (broker.directory / "gate").touch()
    one.process.wait(60)
    wait_for(lambda: bus.presence.agent("writer").state == "offline", "the end to be noted")
    assert (answer := bus.reply(asked))
    assert answer.result == {"summary": "wai"}
    assert told(broker, "agent.suspected_failure", "writer") == []
    with pytest.raises(UnknownAgent, match="did you mean 'writer'"):
        bus.presence.agent("writr")


def test_a_worker_that_has_nothing_to_end_says_that_it_leaves(
    bus: Pipeline, broker: Broker, worker: StartWorker
) -> None:
    started(worker, "others", "hears")
    one = started(worker, "one", "writer")
    one.stop()
    wait_for(lambda: told(broker, "agent.offline", "writer"), "the farewell")
    assert bus.presence.agent("writer").state == "offline"


def test_heartbeats_go_to_who_names_them_and_are_not_kept(bus: Pipeline, broker: Broker, worker: StartWorker) -> None:
    started(worker, "all", "pulse", "audit", "writer")
    (one, *_) = broker.journal.wait(3, agent="pulse")
    wait_for(
        lambda: {line["data"]["agent_id"] for line in broker.journal.lines(agent="pulse")} >= {"pulse", "writer"},
        "all agents' heartbeats",
    )
    assert one["data"]["status"] == "online"
    assert one["data"]["memory_usage"] > 1_000_000
    assert 0 <= one["data"]["load"] <= 1
    assert logged(bus, "agent.heartbeat") == []
    assert broker.journal.lines(agent="audit") == []


def test_a_capability_is_found_and_its_schemas_hold_on_both_sides(
    bus: Pipeline, broker: Broker, worker: StartWorker
) -> None:
    with pytest.raises(InvalidSelection, match="none is known"):
        bus.find_capable_agents("summarize")
    one = started(worker, "one", "writer")
    (found,) = bus.find_capable_agents("summarize")
    assert (found.agent, found.capacity, found.free) == ("writer", 3, 3)
    assert found.capabilities[0].specializations == ("law",)
    assert bus.call("summarize", {"text": "a long story"}).result == {"summary": "a l"}
    with pytest.raises(InvalidSelection, match="did you mean 'summarize'"):
        bus.call("summarise", {"text": "a"})
    with pytest.raises(InvalidEvent, match=r"input of capability 'summarize' does not validate: .*text"):
        bus.call("summarize", {"txt": "a"})
    assert len(logged(bus, "summarize.requested")) == 1  # what is wrong is not published
    with pytest.raises(RequestFailed, match="output of capability 'summarize' does not validate") as failed:
        bus.call("summarize", {"text": "wrong"})
    assert not failed.value.retryable
    with pytest.raises(RequestFailed, match="input of capability 'summarize' does not validate"):
        bus.request("summarize.requested", {"txt": "past the check"})
    one.stop()
    with pytest.raises(NoResponder, match="no worker runs an agent with the capability 'summarize' now"):
        bus.call("summarize", {"text": "a"})
    assert {row["outcome"] for row in rows(bus, agent="writer")} == {"succeeded", "dead"}
