"""Kafka: a record is behind the place of the bridge's consumer group when its event is accepted, and not before.

Sources: librdkafka's CONFIGURATION.md and INTRODUCTION.md; confluent-kafka; CloudEvents' "Kafka Protocol Binding".
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...core.errors import BridgeAway, BridgeRefused, line_of
from ...core.observe import Log
from ..bridge import library
from .rdkafka import Cluster, away, check, connected
from .records import REASON, Group, Record, headers_of

if TYPE_CHECKING:
    from confluent_kafka import KafkaError, Producer

    from ..bridge import Answer, Bridge, Outgoing, Source
    from .rdkafka import Told

logger = Log(logging.getLogger(__name__))

#: Seconds that the producer is asked at a time whether something was confirmed, and between that where nothing waits.
ASKED, IDLE = 0.2, 1.0
#: What would be refused again, by librdkafka's names, and how that is said.
REFUSED: Mapping[str, str] = {
    **dict.fromkeys(("MSG_SIZE_TOO_LARGE", "RECORD_LIST_TOO_LARGE"), "takes no message of {size:,} bytes"),
    **dict.fromkeys(("_UNKNOWN_TOPIC", "UNKNOWN_TOPIC_OR_PART"), "has no topic {topic}, and does not make it"),
    **dict.fromkeys(("TOPIC_EXCEPTION", "_INVALID_ARG"), "can have no topic {topic}"),
    **dict.fromkeys(
        ("TOPIC_AUTHORIZATION_FAILED", "CLUSTER_AUTHORIZATION_FAILED"),
        "does not let us write to {topic}: its permissions forbid that",
    ),
    **dict.fromkeys(("INVALID_RECORD", "POLICY_VIOLATION", "INVALID_TIMESTAMP"), "does not take it: {why}"),
}


@dataclass(frozen=True)
class Kafka(Cluster):
    """A Kafka cluster.

    Arguments:
        servers: some of its brokers, such as "127.0.0.1:9092"; several with commas between them.
        prefix: what stands before an event's type in its topic.
        topics: topics by event types, both as patterns, such as {"order.#": "wms.orders.#"}; where the topic has no
            wildcards all those types share it, as in {"#": "shop"}.
        dead: the topic that gets what no event can be made of, with the reason; without one it stays where it is.
        user, password, mechanism: what the brokers want to know, and how they are told (SASL).
        tls: whether connections are encrypted.
        tls_ca, tls_cert, tls_key: files of the authority that has signed the brokers' certificates, and of an own one.
        name: what brokers call the connection; default `pipeline APP-NAME`.
        settings: further ones of librdkafka, by its own names.
        session_timeout: seconds after which others get what a process had taken that has died.
        reconnect_wait: seconds between two attempts to connect.
        max_reconnects: attempts in a row after which `pipeline bridge` gives up; -1 for none.
        connect_timeout: seconds for an attempt.

    """

    @property
    def kind(self) -> str:
        """What it is called."""
        return "Kafka"

    @property
    def extra(self) -> tuple[str, str]:
        """The extra with its library, and that."""
        return "kafka", "confluent_kafka"

    def check(self, bridge: Bridge) -> None:
        """Raise ConfigError for requests, for what is no topic, and for a password that all could read."""
        check(self, bridge)

    async def connect(self, group: str) -> KafkaLink:
        """Connect once: the bridge says when to try again."""
        library(self)
        producer, told = await connected(self, group)
        return KafkaLink(self, group, producer, told)


class KafkaLink:
    """A producer, and where messages come from a member of the bridge's consumer group."""

    def __init__(self, system: Kafka, group: str, producer: Producer, told: Told) -> None:
        self._system, self._group, self._producer, self._told = system, group, producer, told
        self._open = True
        self._taking: Group | None = None
        self._serving: asyncio.Task[None] | None = None
        self._sent = asyncio.Event()

    @property
    def is_open(self) -> bool:
        """Whether it is of use."""
        return self._open

    async def send(self, message: Outgoing) -> None:
        """Produce a record, and wait until all replicas that are in sync have it."""
        topic = self._system.mapping.subject_of(message.type)
        await self._produce(topic, message.body, message.key.encode(), headers_of(message.headers))

    async def _produce(self, topic: str, body: bytes | None, key: bytes | None, headers: list[Any]) -> None:
        from confluent_kafka import KafkaException

        loop = asyncio.get_running_loop()
        ended: asyncio.Future[KafkaError | None] = loop.create_future()

        def end(error: KafkaError | None) -> None:
            if not ended.done():
                ended.set_result(error)

        def delivered(error: KafkaError | None, _: object) -> None:
            loop.call_soon_threadsafe(end, error)

        try:
            self._producer.produce(topic, body, key, headers=headers, on_delivery=delivered)
        except BufferError:
            raise BridgeAway(f"{self._system} does not keep up: too much waits to be sent") from None
        except KafkaException as exc:
            end(exc.args[0])
        else:
            self._serve()
        if (error := await ended) is not None:
            raise self._error(error, topic, len(body or b""))
        self._told.forget()

    def _serve(self) -> None:
        self._sent.set()
        if self._serving is None or self._serving.done():
            self._serving = asyncio.create_task(self._ask())

    async def _ask(self) -> None:
        """Ask the producer what was confirmed, and what else it has to say: it keeps all of that until it is asked."""
        while self._open or len(self._producer):
            if not len(self._producer):
                self._sent.clear()
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._sent.wait(), IDLE)
            await asyncio.to_thread(self._producer.poll, ASKED if len(self._producer) else 0)

    def _error(self, error: KafkaError, topic: str, size: int) -> BridgeAway | BridgeRefused:
        """Return what a record was not taken for; another connection may do better, where this one has given up."""
        if (said := REFUSED.get(error.name())) is not None:
            return BridgeRefused(f"{self._system} {said.format(topic=topic, size=size, why=error.str())}")
        self._open = False
        return away(self._system, "takes nothing now", error, self._told)

    async def ask(self, message: Outgoing, timeout: float) -> bytes:  # noqa: ASYNC109  # as the protocol has it
        """Refuse."""
        raise NotImplementedError

    async def answer(self, patterns: Sequence[str], answer: Answer) -> None:
        """Refuse."""
        raise NotImplementedError

    async def sources(self, patterns: Sequence[str]) -> Sequence[Source]:
        """Join the bridge's group, which begins with the first record of each topic."""
        self._taking = Group(self._system, self._group, self._put_aside)
        await self._taking.join(patterns)
        return [self._taking.fetch]

    async def _put_aside(self, record: Record, reason: str) -> None:
        """Copy a record to the topic of dead ones; where that is not to be had, it is in its own one all the same."""
        if not (dead := self._system.dead):
            return
        about = [(REASON, reason.encode()), ("record", record.id.encode())]
        try:
            await self._produce(dead, record.value, record.key, [*record.all_headers, *about])
        except BridgeRefused as exc:
            logger.warning("record %s is in its topic only: %s", record.id, line_of(exc))

    async def close(self) -> None:
        """Leave the group, so that others go on at once; what is not confirmed is not waited for."""
        self._open = False
        if self._taking is not None:
            await self._taking.leave()
        with suppress(Exception):  # it has gone
            self._producer.purge()
            self._sent.set()
            if self._serving is not None:
                await self._serving
