"""What each worker does beside its deliveries. Any number of workers may: what one has taken, the others leave alone.

A new chore is a method, and its line in Chores.all().
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from celery.utils.log import get_logger

from ..brokers.topology import AgentQueue
from ..core.errors import BrokerUnavailable, ProjectionFailed
from ..core.event import Encoded
from ..core.observe import Log
from ..ledger.due import Message
from ..publishing.outbox import GRACE, PAUSE, Outbox
from ..publishing.publisher import Publisher

if TYPE_CHECKING:
    from ..bus import Bus

logger = Log(get_logger(__name__))

#: Reconciliation looks this many times within `reconcile_after`, but not more often than once a second.
LOOKS = 4


@dataclass(frozen=True)
class Chore:
    """Something that is done again and again.

    Attributes:
        every: seconds between two times; 0 for each sweep.
        run: does what there is to do now, and returns how many things that were.
        sends: whether it uses the connection to the broker, beside which no fork may happen.
        has_more: whether it is to be run with the next sweep already, so that other chores come in between.

    """

    name: str
    every: float
    run: Callable[[], int]
    sends: bool = True
    has_more: Callable[[], bool] = lambda: False


class Chores:
    """The chores of a worker that has a ledger, with a connection of their own to the broker, opened when needed."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._ledger = bus.ledger
        self._publisher = Publisher(bus.celery, bus.settings, bus.names)
        self._outbox = Outbox(self._ledger, self._publisher)
        self._after = bus.settings.reconcile_after
        self._has_more = False
        self._failed: set[str] = set()

    def all(self) -> tuple[Chore, ...]:
        """Return them in the order in which they are done."""
        look = max(1.0, self._after / LOOKS)
        return (
            Chore("send what is due", 0, self.send_due),
            Chore("declare queues", look, self.declare),
            Chore("reconcile", look, self.reconcile, has_more=lambda: self._has_more),
            Chore("project", 0, self.project, sends=False),
        )

    def send_due(self) -> int:
        """Send what is due: events that were not sent, timers, and deliveries that somebody asked for."""
        look = self._ledger.due.look()
        done = self.relay() if look.outbox else 0
        done += self.fire() if look.timers else 0
        return done + (self.send_at_once() if look.at_once else 0)

    def relay(self) -> int:
        """Send what publishers have accepted and not sent."""
        records = self._ledger.events.take()
        if not self._outbox.send(self._on_the_bus(records)):
            self._ledger.events.postpone([record.event.id for record in records], PAUSE)
            return 0
        return len(records)

    def fire(self) -> int:
        """Publish delayed events and send retries whose time has come."""
        records, retries, lease = self._ledger.timers.take(GRACE)
        self._outbox.send(self._on_the_bus(records))
        ids = [retry.id for retry in retries]
        try:
            self._send(retries)
        except BrokerUnavailable as exc:
            logger.warning("%d retries wait for the broker: %s", len(ids), exc)
            self._ledger.timers.release(ids, lease, PAUSE)
            return 0
        self._ledger.timers.finish(ids, lease)
        return len(records) + len(ids)

    def send_at_once(self) -> int:
        """Send deliveries that somebody asked for: requeued dead letters, a new agent's past."""
        return self._send_or_ask_again(self._ledger.due.at_once())

    def reconcile(self) -> int:
        """Send again what should have reached an agent and is neither in its queue nor in anybody's hands."""
        self._has_more = bool(self._ledger.reconciliation.check(self._after))
        done = 0
        for agent in self._ledger.due.agents_with_lost(self._after):
            # What waits in the queue is not lost; when the queue is empty, what has no outcome is.
            if self._waiting(agent) == 0:
                lost = self._ledger.due.lost(agent, self._after)
                if lost:
                    logger.warning("agent %s: %d deliveries were in no queue and are sent again", agent, len(lost))
                done += self._send_or_ask_again(lost)
        return done

    def declare(self) -> int:
        """Declare this worker's queues: a broker that has lost its data no longer knows who listens."""
        try:
            with self._publisher.channel() as channel:
                for queue in self._bus.celery.amqp.queues.consume_from.values():
                    if isinstance(queue, AgentQueue):
                        queue.declare(channel=channel)
        except self._publisher.recoverable as exc:
            logger.warning("the queues could not be declared again: %s", exc)
        return 0

    def project(self) -> int:
        """Keep read models up to date; one that fails does not stop the others."""
        if not self._bus.has_projections:
            return 0
        from ..history.projections import catch_up

        done = 0
        for projection in self._bus.projections:
            try:
                done += catch_up(self._ledger, projection)
                self._failed.discard(projection.name)
            except ProjectionFailed as exc:
                if projection.name not in self._failed:
                    logger.error("%s", exc, exc_info=exc)
                self._failed.add(projection.name)
        return done

    def close(self) -> None:
        """Close the connection to the broker; the next chore that sends something opens another."""
        self._publisher.close()

    # -- sending

    def _on_the_bus(self, records: Sequence[Encoded]) -> list[Encoded]:
        bus = {"ledger": self._ledger.id}
        return [record._replace(bus=bus) for record in records]

    def _send_or_ask_again(self, messages: Sequence[Message]) -> int:
        try:
            self._send(messages)
        except BrokerUnavailable as exc:
            logger.warning("%d deliveries wait for the broker: %s", len(messages), exc)
            self._ledger.due.ask_again([message.id for message in messages])
            return 0
        return len(messages)

    def _send(self, messages: Sequence[Message]) -> None:
        self._publisher.send_encoded([message.encoded for message in messages])

    def _waiting(self, agent: str) -> int:
        """Return how many messages wait in an agent's queue."""
        try:
            with self._publisher.channel() as channel:
                queue = self._bus.names.agent_queue(agent)(channel)
                queue.declare()
                return int(channel.queue_declare(queue.name, passive=True).message_count)
        except self._publisher.recoverable as exc:
            raise BrokerUnavailable(f"the queue of agent {agent} cannot be looked at: {exc!r}") from exc
