"""The Kombu transport over the store, `sqlite:///FILE`: fanout, priorities, dead letters and AMQP's topic rules."""

from __future__ import annotations

import contextlib
from collections import OrderedDict, deque
from collections.abc import Callable
from time import sleep
from typing import Any

import orjson
from amqp.exceptions import ResourceLocked
from amqp.protocol import queue_declare_ok_t
from kombu.exceptions import ChannelError
from kombu.transport import virtual
from kombu.utils.uuid import uuid

from ...core.errors import EmbeddedBrokerBusy
from ...core.times import monotonic, passed
from ..apart import Apart
from ..bell import Bell
from ..compression import RefusesCompression
from ..expiry import note_deadline
from ..urls import parse_url
from .doorbell import Doorbell
from .store import Claimed, Outgoing, Store

#: Seconds between two looks at the file's change counter where nobody can ring, or too many do.
POLL_INTERVAL = 0.01
#: After so many rings within that time a worker is not rung for: what comes is taken together.
BURST = 4
#: The same while a ring is waited for: whoever publishes may die before it rings.
SLEEP_INTERVAL = 0.5
#: Seconds between two searches for processes that died with messages in their hands.
REAP_INTERVAL = 1.0
#: Messages taken at once by a consumer without prefetch limit.
BATCH = 100


class Message(RefusesCompression, virtual.Message):  # type: ignore[misc]  # kombu's classes are untyped
    """A message from the store."""


class QoS(virtual.QoS):  # type: ignore[misc]  # kombu's classes are untyped
    """What a channel has in its hands; acks are buffered and written with the next claim."""

    def __init__(self, channel: Channel, prefetch_count: int = 0) -> None:
        """Start with nothing in hand; the store itself gives messages back when the process dies."""
        self.channel = channel
        self.prefetch_count = prefetch_count or 0
        self._delivered: OrderedDict[int, Any] = OrderedDict()

    def room(self) -> int:
        """Return how many more messages may be taken now."""
        return self.prefetch_count - len(self._delivered) if self.prefetch_count else BATCH

    def can_consume(self) -> bool:
        """Say whether the prefetch limit leaves room for another message."""
        return self.room() > 0

    def append(self, message: Any, delivery_tag: int) -> None:
        """Note that a message was delivered."""
        self._delivered[delivery_tag] = message

    def ack(self, delivery_tag: int) -> None:
        """Let go of a message that is done."""
        if self._delivered.pop(delivery_tag, None) is not None:
            self.channel.store.ack(delivery_tag)
            self.channel.connection.wake()

    def reject(self, delivery_tag: int, requeue: bool = False) -> None:
        """Let go of a message: back to its queue, or to the dead letters."""
        if self._delivered.pop(delivery_tag, None) is not None:
            (self.channel.store.requeue if requeue else self.channel.store.reject)(delivery_tag)
            self.channel.connection.wake()

    def restore_unacked(self) -> list[Any]:
        """Put everything in hand back."""
        while self._delivered:
            self.channel.store.requeue(self._delivered.popitem()[0])
        return []

    def restore_unacked_once(self, stderr: Any = None) -> None:
        """Put everything in hand back when the channel closes."""
        self.restore_unacked()


class Channel(Apart, virtual.Channel):  # type: ignore[misc]  # kombu's classes are untyped
    """AMQP's operations, each one call of the store."""

    Message = Message
    QoS = QoS
    supports_fanout = True
    do_restore = False
    body_encoding = None

    @property
    def store(self) -> Store:
        """The file behind this connection."""
        store: Store = self.connection.store
        return store

    # -- topology

    def exchange_declare(
        self, exchange: str, type: str = "direct", arguments: Any = None, passive: bool = False, **_: Any
    ) -> None:
        """Declare an exchange; with `passive`, raise ChannelError when it is missing."""
        if passive:
            if not self.store.exchange_exists(exchange):
                raise ChannelError(f"NOT_FOUND - no exchange {exchange!r}", (40, 10), "Channel.exchange_declare", "404")
            return
        self.store.declare_exchange(exchange, type or "direct", arguments or {})

    def exchange_delete(self, exchange: str, if_unused: bool = False, nowait: bool = False) -> None:
        """Delete an exchange and its bindings."""
        self.store.delete_exchange(exchange)

    def queue_declare(
        self,
        queue: str | None = None,
        passive: bool = False,
        auto_delete: bool = False,
        exclusive: bool = False,
        arguments: Any = None,
        **_: Any,
    ) -> Any:
        """Declare a queue; with `passive`, raise ChannelError when it is missing."""
        queue = queue or f"amq.gen-{uuid()}"
        if exclusive and self.store.held_by_another(queue):
            raise ResourceLocked(f"queue {queue!r} is exclusive to another process", (50, 10), "Queue.declare", "405")
        if not passive:
            self.store.declare_queue(queue, arguments or {}, auto_delete=bool(auto_delete or exclusive))
        elif not self.store.exists(queue):
            raise ChannelError(f"NOT_FOUND - no queue {queue!r}", (50, 10), "Channel.queue_declare", "404")
        return queue_declare_ok_t(queue, self.store.size(queue), 0)

    def queue_bind(self, queue: str, exchange: str | None = None, routing_key: str = "", **_: Any) -> None:
        """Bind a queue to an exchange."""
        self.store.bind(exchange or "amq.direct", routing_key or "", queue)

    def queue_unbind(self, queue: str, exchange: str | None = None, routing_key: str = "", **_: Any) -> None:
        """Undo a binding."""
        self.store.unbind(exchange or "amq.direct", routing_key or "", queue)

    def queue_delete(self, queue: str, if_unused: bool = False, if_empty: bool = False, **_: Any) -> None:
        """Delete a queue, with `if_empty` only when nothing waits in it."""
        if not (if_empty and self.store.size(queue)):
            self.store.delete_queue(queue)

    def list_bindings(self) -> list[tuple[str, str, str]]:
        """Return all bindings as (queue, exchange, routing key)."""
        return [(queue, exchange, key) for exchange, key, queue in self.store.bindings()]

    def prepare_queue_arguments(self, arguments: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Spell queue options as RabbitMQ does."""
        from kombu.transport.base import to_rabbitmq_queue_arguments

        spelled: dict[str, Any] = to_rabbitmq_queue_arguments(arguments, **kwargs)
        return spelled

    def _size(self, queue: str) -> int:
        return self.store.size(queue)

    def _purge(self, queue: str) -> int:
        return self.store.purge(queue)

    def _has_queue(self, queue: str, **_: Any) -> bool:
        return self.store.exists(queue)

    # -- publishing

    def basic_publish(self, message: dict[str, Any], exchange: str, routing_key: str, **_: Any) -> None:
        """Publish one message; it is in the file when this returns."""
        self.store.publish([self._outgoing(message, exchange, routing_key)])

    def limit(self, deadline: float) -> None:
        """Wait for the file's lock no longer than until the deadline (monotonic time)."""
        self.store.be_patient(max(deadline - monotonic(), 0.001))

    def publish_many(
        self, messages: list[tuple[dict[str, Any], str, str]], deadline: float, *, confirm: bool = True
    ) -> None:
        """Publish (message, exchange, routing key) in one transaction, by the deadline (monotonic time)."""
        self.store.publish((self._outgoing(*message) for message in messages), max(deadline - monotonic(), 0.001))

    @staticmethod
    def _outgoing(message: dict[str, Any], exchange: str, routing_key: str) -> Outgoing:
        body = message.pop("body")
        properties = message["properties"]
        if "expiration" in properties:
            note_deadline(properties)
        # Celery writes exception types and dates into headers now and then; text is what AMQP would carry too.
        meta = orjson.dumps(message, default=str, option=orjson.OPT_NON_STR_KEYS)
        body = body.encode() if isinstance(body, str) else bytes(body)
        return Outgoing(exchange, routing_key, int(properties.get("priority") or 0), meta, body)

    # -- consuming

    def basic_consume(self, queue: str, no_ack: bool, **options: Any) -> None:
        """Consume from a queue."""
        self._no_ack = {**getattr(self, "_no_ack", {}), queue: no_ack}
        super().basic_consume(queue, no_ack=no_ack, **options)
        self.connection.wake()

    def _channel_for(self, queue: str) -> Any:
        return self.connection.create_channel(self.connection)

    def basic_qos(self, prefetch_size: int = 0, prefetch_count: int = 0, apply_global: bool = False) -> None:
        """Change the prefetch limit (messages)."""
        super().basic_qos(prefetch_size, prefetch_count, apply_global)
        self.connection.wake()

    def basic_get(self, queue: str, no_ack: bool = False, **_: Any) -> Any:
        """Take one message, or return None."""
        for claimed in self.store.claim([queue], 1):
            message = self.Message(self._raw(claimed), channel=self)
            if no_ack:
                self.store.ack(claimed.id)
                self.store.settle()
            else:
                self.qos.append(message, claimed.id)
            return message
        return None

    def pump(self) -> bool:
        """Deliver what waits, as far as the prefetch limit allows, and say whether more may be waiting."""
        room = self.qos.room()
        if room <= 0 or not self._active_queues:
            return False
        claimed = self.store.claim(self._active_queues, min(room, BATCH))
        if claimed:  # the queue that was first is last next time: a busy queue does not starve its neighbours
            self._active_queues.append(self._active_queues.pop(0))
        for message in claimed:
            if self._no_ack.get(message.queue):
                self.store.ack(message.id)
            self.connection._deliver(self._raw(message), message.queue)
        return bool(claimed)

    @staticmethod
    def _raw(claimed: Claimed) -> dict[str, Any]:
        raw: dict[str, Any] = orjson.loads(claimed.meta)
        raw["body"] = claimed.body
        # The queue is the whole address: what Celery publishes again concerns this queue alone.
        raw["properties"].update(
            delivery_tag=claimed.id,
            delivery_info={"exchange": "", "routing_key": claimed.queue, "redelivered": claimed.deliveries > 1},
        )
        return raw

    def drain_events(self, timeout: float | None = None, callback: Any = None) -> None:
        """Not used: the transport drains all its channels."""
        raise NotImplementedError("drain the connection, not a channel")


class Transport(virtual.Transport):  # type: ignore[misc]  # kombu's classes are untyped
    """`sqlite:///relative.db`, `sqlite:////absolute.db`, with `?synchronous=full` to survive a power cut."""

    Channel = Channel
    driver_type = "sqlite"
    driver_name = "sqlite3"
    can_parse_url = True
    polling_interval = POLL_INTERVAL
    connection_errors = (EmbeddedBrokerBusy,)
    channel_errors = (ChannelError,)
    implements = virtual.Transport.implements.extend(
        asynchronous=True, exchange_type=frozenset(["direct", "topic", "fanout"])
    )

    def __init__(self, client: Any, **kwargs: Any) -> None:
        super().__init__(client, **kwargs)
        self.store: Store = None  # type: ignore[assignment]  # set by establish_connection
        self._loop: Any = None
        self._timer: Any = None
        self._reaped = 0.0
        self._bell: Bell | None = None
        self._doorbell: Any = None
        self._rings = deque([0.0] * BURST, BURST)
        #: Called, one after the other, when a burst of messages was handed over, even if that has failed.
        self.after_burst: list[Callable[[], object]] = []

    def as_uri(self, uri: str, include_password: bool = False, mask: str = "**") -> str:
        """Return the address; it holds no secrets."""
        return uri

    def driver_version(self) -> str:
        """Return SQLite's version."""
        import sqlite3

        return sqlite3.sqlite_version

    def establish_connection(self) -> Transport:
        """Open the file; raise EmbeddedBrokerError when it is not usable."""
        path, options = parse_url(self.client.hostname)
        self.store = Store(path, **options)
        self.closed = False
        super().establish_connection()
        return self

    def verify_connection(self, connection: Any) -> bool:
        """Say whether the file is open."""
        return self.store is not None and not self.closed

    def close_connection(self, connection: Any) -> None:
        """Give back what is unacknowledged and close the file."""
        self._unregister()
        with contextlib.suppress(EmbeddedBrokerBusy):
            super().close_connection(connection)
        if self.store is not None and not self.closed:
            self.closed = True
            self.store.close()

    _collect = close_connection

    # -- without an event loop: publishers, `inspect`, Flower

    def drain_events(self, connection: Any, timeout: float | None = None, **_: Any) -> None:
        """Wait for messages and deliver them; raise socket.timeout after `timeout` seconds without any."""
        deadline = None if timeout is None else monotonic() + timeout
        while not self._pump_all():
            if deadline is not None and monotonic() >= deadline:
                raise TimeoutError
            sleep(self.polling_interval)
            self._reap_now_and_then()
        self.store.settle()

    def _pump_all(self) -> bool:
        try:
            return any([channel.pump() for channel in tuple(self.channels) if channel._consumers])
        finally:
            for call in tuple(self.after_burst):
                call()

    def _reap_now_and_then(self) -> bool:
        if passed() - self._reaped < REAP_INTERVAL:
            return False
        self._reaped = passed()
        return self.store.reap() > 0

    # -- with the worker's event loop

    def register_with_event_loop(self, connection: Any, loop: Any) -> None:
        """Let the loop drain while there is something to take, and sleep until it is rung for when there is not."""
        self._loop = loop
        self._bell = Bell(loop, self._on_bell)
        self._doorbell = Doorbell(loop, self._on_ring)
        self._look_in(POLL_INTERVAL)
        self.wake()

    def _unregister(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        for one in (self._bell, self._doorbell):
            if one is not None:
                one.close()
        self._bell = self._doorbell = None

    def wake(self) -> None:
        """Make the loop drain at once instead of at the next tick; safe from any thread."""
        if (bell := self._bell) is not None:
            bell.ring()

    def _on_bell(self) -> None:
        if self._pump_all():
            self.wake()  # and let the loop serve others in between
            return
        self.store.settle()
        if not self._doorbell.hears and passed() - self._rings[0] > POLL_INTERVAL:
            self._lie_down()

    def flush(self) -> None:
        """Write what was acknowledged so far, for one who goes on to what may take long."""
        self.store.settle()

    def _on_ring(self) -> None:
        self._rings.append(passed())
        self._look()

    def _look_in(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(seconds, self._look)

    def _look(self) -> None:
        sleeps = self._doorbell.hears
        self._look_in(SLEEP_INTERVAL if sleeps else POLL_INTERVAL)  # first: what fails is tried again
        if self._reap_now_and_then() or self.store.changed():
            if sleeps:  # and nobody has rung: perhaps the pipe was deleted, or the worker taken for dead
                self._doorbell.close()
                self.store.renew()
            self.wake()
        elif not sleeps:
            self._lie_down()

    def _lie_down(self) -> None:
        """Wait until somebody rings, but for what came before anybody could."""
        if self._doorbell.listen(self.store.doorbell):
            self._look_in(SLEEP_INTERVAL)
            if self.store.changed():
                self.wake()
