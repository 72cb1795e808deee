"""SIGTERM: a worker ends when what runs has ended, and what a pool process was given counts as running."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import Any

import pytest

from pipeline import Pipeline
from tests.harness import Broker, StartWorker, Worker, backlog, run
from tests.records import rows
from tests.servers import wait_for

pytestmark = pytest.mark.usefixtures("nothing_disappears")

#: Only a worker that hangs takes it all.
PATIENCE = 120.0
CELERY = [sys.executable, "-m", "celery", "-A", "contract_app"]


def children(worker: Worker) -> list[int]:
    """Return the processes of a worker's pool."""
    assert worker.process is not None
    found = subprocess.run(["pgrep", "-P", str(worker.process.pid)], capture_output=True, text=True, check=True)
    return [int(pid) for pid in found.stdout.split()]


def writes(broker: Broker, worker: Worker) -> dict[str, Any]:
    """Return what a worker says about the pipes to its pool processes.

    On Redis a worker may say that it is ready before it can hear what it is asked.
    """
    command = [*CELERY, "inspect", "--timeout", "20", "--json", "stats", "-d", f"{worker.name}@test"]
    answers: list[str] = []
    wait_for(lambda: answers.append(run(command, broker).stdout) or answers[-1], "the worker to answer")
    return dict(json.loads(answers[-1])[f"{worker.name}@test"]["pool"]["writes"])


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
def test_a_worker_that_is_told_to_end_finishes_what_runs_and_ends(
    bus: Pipeline, broker: Broker, worker: StartWorker, pool: str
) -> None:
    one = worker(pool=pool)
    event = bus.publish("wait.long", {"until": "gate"})
    broker.journal.wait(1, agent="wait")
    assert one.process is not None
    one.process.send_signal(signal.SIGTERM)
    wait_for(lambda: "Warm shutdown" in one.output(), "the worker to notice")
    (broker.directory / "gate").touch()
    assert one.process.wait(timeout=PATIENCE) == 0
    assert broker.journal.count(agent="waited") == {event.id: 1}
    assert backlog(bus, "agent.wait") == 0


@pytest.mark.parametrize("pool", ["threads", "solo"])
@pytest.mark.parametrize("agent", ["alone", "beta"])  # through Celery's tracer, and by the short way
def test_a_cold_end_lets_handlers_end_that_the_pool_cannot_end(
    bus: Pipeline, broker: Broker, worker: StartWorker, pool: str, agent: str
) -> None:
    one = worker(pool=pool)
    bus.publish({"alone": "alone.held", "beta": "extra.only"}[agent], {agent: "hold gate"})
    broker.journal.wait(1, agent=agent)
    assert one.process is not None
    one.process.send_signal(signal.SIGQUIT)
    wait_for(lambda: "Ending at once, after the message at hand" in one.output(), "the worker to notice")
    (broker.directory / "gate").touch()
    assert one.process.wait(timeout=PATIENCE) == 0
    assert "NotImplementedError" not in one.output()
    assert [(row["outcome"], row["attempts"]) for row in rows(bus, agent=agent)] == [("succeeded", 1)]
    assert backlog(bus, f"agent.{agent}") == 0


@pytest.mark.parametrize("pool", ["prefork", "solo"])
def test_a_cold_end_in_the_middle_of_a_write_begins_when_that_is_done(
    bus: Pipeline, broker: Broker, worker: StartWorker, pool: str
) -> None:
    one = worker(app="interrupted_app", pool=pool)
    (broker.directory / "end").touch()
    events = [bus.publish("extra.only", {"beta": "ok"}) for _ in range(10)]
    assert one.process is not None
    one.process.wait(timeout=PATIENCE)
    assert one.output().count("in the middle of a write") == 1
    assert "Cold shutdown (MainProcess)" in one.output()
    assert "Traceback" not in one.output()
    worker(name="two")
    broker.journal.wait(10, agent="beta")
    wait_for(lambda: backlog(bus, "agent.beta") == 0, "the queue to be empty")
    runs = broker.journal.count(agent="beta")
    assert runs.keys() == {event.id for event in events}
    # A cold end does not wait for the pool: what ran there at that moment, and was not recorded yet, runs again.
    assert sum(runs.values()) - len(runs) <= (one.concurrency if pool == "prefork" else 0)


def test_who_asks_twice_for_a_cold_end_does_not_wait_for_the_handler_in_the_loop(
    bus: Pipeline, broker: Broker, worker: StartWorker
) -> None:
    one = worker(pool="solo")
    bus.publish("extra.only", {"beta": "hold gate"})
    broker.journal.wait(1, agent="beta")
    assert one.process is not None
    one.process.send_signal(signal.SIGQUIT)
    wait_for(lambda: "Ending at once, after the message at hand" in one.output(), "the worker to notice")
    one.process.send_signal(signal.SIGQUIT)
    one.process.wait(timeout=PATIENCE)
    (broker.directory / "gate").touch()
    worker(name="two")
    broker.journal.wait(2, agent="beta")
    wait_for(lambda: backlog(bus, "agent.beta") == 0, "the queue to be empty")


@pytest.mark.bare
@pytest.mark.parametrize("size", ["small", "larger than a pipe"])
def test_what_a_pool_process_was_given_before_sigterm_is_finished_and_acknowledged(
    bus: Pipeline, broker: Broker, worker: StartWorker, size: str
) -> None:
    one = worker(pool="prefork", options=("-l", "DEBUG", "-Q", "agent.beta"))  # which has no async agents then
    assert one.process is not None
    pool = children(one)
    wait_for(lambda: writes(broker, one)["inqueues"]["total"] == len(pool), "the pool to have heard of its processes")
    for pid in pool:
        os.kill(pid, signal.SIGSTOP)  # so that none of them says what it has got
    bus.publish_many([("extra.only", {"pad": "x" * (10 if size == "small" else 150_000)}) for _ in pool])
    if size == "small":
        wait_for(lambda: writes(broker, one).get("total") == len(pool), "the jobs to be written")
    else:
        wait_for(lambda: writes(broker, one)["inqueues"]["active"] == len(pool), "a part of the jobs to be written")
    one.process.send_signal(signal.SIGTERM)
    wait_for(lambda: "Worker: Stopping Consumer" in one.output(), "the worker to stop consuming")
    for pid in pool:
        os.kill(pid, signal.SIGCONT)
    # A job that is forgotten is not acknowledged, and keeps its process 30 s longer; half a job keeps it for ever.
    assert one.process.wait(timeout=PATIENCE) == 0
    assert sorted(broker.journal.count(agent="beta").values()) == [1] * len(pool)
    assert backlog(bus, "agent.beta") == 0
