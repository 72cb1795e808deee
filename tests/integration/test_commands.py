"""Celery's own commands, used as Celery's users do."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import Pipeline
from tests.harness import PING, Broker, StartWorker, Worker, run

CELERY = [sys.executable, "-m", "celery"]


@pytest.fixture
def broker(tmp_path: Path) -> Broker:
    """The embedded broker: what is tested here does not depend on the broker."""
    return Broker("embedded", f"sqlite:///{tmp_path / 'state' / 'broker.db'}", tmp_path)


def test_inspect_answers_ping_queues_and_registered_tasks(broker: Broker, worker: StartWorker) -> None:
    worker()
    ping = run([*CELERY, "-A", "contract_app", *PING, "w1@test"], broker)
    assert ping.returncode == 0, ping.stderr
    assert "pong" in ping.stdout
    queues = run(
        [*CELERY, "-A", "contract_app", "inspect", "--timeout", "60", "active_queues", "-d", "w1@test"], broker
    )
    assert "agent.alpha" in queues.stdout
    registered = run(
        [*CELERY, "-A", "contract_app", "inspect", "--timeout", "60", "registered", "-d", "w1@test"], broker
    )
    assert "agent.alpha" in registered.stdout
    assert "plain.add" in registered.stdout


def test_a_worker_of_one_queue_runs_that_agent_only(bus: Pipeline, broker: Broker, worker: StartWorker) -> None:
    worker(name="all").stop()
    worker(name="subset", options=("-Q", "agent.alpha"))
    event = bus.publish("task.created", {})
    broker.journal.wait(1, id=event.id)
    run([*CELERY, "-A", "contract_app", *PING, "subset@test"], broker)
    assert [line["agent"] for line in broker.journal.lines()] == ["alpha"]


def test_a_join_completes_though_its_members_have_workers_of_their_own(
    bus: Pipeline, broker: Broker, worker: StartWorker
) -> None:
    worker(name="all").stop()
    worker(name="left", options=("-Q", "agent.left,agent.pair"))
    worker(name="right", options=("-Q", "agent.right,agent.outcome"))
    bus.publish("pair.started", {"n": 1})
    broker.journal.wait(1, agent="outcome", type="pair.complete")


def test_a_wrong_queue_name_ends_the_worker_and_names_the_nearest_agent(broker: Broker) -> None:
    done = run([*CELERY, "-A", "contract_app", "worker", "-P", "solo", "-Q", "agent.alpah"], broker)
    assert done.returncode == 1
    assert "no agent is called 'alpah'; did you mean 'alpha'?" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_agents_queue_without_its_namespace_ends_the_worker_and_names_the_right_one(broker: Broker) -> None:
    command = [*CELERY, "-A", "contract_app", "worker", "-P", "solo", "-Q", "agent.alpha"]
    done = run(command, broker, PIPELINE_NAMESPACE="shop")
    assert done.returncode == 1
    assert "with the namespace it is -Q shop.agent.alpha" in done.stderr
    assert "Traceback" not in done.stderr


def test_with_nothing_configured_the_example_agents_run(broker: Broker) -> None:
    process = Worker(broker, app="pipeline", name="default").start()
    try:
        assert "agent.research" in process.output()
        assert "agent.email" in process.output()
    finally:
        process.stop()
    assert process.process is not None
    assert process.process.returncode == 0


def test_beat_publishes_scheduled_events_itself(bus: Pipeline, broker: Broker, worker: StartWorker) -> None:
    worker(app="scheduled_app")
    beats = [
        subprocess.Popen(
            [*CELERY, "-A", "scheduled_app", "beat", "-s", str(broker.directory / f"beat{n}"), "--pidfile="],
            env=broker.environment(), cwd=broker.directory, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )
        for n in range(2)
    ]  # fmt: skip
    try:
        broker.journal.wait(4, agent="tick", seconds=60)
    finally:
        for beat in beats:
            beat.terminate()
            beat.wait(timeout=20)
    lines = broker.journal.lines(agent="tick")
    assert {line["data"]["n"] for line in lines} == {1}
    assert all(line["source"] == "/scheduled/schedule/every-second" for line in lines)
    # Both beats publish; what belongs to one due time carries one id, and takes effect once.
    assert len({line["id"] for line in lines}) == len(lines)


def test_an_existing_celery_app_gets_the_bus_in_five_lines(bus: Pipeline, broker: Broker, worker: StartWorker) -> None:
    worker(app="existing_app", options=("-Q", "mine,agent.added"))
    bus.publish("order.placed", {"n": 1})
    broker.journal.wait(1, agent="added")
    assert bus.celery.send_task("existing.double", (21,), queue="mine").get(timeout=60) == 42


def test_a_worker_on_a_broker_that_the_bus_does_not_know_ends_and_says_so(broker: Broker) -> None:
    command = [*CELERY, "-A", "existing_app", "worker", "-P", "solo", "-Q", "mine"]
    done = run(command, broker, EXISTING_BROKER_URL="memory://")
    assert done.returncode != 0
    assert "the bus does not work through kombu.transport.memory.Transport; use sqlite://" in done.stderr


@pytest.mark.parametrize(("name", "value"), [("task_compression", "gzip"), ("task_protocol", "1")])
def test_settings_whose_tasks_the_bus_refuses_end_the_worker_with_the_reason(
    broker: Broker, name: str, value: str
) -> None:
    command = [*CELERY, "-A", "existing_app", "worker", "-P", "solo"]
    done = run(command, broker, **{f"EXISTING_{name.upper()}": value})
    assert done.returncode == 1
    assert f"{name} = " in done.stderr
    assert "remove the setting" in done.stderr


def test_a_worker_discovers_the_agents_of_a_package(bus: Pipeline, broker: Broker, worker: StartWorker) -> None:
    worker(app="discovering_app")
    bus.publish("found.it", {"n": 1})
    broker.journal.wait(1, agent="found")


def test_ctrl_c_ends_a_worker_cleanly_and_gives_back_what_it_had(
    bus: Pipeline, broker: Broker, worker: StartWorker
) -> None:
    one = worker(concurrency=1)
    bus.publish_many([("extra.only", {"n": n, "beta": "sleep 0.05"}) for n in range(20)])
    broker.journal.wait(2, agent="beta")
    assert one.process is not None
    one.process.send_signal(signal.SIGINT)
    assert one.process.wait(timeout=20) == 1  # Celery's own code for Ctrl-C
    assert "Traceback" not in one.output()
    worker(name="next", concurrency=1)
    broker.journal.wait(20, agent="beta")
    assert set(broker.journal.count(agent="beta").values()) == {1}
