"""A bus on a Celery app that exists, however that is configured."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from kombu import Queue

from pipeline import ConfigError, Pipeline

CONSUMER = "pipeline.delivery.consumer:AgentConsumer"


def celery_app(**conf: Any) -> Celery:
    return Celery("theirs", broker="memory://", set_as_current=False, **conf)


def plain() -> Celery:
    return celery_app()


def configured() -> Celery:
    one = celery_app()
    assert one.conf.timezone is None
    return one


def finalized() -> Celery:
    one = celery_app()
    one.finalize()
    return one


def updated() -> Celery:
    one = celery_app()
    one.conf.update(task_default_queue="theirs")
    return one


def with_queues() -> Celery:
    return celery_app(task_queues=[Queue("theirs"), Queue("more")])


def with_namespace() -> Celery:
    one = celery_app()
    settings = SimpleNamespace(CELERY_TASK_ROUTES={"their.task": {"queue": "theirs"}}, CELERY_TIMEZONE="UTC", OTHER=1)
    one.config_from_object(settings, namespace="CELERY")
    return one


def with_lazy_object() -> Celery:
    one = celery_app()
    one.config_from_object(SimpleNamespace(task_default_queue="theirs"))
    return one


def their_router(name: str, *_: Any, **__: Any) -> dict[str, str] | None:
    return {"queue": "theirs"} if name == "their.task" else None


def their_task() -> None: ...


def with_routes(routes: Any) -> Callable[[], Celery]:
    return lambda: celery_app(task_routes=routes)


APPS: dict[str, Callable[[], Celery]] = {
    "plain": plain,
    "configured": configured,
    "finalized": finalized,
    "updated": updated,
    "task_queues": with_queues,
    "namespace": with_namespace,
    "lazy object": with_lazy_object,
    "routes: dict": with_routes({"their.task": {"queue": "theirs"}}),
    "routes: list": with_routes([{"their.task": {"queue": "theirs"}}]),
    "routes: tuple": with_routes((their_router,)),
    "routes: callable": with_routes(their_router),
}
every_app = pytest.mark.parametrize("make", APPS.values(), ids=APPS)


def add_bus(celery: Celery, tmp_path: Path) -> Pipeline:
    bus = Pipeline(celery, directory=tmp_path)
    bus.agent(on="order.*", name="alpha")(lambda data: None)
    bus.agent(on="#", name="beta")(lambda data: None)
    return bus


def queue_of(celery: Celery, task: str) -> str:
    route = celery.amqp.router.route({}, task)
    name: str = route["queue"].name
    return name


@every_app
def test_workers_consume_the_agents_queues_beside_their_own(make: Callable[[], Celery], tmp_path: Path) -> None:
    before = set(make().amqp.queues)
    celery = make()
    add_bus(celery, tmp_path)
    assert celery.conf.worker_consumer == CONSUMER
    assert set(celery.amqp.queues.consume_from) == before | {"agent.alpha", "agent.beta", "agents.emit"}
    assert celery.amqp.queues["agent.alpha"].patterns == ("order.*",)


@every_app
def test_whatever_reads_the_configuration_first_finds_the_queues(make: Callable[[], Celery], tmp_path: Path) -> None:
    celery = make()
    add_bus(celery, tmp_path)
    assert {"agent.alpha", "agent.beta", "agents.emit"} <= set(celery.amqp.queues)
    assert celery.conf.worker_consumer == CONSUMER


@every_app
def test_the_buss_tasks_go_to_their_queues_and_others_where_they_went(
    make: Callable[[], Celery], tmp_path: Path
) -> None:
    before = {task: queue_of(make(), task) for task in ("their.task", "else.where")}
    celery = make()
    add_bus(celery, tmp_path)
    assert {task: queue_of(celery, task) for task in before} == before
    assert queue_of(celery, "agent.alpha") == "agent.alpha"
    assert queue_of(celery, "pipeline.emit") == "agents.emit"
    assert queue_of(celery, "pipeline.emit_failed") == "agents.emit"


@every_app
def test_the_buss_tasks_are_registered_beside_their_own(make: Callable[[], Celery], tmp_path: Path) -> None:
    celery = make()
    celery.task(name="their.task", shared=False)(their_task)
    bus = add_bus(celery, tmp_path)
    wanted = {"their.task", "agent.alpha", "agent.beta", "pipeline.emit", "pipeline.emit_failed"}
    assert wanted <= set(celery.tasks)
    assert celery.tasks["agent.alpha"].bus is bus.bus


@every_app
def test_a_configuration_that_is_read_again_keeps_the_bus(make: Callable[[], Celery], tmp_path: Path) -> None:
    celery = make()
    add_bus(celery, tmp_path)
    assert celery.conf.worker_consumer == CONSUMER
    celery.config_from_object(SimpleNamespace(timezone="Europe/Berlin"))
    assert celery.conf.timezone == "Europe/Berlin"
    assert celery.conf.worker_consumer == CONSUMER
    assert {"agent.alpha", "agent.beta", "agents.emit"} <= set(celery.amqp.queues)
    assert queue_of(celery, "agent.alpha") == "agent.alpha"


@every_app
def test_an_agent_declared_late_is_consumed_and_routed_too(make: Callable[[], Celery], tmp_path: Path) -> None:
    celery = make()
    bus = add_bus(celery, tmp_path)
    assert "agent.late" not in celery.amqp.queues
    celery.finalize()
    bus.agent(on="late.#", name="late")(lambda data: None)
    assert celery.amqp.queues["agent.late"].patterns == ("late.#",)
    assert queue_of(celery, "agent.late") == "agent.late"
    assert "agent.late" in celery.tasks


def test_a_consumer_that_the_user_chose_is_left_alone(tmp_path: Path) -> None:
    celery = celery_app(worker_consumer="their.module:Consumer")
    Pipeline(celery, directory=tmp_path)
    assert celery.conf.worker_consumer == "their.module:Consumer"


def test_a_task_of_theirs_that_is_only_called_like_an_agents_goes_where_it_went(tmp_path: Path) -> None:
    celery = celery_app()
    add_bus(celery, tmp_path)
    celery.task(name="agent.tasks.add", shared=False)(their_task)
    assert queue_of(celery, "agent.tasks.add") == "celery"


def test_two_apps_in_one_process_share_nothing(tmp_path: Path) -> None:
    one, two = Pipeline("one", directory=tmp_path), Pipeline("two", directory=tmp_path)
    one.agent(on="a.b", name="alpha")(lambda data: None)
    assert "agent.alpha" not in two.celery.amqp.queues
    assert "agent.alpha" not in two.celery.tasks
    assert len(two.agents) == 0
    assert (one.source, two.source) == ("/one", "/two")


@pytest.mark.parametrize("url", ["amqp://shop:zq#xv@host//", "redis://:zq?xv@host/0", "redis://host/0?password=xv"])
def test_a_broker_url_of_theirs_that_cannot_be_read_is_an_error_without_its_password(url: str, tmp_path: Path) -> None:
    app = Pipeline(Celery("theirs", broker=url, set_as_current=False), directory=tmp_path, ledger_url="")
    with pytest.raises(ConfigError, match=r"broker_url of the Celery app cannot be read: .*write .* as %23") as caught:
        app.publish("a.b")
    said = "".join(traceback.format_exception(caught.value, limit=0))
    assert not any(piece in said for piece in ("zq", "xv"))
