"""The queues that a worker leaves alone for now, because somebody has paused their agents."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery.utils.log import get_logger

from ...core.observe import Log

if TYPE_CHECKING:
    from ...bus import Bus

logger = Log(get_logger(__name__))

#: Seconds between two looks for what the worker's chores have found out.
EVERY = 0.2


class Held:
    """Ends and begins a worker's consumers, as Celery's remote control does; used by the loop's thread alone.

    What the worker has got before, it finishes. A new connection consumes everything at first, so it is compared again.
    """

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._done: tuple[Any, frozenset[str]] = (None, frozenset())
        self._cancelled: set[str] = set()

    def apply(self, consumer: Any) -> None:
        """Let the worker consume the queues of its agents, but those that are paused."""
        tasks = consumer.task_consumer
        if tasks is None or not self._bus.has_ledger:
            return
        agents = self._bus.pauses.agents
        if (tasks, agents) == self._done:
            return
        held = {self._bus.names.queue_of(agent) for agent in agents}
        consumed = {queue.name for queue in tasks.queues}
        for name, queue in list(consumer.app.amqp.queues.consume_from.items()):
            if name in held and name in consumed:
                self._cancel(consumer, name)
            elif name in self._cancelled - held:
                self._cancelled.discard(name)
                if name not in consumed:
                    tasks.add_queue(queue)
                    tasks.consume()
                    logger.info("%s is consumed again", name)
        self._done = tasks, agents

    def leave(self, name: str) -> None:
        """Note that a queue is not consumed yet, because its agent is paused."""
        self._cancelled.add(name)

    def _cancel(self, consumer: Any, name: str) -> None:
        consumer.remember_tags()  # what is on its way still comes
        consumer.task_consumer.cancel_by_queue(name)
        self._cancelled.add(name)
        logger.info("%s is not consumed: its agent is paused", name)
