"""The agents that the ledger declares, in a worker that runs: they come, change and go between two of its turns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from celery.utils.log import get_logger

from ...core.observe import Log

if TYPE_CHECKING:
    from ...agents.agent import Agent
    from ...bus import Bus

logger = Log(get_logger(__name__))


class Adopted:
    """Lets a worker begin and end to run agents, as others see it; used by the loop's thread alone."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    def apply(self, consumer: Any) -> None:
        """Let the worker have the agents that its chores have found in the ledger."""
        subscribed = self._bus.subscribed
        if subscribed is None or not subscribed.is_on or consumer.task_consumer is None:
            return
        change = subscribed.apply()
        if change is None:
            return
        if change.agents:
            self._take_on(consumer, change.agents)
        if consumer.lane is not None:  # before the broker is asked for anything, which may fail
            consumer.lane.adopt(change.wanted)
        for agent in change.gone:
            self._let_go(consumer, agent)
        if change.agents:
            self._consume(consumer, change.agents)

    def _take_on(self, consumer: Any, agents: Sequence[Agent]) -> None:
        if consumer.lane is None and consumer.open_lane is not None:
            consumer.open_lane().register(consumer.hub)
        consumer.update_strategies()
        consumer.open_gates(agents)
        consumer.handled |= {self._bus.names.queue_of(agent.name): agent for agent in agents}

    def _consume(self, consumer: Any, agents: Sequence[Agent]) -> None:
        from ..windows import give_windows

        give_windows(consumer)
        tasks = consumer.task_consumer
        for agent in agents:
            name = self._bus.names.queue_of(agent.name)
            logger.info("subscription %s: this worker runs it as it is now", agent.name)
            if tasks.consuming_from(name):
                continue
            if agent.name in self._bus.pauses.agents:
                consumer.leave_alone(name)
            else:
                tasks.add_queue(consumer.app.amqp.queues[name])
        tasks.consume()

    def _let_go(self, consumer: Any, agent: Agent) -> None:
        consumer.remember_tags()  # what is on its way still comes, and ends as the ledger says
        consumer.task_consumer.cancel_by_queue(self._bus.names.queue_of(agent.name))
        logger.info("subscription %s is removed: this worker runs it no more", agent.name)
