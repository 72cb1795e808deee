"""Redis: Kombu's transport with one address per copy, atomic fan-out, AMQP's topic rules and dead letters."""

from __future__ import annotations

import logging
from collections.abc import Callable
from queue import Empty
from typing import Any

from kombu.exceptions import InconsistencyError
from kombu.transport import virtual
from kombu.transport.virtual.exchange import TopicExchange
from kombu.utils.json import dumps, loads
from kombu.utils.uuid import uuid

from ..core.errors import ConfigError, to_install
from ..core.observe import Log
from ..core.times import monotonic
from ..core.topics import matches
from .apart import Apart
from .compression import RefusesCompression
from .expiry import note_deadline

try:
    import redis  # noqa: F401  # without it Kombu imports its transport all the same
    from kombu.transport import redis as kombu_redis
except ImportError as exc:
    raise ConfigError(f"redis:// needs the package {exc.name}; {to_install('redis')}") from exc

logger = Log(logging.getLogger(__name__))

#: Seconds that a call still gets whose time is up.
LEAST = 0.001


class Message(RefusesCompression, virtual.Message):  # type: ignore[misc]  # kombu's classes are untyped
    """A message from Redis."""


class AmqpTopics(TopicExchange):  # type: ignore[misc]  # kombu's classes are untyped
    """A topic exchange in which `#` stands for zero words too, as in AMQP."""

    def lookup(self, table: Any, exchange: str, routing_key: str, default: str | None) -> set[str]:
        """Return the queues whose binding matches."""
        return {queue for pattern, _, queue in table if matches(pattern, routing_key)}


class QoS(kombu_redis.QoS):  # type: ignore[misc]  # kombu's classes are untyped
    """Acknowledgements in which a rejected message goes to the dead letters."""

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """Put the message back, or move it to its queue's dead letters in one step."""
        if requeue:
            super().reject(delivery_tag, requeue=True)
            return
        message = self._delivered.get(delivery_tag)
        dead = message and self.channel.connection.dead_letters.get(message.delivery_info["routing_key"])
        if not dead:
            super().reject(delivery_tag)
            return
        with self.pipe_or_acquire() as pipe:
            pipe.lpush(dead, dumps(message._raw))
            self._remove_from_indices(delivery_tag, pipe).execute()
        virtual.QoS.ack(self, delivery_tag)

    def restore_unacked(self, client: Any = None) -> Any:
        """Give back what is not acked; what a lost connection held, the visibility timeout gives back."""
        if self.channel.connection.client is None:  # given up: asking it would end the worker
            self._delivered.clear()
            return None
        return super().restore_unacked(client)


class Asked:
    """By when (monotonic time) Redis has to have answered what it is asked; None for within `socket_timeout`."""

    deadline: float | None = None


class Bounded:
    """Mixed into redis-py's connections: what is asked together ends together."""

    asked: Asked
    socket_connect_timeout: float | None
    _sock: Any

    def connect_check_health(self, *args: Any, **kwargs: Any) -> None:
        """Connect within what is left."""
        if self.asked.deadline is not None:
            self.socket_connect_timeout = self._left(self.asked.deadline)
        super().connect_check_health(*args, **kwargs)  # type: ignore[misc]  # a mixin: the class beside it has the method

    def send_packed_command(self, *args: Any, **kwargs: Any) -> None:
        """Send a command whose answer has to come within what is left."""
        if self.asked.deadline is not None and self._sock is not None:
            self._sock.settimeout(self._left(self.asked.deadline))
        super().send_packed_command(*args, **kwargs)  # type: ignore[misc]  # a mixin: the class beside it has the method

    @staticmethod
    def _left(deadline: float) -> float:
        return max(deadline - monotonic(), LEAST)


class Channel(Apart, kombu_redis.Channel):  # type: ignore[misc]  # kombu's classes are untyped
    """A channel on which a copy is its queue's own: set aside when rejected, returned to that queue alone."""

    Message = Message
    QoS = QoS
    exchange_types = {**kombu_redis.Channel.exchange_types, "topic": AmqpTopics}
    #: Every event priority gets a list of its own.
    priority_steps = list(range(10))

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._asked = Asked()
        super().__init__(*args, **kwargs)

    def _channel_for(self, queue: str) -> Any:
        return self.connection.create_channel(self.connection)

    def _new_queue(self, queue: str, auto_delete: bool = False, **kwargs: Any) -> None:
        super()._new_queue(queue, auto_delete=auto_delete, **kwargs)
        arguments = kwargs.get("arguments") or {}
        if "x-dead-letter-routing-key" in arguments:
            self.connection.dead_letters[queue] = arguments["x-dead-letter-routing-key"]
        if "x-max-length" in arguments:
            self.connection.max_lengths[queue] = arguments["x-max-length"]

    def _lookup(self, exchange: str, routing_key: str, default: str | None = None) -> Any:
        """Find the queues; what no binding matches goes to the alternate exchange."""
        queues = super()._lookup(exchange, routing_key, default)
        if queues or not exchange:
            return queues
        declared = self.state.exchanges.get(exchange) or {}
        alternate = (declared.get("arguments") or {}).get("alternate-exchange")
        return super()._lookup(alternate, routing_key, default) if alternate else queues

    def basic_publish(self, message: dict[str, Any], exchange: str, routing_key: str, **kwargs: Any) -> Any:
        """Publish one message: all its copies at once."""
        if kwargs.get("_publish_batch") is not None or self.typeof(exchange).type == "fanout":
            return super().basic_publish(message, exchange, routing_key, **kwargs)
        return self._push([(message, exchange, routing_key)])

    def limit(self, deadline: float) -> None:
        """Let whatever Redis is asked end by the deadline (monotonic time), until another one is set."""
        self._asked.deadline = deadline

    def _connparams(self, asynchronous: bool = False) -> dict[str, Any]:
        options: dict[str, Any] = super()._connparams(asynchronous=asynchronous)
        options["connection_class"] = type("Bounded", (Bounded, options["connection_class"]), {"asked": self._asked})
        return options

    def publish_many(
        self, messages: list[tuple[dict[str, Any], str, str]], deadline: float, *, confirm: bool = True
    ) -> None:
        """Push (message, exchange, routing key) tuples by the deadline (monotonic time); Redis always confirms."""
        self.limit(deadline)
        self._push(messages)

    def _push(self, messages: list[tuple[dict[str, Any], str, str]]) -> None:
        """Push all copies in one MULTI: all of them or none."""
        with self.conn_or_acquire() as client, client.pipeline(transaction=True) as pipe:
            for message, exchange, routing_key in messages:
                self._inplace_augment_message(message, exchange, routing_key)
                if "expiration" in message["properties"]:
                    note_deadline(message["properties"])
                for queue in self._lookup(exchange, routing_key):
                    key = self._q_for_pri(queue, self._get_message_priority(message, reverse=False))
                    pipe.lpush(key, dumps(message))
                    if queue in self.connection.max_lengths:
                        pipe.ltrim(key, 0, self.connection.max_lengths[queue] - 1)
                    if queue in self._expires:
                        pipe.pexpire(key, self._expires[queue])
            pipe.execute()

    def _brpop_read(self, **options: Any) -> bool:
        """Deliver what BRPOP has taken, as Kombu does; set aside what is no message instead of ending the worker."""
        try:
            try:
                answer = self.client.parse_response(self.client.connection, "BRPOP", **options)
            except self.connection_errors:
                self.client.connection.disconnect()
                raise
            if not answer:
                raise Empty
            key, item = answer
            queue = key.decode().rsplit(self.sep, 1)[0]
            self._queue_cycle.rotate(queue)
            message = self._readable(item, queue)
            if message is None:
                self._set_aside(queue, item)
            else:
                virtual.Transport._deliver(self.connection, message, queue)
            return True
        finally:
            self._in_poll = None
            self._flush_brpop_reauth()

    def _readable(self, item: bytes, queue: str) -> dict[str, Any] | None:
        """Return the message in a list's item, or None when it is none that can be delivered."""
        try:
            message = loads(item.decode())
            self.decode_body(message.get("body"), message["properties"].get("body_encoding"))
            if not isinstance(message.get("headers") or {}, dict):
                return None
            return addressed(message, queue)
        except Exception:  # whatever a stranger has pushed must not end the worker
            return None

    def _set_aside(self, queue: str, item: bytes) -> None:
        """Put something that is no message into the queue's dead letters, as the body of one."""
        logger.error("set aside something that is no message from %s: %.200r", queue, item)
        dead = self.connection.dead_letters.get(queue)
        if dead:
            message = self.prepare_message(item, content_type="application/octet-stream", content_encoding="binary")
            self.basic_publish(message, "", dead)

    def _has_queue(self, queue: str, **_: Any) -> bool:
        # Redis keeps no empty lists: a queue in which nothing waits would look as if nobody had declared it.
        return True

    def queue_unbind(self, queue: str, exchange: str = "", routing_key: str = "", **_: Any) -> None:
        """Undo a binding, which Kombu forgets only in this process."""
        self.state.binding_delete(queue, exchange, routing_key)
        bound = self.typeof(exchange).prepare_bind(queue, exchange, routing_key, None)
        member = self.sep.join(part or "" for part in bound)
        with self.conn_or_acquire() as client, client.pipeline() as pipe:
            pipe.srem(self.keyprefix_queue % exchange, member)
            pipe.srem(self.keyprefix_binding_permanent % exchange, member)
            pipe.execute()

    def bindings_of(self, exchange: str) -> list[tuple[str, str, str]]:
        """Return the bindings of an exchange as (routing key, pattern, queue); none for one that nobody has bound."""
        try:
            return list(self.get_table(exchange))
        except InconsistencyError:
            return []

    def _get(self, queue: str, timeout: float | None = None) -> dict[str, Any]:
        return addressed(super()._get(queue), queue)


class Transport(kombu_redis.Transport):  # type: ignore[misc]  # kombu's classes are untyped
    """The transport behind redis:// and rediss://."""

    Channel = Channel

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        #: queue -> where its rejected messages go, and how long it may get; every consumer declares its queues.
        self.dead_letters: dict[str, str] = {}
        self.max_lengths: dict[str, int] = {}
        #: Called, one after the other, when a message was handed over, even if that has failed.
        self.after_burst: list[Callable[[], object]] = []

    def on_readable(self, fileno: int) -> None:
        """Hand over what has come."""
        try:
            super().on_readable(fileno)
        finally:
            self._end_burst()

    def drain_events(self, connection: Any, timeout: float | None = None) -> None:
        """Wait for something, and hand it over; raise TimeoutError when nothing comes within so many seconds."""
        try:
            super().drain_events(connection, timeout)
        finally:
            self._end_burst()

    def _end_burst(self) -> None:
        for call in tuple(self.after_burst):
            call()

    def _deliver(self, message: dict[str, Any], queue: str) -> None:
        super()._deliver(addressed(message, queue), queue)


def addressed(message: dict[str, Any], queue: str) -> dict[str, Any]:
    """Give a copy that was taken from `queue` a delivery tag of its own, and that queue as its only address.

    As published, all copies share one tag, so that one agent's ack deletes another's safety copy; and they name the
    topic exchange, so that what a dead worker held would go to every agent again.
    """
    info = message["properties"].get("delivery_info")
    message["properties"]["delivery_tag"] = uuid()
    message["properties"]["delivery_info"] = {
        "exchange": "",
        "routing_key": queue,
        "redelivered": isinstance(info, dict) and bool(info.get("redelivered")),
    }
    return message
