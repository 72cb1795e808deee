"""What is ordinary enough for the short way: an agent, once for each connection, and then each of its messages."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from celery import Task
from celery.app.trace import task_has_custom
from celery.concurrency.prefork import TaskPool as Prefork
from celery.concurrency.solo import TaskPool as SoloPool
from celery.concurrency.thread import TaskPool as ThreadPool
from celery.loaders.base import BaseLoader

from ...agents.agent import Agent
from ...brokers.expiry import DEADLINE
from ...core.routing import reaches
from ..task import DeliveryTask, Surrounded

#: What a task's class may have of its own that only Celery's tracer calls.
CALLED_BY_CELERY = ("before_start", "on_success", "after_return", "start_strategy", "Strategy")
#: What the bus says about an event's first and only message, and about the first one of a step of a flow.
ORDINARY_MARKS = frozenset({"ledger"})
STEPS_MARKS = ORDINARY_MARKS | {"direct", "message", "flow"}


def fits(consumer: Any) -> bool:
    """Say whether a worker's deliveries may go the short way at all: its pool is one of three.

    A time limit, and a number of tasks after which a process ends, are for each delivery, and count what Celery runs.
    """
    if not isinstance(consumer.pool, Prefork):
        return isinstance(consumer.pool, (SoloPool, ThreadPool))
    worker = consumer.controller
    return bool(consumer.hub) and not (worker.time_limit or worker.soft_time_limit or worker.max_tasks_per_child)


def is_simple(agent: Agent, task: Any, app: Any) -> bool:
    """Say whether an agent's deliveries may go the short way at all: nothing stands around them but our own.

    What instruments a worker (error trackers, tracers) puts its own `run` or `__call__` into the task.
    """
    loader = type(app.loader)
    return (
        isinstance(task, DeliveryTask)
        and not isinstance(task, Surrounded)
        and not (
            agent.is_async
            or agent.timeout
            or agent.max_concurrent
            or agent.members
            or agent.is_limited
            or agent.debounce
            or task.time_limit
        )
        and not (agent.scopes or agent.breaker or agent.bound or agent.batch)
        and getattr(task.run, "__func__", None) is DeliveryTask.run
        and type(task).__call__ is Task.__call__  # which a worker has replaced itself
        and not any(task_has_custom(task, name) for name in CALLED_BY_CELERY)
        and loader.on_task_init is BaseLoader.on_task_init
        and loader.on_process_cleanup is BaseLoader.on_process_cleanup
        and not app.conf.worker_deduplicate_successful_tasks
    )


def is_ordinary(
    agent: Agent,
    event: Mapping[str, Any],
    info: Mapping[str, Any],
    properties: Collection[str],
    *,
    watched: bool,
    limited: bool,
    revoked: bool,
) -> bool:
    """Say whether a message is the first one of a delivery to a simple agent, and nobody looks at its task.

    Arguments:
        event: the attributes that routing needs, and what the bus says about the message.
        info: where the broker has it from.
        properties: the names of the message's properties.
        watched: whether anybody hears of tasks, by Celery's signals or its events.
        limited: whether a rate limit, or a window that is smaller after a lost connection, has to count it.
        revoked: whether somebody has revoked the delivery.

    """
    targets, marks = event["targets"], event["bus"].keys()
    return (
        not (watched or limited or revoked)
        and (marks <= ORDINARY_MARKS or marks == STEPS_MARKS)
        and not info.get("redelivered")
        and "expiration" not in properties
        and DEADLINE not in properties
        and ("flow" in marks or reaches(agent.name, agent.patterns, event["type"], targets and targets.split(",")))
    )
