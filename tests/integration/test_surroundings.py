"""What Celery and Flask document for configuring and extending them keeps working around the bus.

One app has it all set (tests/apps/surrounded_app.py); what cannot work is refused when the worker starts.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from pipeline import Pipeline
from tests.harness import Broker, StartWorker, run
from tests.servers import free_port, wait_for

#: For what does not depend on the broker.
only_embedded = pytest.mark.parametrize("broker", ["embedded"], indirect=True)


def outcomes(bus: Pipeline, type: str, data: Any) -> Counter[tuple[str, str, int]]:
    """Publish, wait until all has settled, and return who ended how after how many attempts."""
    trace = bus.settle(bus.publish(type, data).id, timeout=120)
    return Counter((each.agent, each.outcome.value, each.attempts) for event in trace for each in event.deliveries)


def around(broker: Broker, what: str) -> set[str | None]:
    """Return for which tasks something of the user's was called."""
    return {line.get("task") for line in broker.journal.lines(around=what)}


def check_all(bus: Pipeline, broker: Broker) -> None:
    """Let agents be called in each way that there is."""
    assert outcomes(bus, "motto.asked", {"n": 1}) == {("motto", "succeeded", 1): 1}
    assert outcomes(bus, "motto.asked", {"fail": True}) == {("motto", "dead", 2): 1}
    joined = ("pair", "left", "right", "outcome")
    assert outcomes(bus, "pair.started", {"n": 2}) == {(agent, "succeeded", 1): 1 for agent in joined}
    bus.publish("canvas.started", {"n": 3})
    wait_for(lambda: around(broker, "tell"), "the callback of an agent in a canvas", 120)
    wait_for(lambda: around(broker, "complain"), "the errback of an agent in a canvas", 120)
    (both,) = broker.journal.lines(agent="outcome")
    assert both["data"]["results"] == {"left": {"left": 2, "motto": "inside"}, "right": {"right": 2}}
    mottos = broker.journal.lines(agent="motto")
    assert {(line["data"]["motto"], line["data"]["conf"]) for line in mottos} == {("inside", "kept")}
    assert broker.journal.lines(around="tell")[0]["result"] == {"left": 3, "motto": "inside"}


def test_an_app_with_everything_set_that_celery_has_settings_for_runs_tasks_and_agents(
    bus: Pipeline, broker: Broker, worker: StartWorker
) -> None:
    one = worker(app="surrounded_app", pool="prefork", options=("--tenant", "acme"))
    check_all(bus, broker)
    # What is called behind a handler may be so after its outcome is recorded.
    for what in ("before_start", "task_prerun", "task_postrun", "on_success"):
        tasks = {"agent.motto", "agent.left", "agent.outcome", "their.double"}
        wait_for(lambda what=what, tasks=tasks: tasks <= around(broker, what), f"{what} of all")  # type: ignore[misc]
    for what in ("on_retry", "on_failure", "task_failure"):
        wait_for(lambda what=what: "agent.motto" in around(broker, what), what)  # type: ignore[misc]
    assert broker.journal.lines(around="worker step")[0]["option"] == "acme"
    assert around(broker, "consumer step") == around(broker, "consumer") == {None}
    assert "WARNING/ForkPoolWorker" in one.output(), "the root logger is the user's"
    assert "\nmotto is printed\n" in one.output(), "so is what is printed"
    bus.celery.send_task("their.ask", [4], queue="other")
    broker.journal.wait(1, agent="motto", seconds=120, data={"motto": "inside", "conf": "kept", "from": "task"})
    assert len({line["pid"] for line in broker.journal.lines(agent="motto")}) > 1, "children are recycled"


@only_embedded
def test_what_fails_around_a_handler_is_an_attempt_that_has_failed(
    bus: Pipeline, broker: Broker, worker: StartWorker
) -> None:
    worker(app="surrounded_app")
    broken = broker.directory / "state" / "broken"
    broken.write_text("1")
    assert outcomes(bus, "motto.asked", {"n": 1}) == {("motto", "succeeded", 2): 1}
    broken.write_text("2")
    assert outcomes(bus, "motto.asked", {"n": 2}) == {("motto", "dead", 2): 1}
    assert [line["attempt"] for line in broker.journal.lines(agent="motto")] == [2]
    assert [letter.error for letter in bus.dead_letters.list()] == ["LookupError: no context today"]


OWN_POOL = "celery.concurrency.thread:TaskPool"
PICKLE = {"task_serializer": "pickle", "accept_content": ["pickle"], "result_serializer": "pickle",
          "result_accept_content": ["pickle"]}  # fmt: skip


@only_embedded
@pytest.mark.parametrize(
    ("pool", "settings"),
    [
        ("threads", {"task_always_eager": True, "worker_max_tasks_per_child": None}),
        ("solo", PICKLE),
        ("gevent", {}),
        ("custom", {"enable_utc": False, "timezone": "Asia/Kolkata"}),
    ],
    ids=["eager", "pickle", "gevent", "a pool by its class, local time"],
)
def test_canvases_and_agents_run_with(
    pool: str, settings: Any, bus: Pipeline, broker: Broker, worker: StartWorker
) -> None:
    environment = {"SURROUNDED": json.dumps(settings), "C_FORCE_ROOT": "1", "CELERY_CUSTOM_WORKER_POOL": OWN_POOL}
    worker(app="surrounded_app", pool=pool, environment=environment)
    check_all(bus, broker)


@only_embedded
@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"worker_consumer": "celery.worker.consumer.consumer:Consumer"}, "takes no events: derive it from pipeline."),
        ({"task_protocol": 1}, "task_protocol = 1: workers of the bus refuse such tasks; remove the setting"),
        ({"task_compression": "gzip"}, "task_compression = 'gzip': workers of the bus refuse such tasks"),
    ],
    ids=str,
)
def test_a_setting_that_the_bus_cannot_work_with_ends_the_worker_with_one_line(
    settings: Any, said: str, broker: Broker
) -> None:
    check_ended(settings, said, broker)


@only_embedded
@pytest.mark.parametrize("backend", [None, "rpc://"], ids=str)
def test_a_join_without_a_ledger_needs_its_members_results(backend: str | None, broker: Broker) -> None:
    said = f"join 'pair' needs its members' results, and result_backend = {backend!r} keeps"
    check_ended({"result_backend": backend}, said, replace(broker, ledger=""))


def check_ended(settings: Any, said: str, broker: Broker) -> None:
    done = run(
        [sys.executable, "-m", "celery", "-A", "surrounded_app", "worker", "-P", "solo"], broker,
        SURROUNDED=json.dumps(settings),
    )  # fmt: skip
    assert done.returncode == 1
    assert said in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


@only_embedded
def test_an_agent_in_a_django_project_has_a_fresh_connection_each_time(
    bus: Pipeline, broker: Broker, worker: StartWorker
) -> None:
    run([sys.executable, "-W", "ignore", "-m", "django", "migrate", "--settings", "django_settings"], broker)
    worker(app="django_site")
    for n in range(2):
        assert outcomes(bus, "site.touched", {"n": n}) == {("touch", "succeeded", 1): 1}
    lines = broker.journal.lines(agent="touch")
    assert [(line["data"]["was_closed"], line["data"]["rows"]) for line in lines] == [(True, 1), (True, 2)]
    assert lines[0]["data"]["task"] == "celery.contrib.django.task", "agents have delay_on_commit() too"


@pytest.mark.parametrize("broker", ["rabbitmq"], indirect=True)
@pytest.mark.parametrize("dead", [1, 2])
def test_an_app_with_several_broker_urls_publishes_through_the_one_that_is_there(
    dead: int, broker: Broker, tmp_path: Path
) -> None:
    urls = [*(f"amqp://127.0.0.1:{free_port()}//" for _ in range(dead)), broker.url]
    app = Pipeline(Celery("theirs", broker=";".join(urls), set_as_current=False), directory=tmp_path, ledger_url="")
    assert app.publish("order.placed", {"n": 1}, timeout=60).sent
    app.close()
