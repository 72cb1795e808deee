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
    """Return what a worker says about the pipes to its pool processes."""
    done = run([*CELERY, "inspect", "--timeout", "30", "--json", "stats", "-d", f"{worker.name}@test"], broker)
    return dict(json.loads(done.stdout)[f"{worker.name}@test"]["pool"]["writes"])


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


@pytest.mark.bare
@pytest.mark.parametrize("size", ["small", "larger than a pipe"])
def test_what_a_pool_process_was_given_before_sigterm_is_finished_and_acknowledged(
    bus: Pipeline, broker: Broker, worker: StartWorker, size: str
) -> None:
    one = worker(pool="prefork", options=("-l", "DEBUG", "-Q", "agent.beta"))  # which has no async agents then
    assert one.process is not None
    pool = children(one)
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
