"""What librdkafka is told for a bridge to Kafka, and what it tells: who gets in, and how long it tries."""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...core.errors import BridgeAway, ConfigError, line_of, nearest, shown
from ..subjects import Subjects
from .access import place_of

if TYPE_CHECKING:
    from confluent_kafka import Consumer, KafkaError, Producer

    from ..bridge import Bridge

MECHANISMS = ("SCRAM-SHA-512", "SCRAM-SHA-256", "PLAIN")
#: What says that somebody is not let in.
FORBIDDEN = frozenset(("TOPIC_AUTHORIZATION_FAILED", "GROUP_AUTHORIZATION_FAILED"))
#: Milliseconds that librdkafka sends a record again, knowing it by a number of its own, until it gives up.
SENDING = 30_000
#: Milliseconds for an answer, that a topic may be new and not known everywhere, and until topics are looked for again.
ANSWER, NEW, LOOKED = 10_000, 10_000, 30_000
#: Kilobytes of records that are fetched ahead.
AHEAD = 16 * 1024
#: What is told that is not more of the same.
TOLD = 20
#: Settings that others of the bridge stand on, and that have names of their own.
_OWN = frozenset(
    {
        *("bootstrap.servers", "group.id", "enable.auto.commit", "enable.auto.offset.store", "enable.idempotence"),
        *("acks", "error_cb", "auto.offset.reset", "topic.blacklist", "sasl.username", "sasl.password"),
        *("metadata.broker.list", "request.required.acks", "transactional.id", "partition.assignment.strategy"),
        *("security.protocol", "sasl.mechanism", "sasl.mechanisms"),
    }
)
#: Topics that are Kafka's own.
_INTERNAL = "^__"
_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}")


@dataclass(frozen=True)
class Cluster:
    """What Kafka is declared with, which says what each is."""

    servers: str = field(default="127.0.0.1:9092", repr=False)
    prefix: str = ""
    topics: Mapping[str, str] = field(default_factory=dict)
    dead: str = ""
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    mechanism: str = "SCRAM-SHA-512"
    tls: bool = False
    tls_ca: str | Path | None = None
    tls_cert: str | Path | None = None
    tls_key: str | Path | None = None
    name: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict, repr=False)
    session_timeout: float = 30.0
    reconnect_wait: float = 2.0
    max_reconnects: int = 10
    connect_timeout: float = 2.0

    def __str__(self) -> str:
        """Return where it is."""
        return place_of(self.servers)

    @cached_property
    def mapping(self) -> Subjects:
        """Which topic an event type has."""
        return Subjects(
            self.prefix, {type: topic.replace("#", ">") for type, topic in self.topics.items()}, shared=True
        )


class Told:
    """What librdkafka tells beside what it answers.

    Attributes:
        gone: whether all brokers have gone away, or it can do no more.

    """

    def __init__(self) -> None:
        self.gone = False
        self._errors: deque[KafkaError] = deque(maxlen=TOLD)

    def __call__(self, error: KafkaError) -> None:
        """Take it."""
        if error.fatal() or error.name() == "_ALL_BROKERS_DOWN":
            self.gone = True
        if error.name() != "_ALL_BROKERS_DOWN":  # the others say why
            self._errors.append(error)

    def forget(self) -> None:
        """Forget what was told before something has gone well."""
        self._errors.clear()

    def __str__(self) -> str:
        """Return what was told last."""
        return shown(self._errors[-1].str()) if self._errors else "all brokers are down"

    def __bool__(self) -> bool:
        return bool(self._errors)


def away(system: Cluster, what: str, error: KafkaError, told: Told) -> BridgeAway:
    """Return that a system is away, with the reason that says most."""
    return BridgeAway(f"{system} {what}: {told if told else shown(error.str())}")


def check(system: Cluster, bridge: Bridge) -> None:
    """Raise ConfigError for what a bridge to Kafka cannot do, and for a password that all could read."""
    if bridge.ask or bridge.answer:
        raise ConfigError(f"bridge {bridge.name!r}: ask= and answer=: Kafka has no answers")
    if "@" in system.servers or "/" in system.servers:
        raise ConfigError("servers: brokers are written as 'one:9092,two:9092'; user= and password= say who gets in")
    for topic in (system.dead, *system.mapping.subjects((*bridge.into, *bridge.out))):
        if topic and not _TOPIC.fullmatch(".".join("x" if word in ("*", ">") else word for word in topic.split("."))):
            raise ConfigError(f"{topic!r} is no name of a topic: up to 249 letters, digits, '.', '_' and '-'")
    if system.mechanism not in MECHANISMS:
        raise ConfigError(f"mechanism: {system.mechanism!r} is none; {nearest(system.mechanism, MECHANISMS)}")
    if (system.user is None) != (system.password is None):
        raise ConfigError("user= and password= belong together")
    if system.user is not None and system.mechanism == "PLAIN" and not is_encrypted(system):
        raise ConfigError("mechanism='PLAIN' sends the password as it is: add tls=True, or use 'SCRAM-SHA-512'")
    if wrong := sorted(_OWN & system.settings.keys()):
        raise ConfigError(f"settings: the bridge itself sets {', '.join(wrong)}")


def is_encrypted(system: Cluster) -> bool:
    """Say whether connections have to be encrypted: librdkafka then sends nothing to a broker without TLS."""
    return bool(system.tls or system.tls_ca or system.tls_cert)


def options_of(system: Cluster, group: str, told: Told) -> dict[str, Any]:
    """Return what producer and consumer have in common."""
    kind = ("SASL_" if system.user is not None else "") + ("SSL" if is_encrypted(system) else "PLAINTEXT")
    options: dict[str, Any] = {
        "bootstrap.servers": system.servers,
        "client.id": system.name or f"pipeline {group}",
        "security.protocol": kind,
        "socket.connection.setup.timeout.ms": max(1000, int(system.connect_timeout * 1000)),
        "socket.timeout.ms": ANSWER,
        # Until then it believes what it was told of a topic, such as that it is not there, or not to be written to.
        "topic.metadata.refresh.interval.ms": LOOKED,
        "log_level": 0,  # what it would write to stderr it tells, too
        "error_cb": told,
    }
    if system.user is not None:
        options |= {"sasl.mechanism": system.mechanism, "sasl.username": system.user, "sasl.password": system.password}
    files = {"ca": system.tls_ca, "certificate": system.tls_cert, "key": system.tls_key}
    for name, path in files.items():
        if path is not None:
            try:
                Path(path).open("rb").close()  # OpenSSL would not say which
            except OSError as exc:
                raise ConfigError(f"the certificates for {system} cannot be read: {exc}") from None
            options[f"ssl.{name}.location"] = str(path)
    return options


async def connected(system: Cluster, group: str) -> tuple[Producer, Told]:
    """Return a producer that has reached a broker; raise BridgeAway, and ConfigError for what is declared wrongly."""
    from confluent_kafka import KafkaException, Producer

    told = Told()
    options = {
        **options_of(system, group, told),
        "enable.idempotence": True,  # with acks=all, and in its order whatever is sent again
        "delivery.timeout.ms": SENDING,
        "topic.metadata.propagation.max.ms": NEW,
        "partitioner": "murmur2_random",  # as the clients in Java have it
        **system.settings,
    }
    try:
        producer = Producer(options)
    except (KafkaException, ValueError, TypeError) as exc:
        raise _wrong(system, exc) from None
    try:
        await asyncio.to_thread(producer.list_topics, timeout=system.connect_timeout)
    except KafkaException as exc:
        producer.poll(0)
        raise away(system, "does not let us in", exc.args[0], told) from None
    return producer, told


def consumer_of(system: Cluster, group: str, told: Told) -> Consumer:
    """Return a consumer that keeps nothing by itself."""
    from confluent_kafka import Consumer, KafkaException

    session = int(system.session_timeout * 1000)
    left = (_INTERNAL, *([f"^{_escaped(system.dead)}$"] if system.dead else []))
    options = {
        **options_of(system, group, told),
        "group.id": f"pipeline-{group}",
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "auto.offset.reset": "earliest",
        "partition.assignment.strategy": "roundrobin",  # by range, the first process would get all small topics
        "session.timeout.ms": session,
        "heartbeat.interval.ms": max(1, session // 10),
        "topic.blacklist": ",".join(left),
        "queued.max.messages.kbytes": AHEAD,
        **system.settings,
    }
    try:
        return Consumer(options)
    except (KafkaException, ValueError, TypeError) as exc:
        raise _wrong(system, exc) from None


def _wrong(system: Cluster, error: Exception) -> ConfigError:
    said = getattr(error.args[0], "str", None) if error.args else None
    return ConfigError(
        f"{system} cannot be connected to as it is declared: {shown(said()) if said else line_of(error)}"
    )


def expressions_of(subjects: Iterable[str]) -> list[str]:
    """Return the regular expressions of topics that patterns stand for."""
    words = {"*": "[^.]+", ">": ".+"}
    return ["^" + r"\.".join(words.get(word, word) for word in one.split(".")) + "$" for one in subjects]


def _escaped(topic: str) -> str:
    return topic.replace(".", r"\.")


def matching(expressions: Sequence[str], topics: Mapping[str, object], system: Cluster) -> list[str]:
    """Return the topics that a bridge listens to."""
    return [
        topic
        for topic in topics
        if topic != system.dead and not topic.startswith("__") and any(re.match(one, topic) for one in expressions)
    ]
