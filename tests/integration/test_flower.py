"""Flower, over its HTTP API, against a live worker."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pipeline import Pipeline
from tests.harness import Broker, Worker
from tests.servers import free_port, wait_for


@pytest.fixture
def flower(broker: Broker) -> Iterator[Callable[[str], Any]]:
    """A running Flower: call it with an API path."""
    port = free_port()
    command = [sys.executable, "-m", "celery", "-A", "contract_app", "flower", "--address=127.0.0.1", f"--port={port}"]
    with (broker.directory / "flower.log").open("wb") as log:
        process = subprocess.Popen(
            command,
            env=broker.environment(FLOWER_UNAUTHENTICATED_API="true"),
            cwd=broker.directory,
            stdout=log,
            stderr=log,
        )

    def get(path: str) -> Any:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=30) as answer:
            return json.load(answer)

    def is_up() -> bool:
        try:
            get("/api/workers")
        except OSError:  # also when it takes too long
            return False
        return True

    wait_for(is_up, "Flower to serve", 90, 0.1)
    yield get
    process.terminate()
    process.wait(timeout=20)


def test_flower_shows_the_worker_and_every_outcome_of_its_agents(
    bus: Pipeline, broker: Broker, worker: Callable[..., Worker], flower: Callable[[str], Any]
) -> None:
    worker(options=("-E",))

    def queues() -> set[str]:  # Flower asks for each thing by itself, and a second later goes without what was not said
        seen = flower("/api/workers?refresh=1").get("w1@test", {})
        return {queue["name"] for queue in seen.get("active_queues", ())}

    wait_for(lambda: "agent.alpha" in queues(), "Flower to see the worker and its queues", 90, 0.2)
    event = bus.publish("task.created", {"alpha": "fail", "beta": "fail 1"})

    def states() -> dict[str, str]:
        return {task["name"]: task["state"] for task in flower("/api/tasks").values()}

    wanted = {"agent.alpha": "FAILURE", "agent.beta": "SUCCESS", "agent.gamma": "SUCCESS"}
    wait_for(lambda: states() == wanted, f"the states {wanted}", 90, 0.2)
    failed = next(task for task in flower("/api/tasks").values() if task["name"] == "agent.alpha")
    assert "alpha was told to fail" in failed["exception"]
    assert failed["root_id"] == event.id
    assert event.id in failed["args"]
