r"""The names and shapes of all exchanges and queues; nothing else in the package spells them.

publish -> events (topic) --pattern--> agent.<name>  --rejected--> agents.dead -> agent.<name>.dead
       \      \--nobody matches--> events.unrouted
        \-> agents (direct) --target--> agent.<name>

With the setting `namespace` each of these names begins with that word and a dot: several apps share one broker.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from kombu import Exchange, Queue

#: The name of an agent's task, and of its queue behind the namespace.
AGENT_PREFIX = "agent."
DEAD_SUFFIX = ".dead"
EMIT_TASK = "pipeline.emit"
EMIT_FAILED_TASK = "pipeline.emit_failed"

#: Priorities 1..10 become 9..0 on brokers where the higher number goes first.
MAX_PRIORITY = 9
#: Unrouted events kept for inspection, the oldest are dropped first (events).
UNROUTED_LIMIT = 100_000


class Topology:
    """The exchanges and queues of one namespace.

    Attributes:
        events: the topic exchange that events are published to.
        unrouted: where events go that no queue is bound for.
        agents: the direct exchange of the agents' queues.
        dead: the exchange of the dead letters.
        emit: the queue of the tasks that end chords in events; every worker consumes it.

    """

    def __init__(self, namespace: str = "") -> None:
        """Spell all names; an empty namespace leaves them as they are."""
        self.namespace = namespace
        self._prefix = f"{namespace}." if namespace else ""
        self.emit = f"{self._prefix}agents.emit"
        unrouted = f"{self._prefix}events.unrouted"
        self.unrouted = Exchange(unrouted, type="topic", durable=True)
        self._unrouted_queue = Queue(
            unrouted, self.unrouted, routing_key="#", durable=True, queue_arguments={"x-max-length": UNROUTED_LIMIT}
        )
        alternate = {"alternate-exchange": unrouted}
        self.events = Exchange(f"{self._prefix}events", type="topic", durable=True, arguments=alternate)
        self.agents = Exchange(f"{self._prefix}agents", type="direct", durable=True)
        self.dead = Exchange(f"{self._prefix}agents.dead", type="direct", durable=True)

    def queue_of(self, agent: str) -> str:
        """Return the name of an agent's queue."""
        return f"{self._prefix}{AGENT_PREFIX}{agent}"

    def agent_of(self, queue: str) -> str | None:
        """Return the name of the agent that `queue` belongs to, or None for other queues."""
        beginning = self._prefix + AGENT_PREFIX
        if queue.startswith(beginning) and not queue.endswith(DEAD_SUFFIX):
            return queue.removeprefix(beginning)
        return None

    def agent_queue(self, agent: str, patterns: tuple[str, ...] = ()) -> AgentQueue:
        """Return the declaration of an agent's queue, bound to `events` once per pattern."""
        return self._queue(self.queue_of(agent), patterns)

    def emit_queue(self) -> AgentQueue:
        """Return the declaration of the queue of the tasks that publish a chord's result."""
        return self._queue(self.emit)

    def dead_letter_queue(self, queue: str) -> Queue:
        """Return the declaration of the queue that holds what `queue` rejected."""
        name = queue + DEAD_SUFFIX
        return Queue(name, self.dead, routing_key=name, durable=True)

    def declare_events(self, channel: Any) -> None:
        """Declare what a publisher needs on `channel`: where events go, and where those go that nobody wants."""
        self._unrouted_queue(channel).declare()
        self.events(channel).declare()

    def _queue(self, name: str, patterns: tuple[str, ...] = ()) -> AgentQueue:
        return AgentQueue(
            name,
            self.agents,
            routing_key=name,
            durable=True,
            patterns=patterns,
            namespace=self.namespace,
            queue_arguments={
                "x-max-priority": MAX_PRIORITY,
                "x-dead-letter-exchange": self.dead.name,
                "x-dead-letter-routing-key": name + DEAD_SUFFIX,
            },
        )


class AgentQueue(Queue):  # type: ignore[misc]  # kombu's classes are untyped
    """An agent's queue: primary exchange `agents`, and one binding to `events` for each pattern.

    Kombu drops the primary exchange of a queue that is given extra bindings. It has to stay: Celery re-publishes
    (retries, lost workers) through it, and by way of the topic exchange every agent would get that again.
    """

    attrs = (*Queue.attrs, ("patterns", tuple), ("namespace", str))
    patterns: tuple[str, ...] = ()
    namespace: str = ""

    def _create_bindings(self, nowait: bool = False, channel: Any = None) -> None:
        super()._create_bindings(nowait=nowait, channel=channel)
        channel = channel or self.channel
        topology = topology_of(self.namespace)
        topology.dead_letter_queue(self.name).declare(channel=channel)
        topology.declare_events(channel)
        for pattern in self.patterns:
            self.bind_to(topology.events, pattern, channel=channel)


@lru_cache(maxsize=64)
def topology_of(namespace: str) -> Topology:
    """Return the names of a namespace."""
    return Topology(namespace)
