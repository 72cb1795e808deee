"""Queues of agents that somebody adds, changes and removes while everything runs."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from ..core.observe import Log
from .publisher import Publisher

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..brokers.topology import Topology

logger = Log(logging.getLogger(__name__))
AWAY = "the queue of %s is left to the workers, which see to it when the broker is back: %s"


def bind(publisher: Publisher, names: Topology, agent: str, patterns: tuple[str, ...]) -> bool:
    """Declare an agent's queue, and bind it; say whether that was done, else workers do it, and reconciliation."""
    try:
        with publisher.channel() as channel:
            names.agent_queue(agent, patterns)(channel).declare()
    except publisher.recoverable as exc:
        logger.warning(AWAY, agent, exc)
        return False
    return True


def unbind(publisher: Publisher, names: Topology, agent: str, patterns: Sequence[str]) -> bool:
    """Let an agent's queue get no more of some patterns; say whether that was done."""
    try:
        with publisher.channel() as channel:
            queue = names.agent_queue(agent)(channel)
            queue.declare()  # RabbitMQ closes a channel on which something is missing
            for pattern in patterns:
                queue.unbind_from(names.events, pattern)
    except publisher.recoverable as exc:
        logger.warning(AWAY, agent, exc)
        return False
    return True


def delete_queues(publisher: Publisher, names: Topology, agent: str) -> bool:
    """Delete an agent's queue that nobody consumes any more, and its dead letters' if there are none; say whether."""
    queue = names.queue_of(agent)
    try:
        with publisher.channel() as channel:
            names.agent_queue(agent)(channel).declare()  # Redis' transport deletes what it has declared itself
            channel.queue_delete(queue, if_unused=True)
            channel.queue_delete(names.dead_letter_queue(queue).name, if_empty=True)
    except publisher.recoverable:  # a worker still consumes it, or the dead letters are for somebody
        return False
    return True
