"""Which deliveries are ordinary enough for the short way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Task
from celery.concurrency.base import BasePool
from celery.concurrency.prefork import TaskPool as Prefork
from celery.concurrency.solo import TaskPool as SoloPool
from celery.concurrency.thread import TaskPool as ThreadPool

from pipeline import Pipeline
from pipeline.agents.agent import Agent
from pipeline.brokers.expiry import DEADLINE
from pipeline.delivery.short.ordinary import fits, is_ordinary, is_simple

ORDINARY: dict[str, Any] = {
    "event": {"id": "1", "type": "order.placed", "targets": None, "bus": {"ledger": "one"}},
    "info": {"redelivered": False},
    "properties": {"priority": 5},
    "watched": False,
    "limited": False,
    "revoked": False,
}
AGENT = Agent("invoice", print, ("order.*",))
#: What the bus says about a step's first message.
STEP = {"ledger": "one", "direct": True, "message": 7, "flow": ["f-1", 0]}


def event(**fields: Any) -> dict[str, Any]:
    return {"event": {**ORDINARY["event"], **fields}}


@pytest.mark.parametrize(
    "ordinary",
    [
        {},
        event(bus={}),
        event(targets="other,invoice"),
        event(type="anything", targets="invoice"),
        {"info": {}},
        event(bus=STEP),
        event(bus=STEP, type="anything", targets="other"),
    ],
)
def test_an_events_first_message_to_an_agent_that_it_is_for_is_ordinary(ordinary: dict[str, Any]) -> None:
    assert is_ordinary(AGENT, **{**ORDINARY, **ordinary})


@pytest.mark.parametrize(
    "special",
    [
        *(
            event(bus={"ledger": "one", mark: 1})
            for mark in ("attempt", "replay", "requeued", "handed", "direct", "key")
        ),
        *(event(bus={**STEP, mark: 1}) for mark in ("attempt", "begun", "goes_on", "requeued", "replay")),
        event(bus={"ledger": "one", "direct": True, "message": 1}),
        event(type="order.placed.late"),
        event(targets="other"),
        {"info": {"redelivered": True}},
        {"properties": {"expiration": "1000"}},
        {"properties": {DEADLINE: 1.0}},
        {"watched": True},
        {"limited": True},
        {"revoked": True},
    ],
)
def test_what_is_special_about_a_message_is_not(special: dict[str, Any]) -> None:
    assert not is_ordinary(AGENT, **{**ORDINARY, **special})


@pytest.fixture
def app(tmp_path: Path, no_settings: None) -> Iterator[Pipeline]:
    one = Pipeline("t", broker_url=f"sqlite:///{tmp_path / 'broker.db'}", ledger_url="", directory=tmp_path)
    yield one
    one.close()


def simple(app: Pipeline) -> bool:
    """Say whether the only agent of an app is simple."""
    app.celery.finalize()
    (agent,) = app.agents
    return is_simple(agent, app.celery.tasks[agent.task_name], app.celery)


def handler(data: Any) -> None:
    """Do nothing."""


async def asynchronous(data: Any) -> None:
    """Do nothing, later."""


def test_a_plain_agent_is_simple(app: Pipeline) -> None:
    app.agent(on="order.*")(handler)
    assert simple(app)


@pytest.mark.parametrize("options", [{"timeout": 1.0}, {"max_concurrent": 1}])
def test_an_agent_with_limits_is_not(app: Pipeline, options: dict[str, Any]) -> None:
    app.agent(on="order.*", **options)(handler)
    assert not simple(app)


def test_an_agent_whose_task_has_a_time_limit_of_its_own_is_not(app: Pipeline) -> None:
    app.agent(on="order.*")(handler)
    app.celery.tasks["agent.handler"].time_limit = 5
    assert not simple(app)


def consumer(pool: type[BasePool], *, hub: object = "a loop", **limits: float) -> Any:
    controller = SimpleNamespace(**{"time_limit": None, "soft_time_limit": None, "max_tasks_per_child": None, **limits})
    return SimpleNamespace(pool=pool(), hub=hub, controller=controller)


@pytest.mark.parametrize("pool", [SoloPool, ThreadPool, Prefork])
def test_three_pools_have_a_short_way(pool: type[BasePool]) -> None:
    assert fits(consumer(pool))
    assert not fits(consumer(BasePool)), "a pool that nobody knows"


@pytest.mark.parametrize("limit", ["time_limit", "soft_time_limit", "max_tasks_per_child"])
def test_what_counts_for_each_task_of_a_process_has_none(limit: str) -> None:
    assert not fits(consumer(Prefork, **{limit: 1}))
    assert fits(consumer(SoloPool, **{limit: 1})), "there it never counted"


def test_processes_without_a_loop_have_none() -> None:
    assert not fits(consumer(Prefork, hub=None))


def test_an_async_agent_is_not(app: Pipeline) -> None:
    app.agent(on="order.*")(asynchronous)
    assert not simple(app)


@pytest.mark.parametrize("method", ["__call__", "before_start", "on_success", "after_return", "start_strategy"])
def test_an_agent_whose_app_does_something_around_each_task_is_not(app: Pipeline, method: str) -> None:
    own: Callable[..., Any] = lambda *_: None  # noqa: E731
    app.celery.task_cls = type("Own", (Task,), {method: own})
    app.agent(on="order.*")(handler)
    assert not simple(app)


def test_an_agent_whose_task_was_instrumented_is_not(app: Pipeline) -> None:
    app.agent(on="order.*")(handler)
    assert simple(app)
    task = app.celery.tasks["agent.handler"]
    task.run = partial(task.run)
    assert not simple(app)


def test_a_loader_that_does_something_around_each_task_is_noticed(app: Pipeline) -> None:
    loader = type(app.celery.loader)
    app.celery.loader = type("Own", (loader,), {"on_process_cleanup": lambda _: None})(app.celery)
    app.agent(on="order.*")(handler)
    assert not simple(app)


def test_celerys_own_check_for_what_was_done_already_is_kept(app: Pipeline) -> None:
    app.celery.conf.worker_deduplicate_successful_tasks = True
    app.agent(on="order.*")(handler)
    assert not simple(app)
