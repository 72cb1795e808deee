"""A link: one broker connection with one channel, and how an event goes through it."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from typing import Any

from kombu import Connection

from ..brokers.kinds import kind_of
from ..brokers.topology import Topology
from ..core.event import CONTENT_TYPE, Encoded
from ..core.observe import Log
from ..core.times import monotonic

logger = Log(logging.getLogger(__name__))

PERSISTENT = 2
#: Queues of which a link remembers that they are there.
MOST_DECLARED = 10_000


class Link:
    """A broker connection with one channel on which `events` is declared."""

    def __init__(self, connection: Connection, names: Topology, deadline: float) -> None:
        """Open a channel on a connection; raise what the transport raises when that fails by the deadline."""
        self.used = False
        self._names = names
        self._kind = kind_of(connection.transport)
        self._priorities = [self._kind.priority(number) for number in range(11)]
        self._declared: set[str] = set()
        self.connection = connection
        self.channel = connection.channel()
        self._deadline = deadline
        self.limit(deadline)
        names.declare_events(self.channel)

    def limit(self, deadline: float) -> None:
        """Let whatever the broker is asked end by the deadline (monotonic time), until another one is set."""
        self.channel.limit(deadline)

    def send(self, batch: Sequence[Encoded], *, confirm: bool, deadline: float) -> None:
        """Publish all events of `batch`, and with `confirm` wait until the broker has them."""
        # An idle connection may have died unnoticed: half of the time is left for a new one.
        deadline -= (deadline - monotonic()) / 2 if self.used else 0
        self.used = True
        self._deadline = deadline
        messages = [(message, *address) for encoded in batch for message, address in self._messages(encoded)]
        self.channel.publish_many(messages, deadline, confirm=confirm)

    def _messages(self, encoded: Encoded) -> list[tuple[Any, tuple[str, str]]]:
        """Return the messages of an event with their exchange and routing key: one for all, or one for each target."""
        event = encoded.event
        if encoded.agent is None and not event.targets:
            return [(self._message(encoded), (self._names.events.name, event.type))]
        agents = event.targets if encoded.agent is None else (encoded.agent,)
        return [(self._message(encoded), (self._names.agents.name, self._declare(agent))) for agent in agents]

    def _declare(self, agent: str) -> str:
        """Return the name of an agent's queue, which is there then: a broker may have lost its data."""
        queue = self._names.queue_of(agent)
        if queue not in self._declared:
            if len(self._declared) >= MOST_DECLARED:  # names may come from other people's events, without an end
                self._declared.clear()
            self.limit(self._deadline)
            self._names.agent_queue(agent).declare(channel=self.channel)
            self._declared.add(queue)
        return queue

    def _message(self, encoded: Encoded) -> Any:
        event = encoded.event
        return self.channel.prepare_message(
            encoded.body,
            priority=self._priorities[event.priority],
            content_type=CONTENT_TYPE,
            content_encoding="utf-8",
            headers=wire_headers(encoded),
            properties={"delivery_mode": PERSISTENT},
        )

    def knows(self, agent: str) -> bool:
        """Say whether anybody has declared an agent's queue."""
        queue = self._names.queue_of(agent)
        is_agents = self._names.agent_of(queue) == agent  # and no queue of dead letters
        return is_agents and self._kind.has_queue(self.connection, self._names.agents.name, queue)

    def abandon(self) -> None:
        """Let go of a connection that has failed, without a word to the broker."""
        with contextlib.suppress(Exception):  # a channel that is closed knows no time any more
            self.limit(monotonic())
        with contextlib.suppress(Exception):
            self.connection.collect(socket_timeout=0)

    def close(self, deadline: float) -> None:
        """Close the connection, whatever state it is in: the broker's answer says that it has read everything.

        Arguments:
            deadline: the time (monotonic) after which the answer is not waited for any longer.

        """
        with contextlib.suppress(Exception):
            self.limit(deadline)
        try:
            self.connection.close()
        except Exception as exc:
            logger.warning("closing a connection failed, events published without confirms may be lost: %s", exc)


def wire_headers(encoded: Encoded) -> dict[str, Any]:
    """Return what a worker needs to know before it decodes the body, signed where there is a seal."""
    event, bus, seal = encoded.event, encoded.bus, encoded.seal
    headers: dict[str, Any] = {"id": event.key, "type": event.type, "correlationid": event.correlation_id}
    if event.causation_id:
        headers["causationid"] = event.causation_id
    if event.targets:
        headers["targets"] = ",".join(event.targets)
    if seal is None:
        headers["bus"] = {}  # nobody can sign without a ledger, and there is nothing to say
    elif bus:
        headers["bus"] = bus
        headers["bus"] = {**bus, "signature": seal.sign(headers, encoded.body, encoded.agent or "")}
    if event.traceparent:  # not signed: it is for what traces tasks, and we have it in the body
        headers["traceparent"] = event.traceparent
        if event.tracestate:
            headers["tracestate"] = event.tracestate
    return headers
