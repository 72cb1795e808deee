"""The short way of an ordinary delivery and the long one through Celery look the same from outside."""

from __future__ import annotations

import json
import re
import sys
from typing import Any

import pytest

from pipeline import Event, Pipeline
from pipeline.core.event import new_event
from pipeline.core.ids import delivery_id
from tests.harness import Broker, StartWorker, Worker, backlog, dead_letters, revoke, run
from tests.servers import wait_for

pytestmark = [pytest.mark.usefixtures("nothing_disappears"), pytest.mark.bare]


POOLS = pytest.mark.parametrize("pool", ["solo", "threads", "prefork"])


@pytest.fixture
def start(worker: StartWorker) -> StartWorker:
    """Start a worker with the agents of ways_app, in which somebody hears of tasks or not."""

    def start(*, watched: bool, pool: str = "solo") -> Worker:
        environment = {"TASKS_WATCHED": "1"} if watched else {}
        return worker(app="ways_app", name=f"watched-{watched}", pool=pool, environment=environment)

    return start


def plain(text: object, event: Event, agent: str) -> str:
    """Return a text without what differs from run to run."""
    text = str(text).replace(event.id, "EVENT").replace(delivery_id(event.id, agent), "DELIVERY")
    return re.sub(r"\d\d:\d\d:[\d.]+|\d+\.\d+(e-\d+)?|watched-(True|False)|0x[0-9a-f]+", "...", text)


def told(one: Worker, event: Event, agent: str) -> list[str]:
    """Return what a worker's log says about a delivery, without the time and the process."""
    lines = [re.sub(r"^\[[^]]*\] ", "", line) for line in one.output().splitlines()]
    return [plain(line, event, agent) for line in lines if event.id in line or delivery_id(event.id, agent) in line]


def heard(broker: Broker, event: Event, agent: str) -> list[str]:
    """Return what Celery's signals have said of a delivery, in any order."""
    lines = [line["data"] for line in broker.journal.lines(agent="heard")]
    mine = [line for line in lines if line["id"] == delivery_id(event.id, agent)]
    return sorted(plain(line, event, agent) for line in mine)


@POOLS
def test_a_handler_and_the_log_see_the_same_task(bus: Pipeline, broker: Broker, start: StartWorker, pool: str) -> None:
    seen: list[Any] = []
    for watched in (False, True):
        one = start(watched=watched, pool=pool)
        event = bus.publish("way.seen", {})
        (line,) = broker.journal.wait(1, agent="seen", id=event.id)
        wait_for(lambda one=one, event=event: len(told(one, event, "seen")) == 2, "the end of the delivery")
        one.stop()
        assert line["is_short"] is not watched
        seen.append((line["task"], plain(line["request"], event, "seen"), told(one, event, "seen")))
    assert seen[0] == seen[1]
    assert backlog(bus, "agent.seen") == 0


@POOLS
@pytest.mark.parametrize(("agent", "tells"), [("failed", 2), ("wrong", 1)])
def test_a_failure_is_told_and_recorded_the_same(
    bus: Pipeline, broker: Broker, start: StartWorker, agent: str, tells: int, pool: str
) -> None:
    seen: list[Any] = []
    for number, watched in enumerate((False, True), 1):
        one = start(watched=watched, pool=pool)
        event = bus.publish(f"way.{agent}", {})
        wait_for(lambda number=number: len(dead_letters(bus, agent)) == number, "the dead letter")
        wait_for(lambda event=event: len(heard(broker, event, agent)) == tells, "what Celery's signals say")  # type: ignore[misc]
        attempts = [line["attempt"] for line in broker.journal.lines(agent=agent, id=event.id)]
        one.stop()
        letters = bus.dead_letters.list(agent=agent) if bus.has_ledger else ()
        (letter,) = [letter for letter in letters if letter.event.id == event.id] or [None]
        error = letter and (letter.error, letter.traceback.splitlines()[-2:])
        # A thread may have received the next attempt before another one has said that there is one.
        seen.append((attempts, error, heard(broker, event, agent), sorted(told(one, event, agent))))
    assert seen[0] == seen[1]


def test_what_somebody_has_revoked_is_not_run(bus: Pipeline, broker: Broker, start: StartWorker) -> None:
    one = start(watched=False)
    event = new_event("way.seen", {}, source="/test")
    revoke(bus, delivery_id(event.id, "seen"), "watched-False")
    bus.publish(event)
    wait_for(lambda: "Discarding revoked task" in one.output(), "the worker to say so")
    last = bus.publish("way.seen", {})
    broker.journal.wait(1, agent="seen", id=last.id)
    assert broker.journal.lines(agent="seen", id=event.id) == []


def test_remote_control_finds_what_runs_and_what_waits_in_threads(
    bus: Pipeline, broker: Broker, start: StartWorker
) -> None:
    seen: list[Any] = []
    for watched in (False, True):
        one, name = start(watched=watched, pool="threads"), f"watched-{watched}@test"
        before = inspected(broker, name, "stats")["total"]
        events = bus.publish_many([("way.held", {})] * 3)
        wait_for(lambda: len(broker.journal.lines(agent="held")) == 2 + 3 * watched, "two that run")  # noqa: B023
        wait_for(lambda: backlog(bus, "agent.held") == 0, "the third one to be with the worker")
        of_id = {delivery_id(event.id, "held"): event for event in events}
        running, waiting = (
            [(task, of_id.pop(task["id"])) for task in inspected(broker, name, kind)] for kind in ("active", "reserved")
        )
        (broker.directory / "gate").touch()
        broker.journal.wait(3 + 3 * watched, agent="held")
        wait_for(lambda: inspected(broker, name, "active") == [], "the end of all")  # noqa: B023
        after = inspected(broker, name, "stats")["total"]
        one.stop()
        (broker.directory / "gate").unlink()
        seen.append([len(running), len(waiting), before, after, *(facts(*one) for one in running + waiting)])
    assert seen[0] == seen[1]
    assert seen[0][:4] == [2, 1, {}, {"agent.held": 3}]


def inspected(broker: Broker, worker: str, what: str) -> Any:
    """Return what a worker answers to `celery inspect`; on Redis it may be ready before it can hear that."""
    command = [sys.executable, "-m", "celery", "-A", "ways_app", "inspect", "--timeout", "20", "--json", what]
    answers: list[str] = []
    wait_for(lambda: answers.append(run([*command, "-d", worker], broker).stdout) or answers[-1], f"{worker} to answer")
    return json.loads(answers[-1])[worker]


def facts(task: dict[str, Any], event: Event) -> str:
    """Return what a worker says about a task, without what differs from run to run."""
    return plain({**task, "worker_pid": task["worker_pid"] and "a process"}, event, "held")
