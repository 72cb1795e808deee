r"""The names and shapes of all exchanges and queues; nothing else in the package spells them.

publish -> events (topic) --pattern--> agent.<name>  --rejected--> agents.dead -> agent.<name>.dead
              \--nobody matches--> events.unrouted
"""

from __future__ import annotations

from typing import Any

from kombu import Exchange, Queue

EVENTS = "events"
UNROUTED = "events.unrouted"
AGENTS = "agents"
DEAD = "agents.dead"
QUEUE_PREFIX = "agent."
DEAD_SUFFIX = ".dead"
#: The queue of the tasks that end chords in events; every worker consumes it.
EMIT = "agents.emit"
EMIT_TASK = "pipeline.emit"
EMIT_FAILED_TASK = "pipeline.emit_failed"

#: Priorities 1..10 become 9..0 on brokers where the higher number goes first.
MAX_PRIORITY = 9
#: Unrouted events kept for inspection, the oldest are dropped first (events).
UNROUTED_LIMIT = 100_000

unrouted_exchange = Exchange(UNROUTED, type="topic", durable=True)
unrouted_queue = Queue(
    UNROUTED, unrouted_exchange, routing_key="#", durable=True, queue_arguments={"x-max-length": UNROUTED_LIMIT}
)
events_exchange = Exchange(EVENTS, type="topic", durable=True, arguments={"alternate-exchange": UNROUTED})
agents_exchange = Exchange(AGENTS, type="direct", durable=True)
dead_exchange = Exchange(DEAD, type="direct", durable=True)


class AgentQueue(Queue):  # type: ignore[misc]  # kombu's classes are untyped
    """An agent's queue: primary exchange `agents`, and one binding to `events` for each pattern.

    Kombu drops the primary exchange of a queue that is given extra bindings. It has to stay: Celery re-publishes
    (retries, lost workers) through it, and by way of the topic exchange every agent would get that again.
    """

    attrs = (*Queue.attrs, ("patterns", tuple))
    patterns: tuple[str, ...] = ()

    def _create_bindings(self, nowait: bool = False, channel: Any = None) -> None:
        super()._create_bindings(nowait=nowait, channel=channel)
        channel = channel or self.channel
        dead_letter_queue(self.name).declare(channel=channel)
        declare_events(channel)
        for pattern in self.patterns:
            self.bind_to(events_exchange, pattern, channel=channel)


def agent_queue(agent: str, patterns: tuple[str, ...] = ()) -> AgentQueue:
    """Return the declaration of an agent's queue, bound to `events` once per pattern."""
    return _queue(QUEUE_PREFIX + agent, patterns)


def _queue(name: str, patterns: tuple[str, ...] = ()) -> AgentQueue:
    return AgentQueue(
        name,
        agents_exchange,
        routing_key=name,
        durable=True,
        patterns=patterns,
        queue_arguments={
            "x-max-priority": MAX_PRIORITY,
            "x-dead-letter-exchange": DEAD,
            "x-dead-letter-routing-key": name + DEAD_SUFFIX,
        },
    )


def dead_letter_queue(queue: str) -> Queue:
    """Return the declaration of the queue that holds what `queue` rejected."""
    name = queue + DEAD_SUFFIX
    return Queue(name, dead_exchange, routing_key=name, durable=True)


def emit_queue() -> AgentQueue:
    """Return the declaration of the queue of the tasks that publish a chord's result."""
    return _queue(EMIT)


def declare_events(channel: Any) -> None:
    """Declare what a publisher needs on `channel`: the topic exchange, and where unrouted events go."""
    unrouted_queue(channel).declare()
    events_exchange(channel).declare()


def agent_of(queue: str) -> str | None:
    """Return the name of the agent that `queue` belongs to, or None for other queues."""
    if queue.startswith(QUEUE_PREFIX) and not queue.endswith(DEAD_SUFFIX):
        return queue.removeprefix(QUEUE_PREFIX)
    return None
