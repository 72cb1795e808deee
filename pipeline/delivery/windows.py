"""Windows: how many of an agent's messages a worker holds, so that a slow agent's do not keep the others' back."""

from __future__ import annotations

import math
from typing import Any

from celery.bootsteps import StartStopStep
from celery.concurrency.solo import TaskPool as SoloPool

from ..agents.agent import Agent
from ..brokers.kinds import kind_of

#: What is held of an agent with a limit, for each that may run: the next ones are there when these end.
AHEAD = 1.5


def window(agent: Agent, concurrency: int, multiplier: int, lane: int | None = None) -> int | None:
    """Return how many of an agent's messages a worker holds; None for what has room in the window that all share.

    Arguments:
        concurrency: how many deliveries the worker's pool runs at once.
        multiplier: Celery's `worker_prefetch_multiplier`. Who sets it to 1 wants a worker to hold no more than it can
            run at once, in the pool of all agents together; with 0 nothing is limited.
        lane: how many of the agent's handlers the worker runs at once beside its pool; None for those in the pool.

    """
    if lane is not None and multiplier:
        return lane if multiplier == 1 else math.ceil(lane * AHEAD)
    if multiplier <= 1:
        return None
    usual = concurrency * multiplier
    return usual if agent.max_concurrent is None else min(usual, math.ceil(agent.max_concurrent * AHEAD))


class WindowsStep(StartStopStep):  # type: ignore[misc]  # celery's classes are untyped
    """Gives agents windows of their own, whenever a worker's consumer has connected and before it consumes."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def start(self, consumer: Any) -> None:
        """Give them; all other queues share the window that Celery has set. Paused agents' queues are left alone."""
        consumer.hold()
        give_windows(consumer)


def give_windows(consumer: Any) -> None:
    """Give agents their windows, which count for what begins to be consumed from now on."""
    bus, kind = consumer.bus, kind_of(consumer.connection.transport)
    if consumer.app.conf.worker_disable_prefetch:  # what is held then is for Celery to count
        return
    if kind.gives_unseen and isinstance(consumer.pool, SoloPool):
        return
    controller = consumer.controller
    concurrency = controller.max_concurrency or controller.concurrency
    windows = {
        bus.names.queue_of(agent.name): window(agent, concurrency, consumer.prefetch_multiplier, lane)
        for agent in bus.agents
        for lane in (consumer.in_lane(agent),)
        if kind.has_windows_for_all or agent.max_concurrent or lane
    }
    consumer.task_consumer.channel.windows = {queue: most for queue, most in windows.items() if most}
