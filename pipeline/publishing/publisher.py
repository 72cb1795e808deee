"""Room 1: publish an event. One message to the topic exchange, whoever listens; confirmed, and bounded in time."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import socket
from collections import deque
from collections.abc import Iterator, Sequence
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any, NamedTuple

from kombu.exceptions import KombuError, OperationalError

from ..brokers import kinds, topology
from ..core.errors import BrokerUnavailable, ConfigError, EmbeddedBrokerBusy, EmbeddedBrokerError, EventTooLarge
from ..core.event import CONTENT_TYPE, Event

if TYPE_CHECKING:
    from celery import Celery
    from kombu import Connection

    from ..settings import Settings

logger = logging.getLogger(__name__)

#: The socket option of that name, where the system has it.
TCP_USER_TIMEOUT: int | None = getattr(socket, "TCP_USER_TIMEOUT", None)
#: Seconds between two attempts to reach a broker that does not answer.
RECONNECT_INTERVAL = 0.2
#: Idle links that are kept for the next publish.
MAX_IDLE = 10
PERSISTENT = 2


class Encoded(NamedTuple):
    """An event ready for the wire.

    Attributes:
        agent: the only agent whose queue gets it; None for the topic exchange.
        bus: what the worker has to know about this message, beside the event.

    """

    event: Event
    body: bytes
    agent: str | None = None
    bus: dict[str, Any] | None = None

    @property
    def address(self) -> tuple[str, str]:
        """The exchange and the routing key."""
        if self.agent is None:
            return topology.EVENTS, self.event.type
        return topology.AGENTS, topology.QUEUE_PREFIX + self.agent


class Link:
    """A broker connection with one channel on which `events` is declared."""

    def __init__(self, connection: Connection) -> None:
        """Connect; raise what the transport raises when that fails."""
        self.used = False
        self._declared: set[str] = set()
        self.connection = connection
        self.channel = connection.channel()
        self.driver: str = connection.transport.driver_type
        if not hasattr(self.channel, "publish_many"):
            raise ConfigError(f"the bus does not work on {self.driver!r} brokers; use sqlite://, amqp:// or redis://")
        topology.declare_events(self.channel)

    def send(self, batch: Sequence[Encoded], *, confirm: bool, deadline: float) -> None:
        """Publish all events of `batch`, and with `confirm` wait until the broker has them."""
        for agent in {each.agent for each in batch if each.agent} - self._declared:
            # After the broker has lost its data nobody may have declared the queue again.
            topology.agent_queue(agent).declare(channel=self.channel)
            self._declared.add(agent)
        messages = [(self._message(each), *each.address) for each in batch]
        # An idle connection may have died unnoticed: half of the time is left for a new one.
        timeout = max((deadline - monotonic()) * (0.5 if self.used else 1.0), 0.05)
        self.used = True
        self.channel.publish_many(messages, timeout, confirm=confirm)

    def _message(self, encoded: Encoded) -> Any:
        event = encoded.event
        return self.channel.prepare_message(
            encoded.body,
            priority=kinds.wire_priority(event.priority, self.driver),
            content_type=CONTENT_TYPE,
            content_encoding="utf-8",
            headers=wire_headers(event, encoded.bus),
            properties={"delivery_mode": PERSISTENT},
        )

    def close(self) -> None:
        """Close the connection, whatever state it is in: the broker's answer says that it has read everything."""
        try:
            self.connection.close()
        except Exception as exc:
            logger.warning("closing a connection failed, events published without confirms may be lost: %r", exc)


def wire_headers(event: Event, bus: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return what a worker needs to know before it decodes the body."""
    headers: dict[str, Any] = {"id": event.id, "type": event.type, "correlationid": event.correlation_id}
    if event.causation_id:
        headers["causationid"] = event.causation_id
    if event.targets:
        headers["targets"] = ",".join(event.targets)
    if bus:
        headers["bus"] = bus
    return headers


class Publisher:
    """Sends events from any thread of any process; links are opened when needed and used again."""

    def __init__(self, celery: Celery, settings: Settings) -> None:
        """Take the app whose broker is used; connects to nothing yet."""
        self._celery = celery
        self._settings = settings
        self._reset()

    def _reset(self) -> None:
        self._pid = os.getpid()
        if not self._settings.confirm:
            # What is written last would be lost with the process: closing waits until the broker has read it.
            atexit.register(self.close)
        self._idle: deque[Link] = deque()

    def send(self, events: Sequence[Event], *, timeout: float | None = None) -> None:
        """Publish events in order.

        Arguments:
            timeout: seconds until BrokerUnavailable is raised; default the setting `publish_timeout`.

        Raises EventTooLarge or InvalidEvent before anything is sent, and BrokerUnavailable when the broker does not
        take the events in time. After that some of them may have been taken all the same; publishing the same
        events again is safe, because their ids stay.

        """
        self.send_encoded([self.encode(event) for event in events], timeout=timeout)

    def deliver(
        self, agent: str, items: Sequence[tuple[Event, dict[str, Any]]], *, timeout: float | None = None
    ) -> None:
        """Send events to one agent's queue; nobody else gets them.

        Arguments:
            items: events, each with what the worker has to know: {"attempt": n}, or {"replay": id, "broadcast": bool}.

        Raises as send() does.

        """
        batch = [self.encode(event)._replace(agent=agent, bus={**bus, "direct": True}) for event, bus in items]
        self.send_encoded(batch, timeout=timeout)

    def send_encoded(self, batch: Sequence[Encoded], *, timeout: float | None = None, patient: bool = True) -> None:
        """Send what is encoded; with `patient` a broker that refuses is tried until `timeout`, else once more."""
        limit = self._settings.publish_timeout if timeout is None else timeout
        deadline = monotonic() + limit
        tries = 0
        while batch:
            tries += 1
            try:
                with self._link(deadline) as link:
                    link.send(batch, confirm=self._settings.confirm, deadline=deadline)
                return
            except self.recoverable as exc:
                hopeless = isinstance(exc, EmbeddedBrokerError) and not isinstance(exc, EmbeddedBrokerBusy)
                hopeless = hopeless or (tries > 1 and not patient)
                if hopeless or monotonic() + RECONNECT_INTERVAL >= deadline:
                    raise self._unavailable("" if hopeless else f" within {limit:g} s", exc) from exc
                sleep(RECONNECT_INTERVAL)

    def encode(self, event: Event) -> Encoded:
        """Return the event ready for the wire; raise EventTooLarge or InvalidEvent."""
        body = event.encode()
        limit = self._settings.max_event_bytes
        if len(body) > limit:
            raise EventTooLarge(
                f"data: event {event.type!r} takes {len(body):,} bytes, the limit is {limit:,}; "
                "put large content elsewhere and publish its address, or raise PIPELINE_MAX_EVENT_BYTES"
            )
        return Encoded(event, body)

    @contextlib.contextmanager
    def channel(self) -> Iterator[Any]:
        """Lend a link's channel to somebody who looks at queues; the broker has to answer within `publish_timeout`."""
        with self._link(monotonic() + self._settings.publish_timeout) as link:
            yield link.channel

    @contextlib.contextmanager
    def _link(self, deadline: float) -> Iterator[Link]:
        """Lend an idle link or a new one; a link that failed is closed, and its idle siblings with it."""
        self._leave_inherited()
        link = self._take() or self._connect(deadline)
        try:
            yield link
        except BaseException:
            link.close()
            self.close()
            raise
        if len(self._idle) < MAX_IDLE:
            self._idle.append(link)
        else:
            link.close()

    def _take(self) -> Link | None:
        try:
            return self._idle.pop()
        except IndexError:
            return None

    def _connect(self, deadline: float) -> Link:
        left = max(deadline - monotonic(), 0.05)
        # Without these a broker that is stopped, not gone, would hold the caller for ever.
        bounds = {
            "amqp": {
                "read_timeout": left,
                "write_timeout": left,
                # py-amqp lets the kernel drop a connection on which the broker has read nothing for one second.
                "socket_settings": {TCP_USER_TIMEOUT: int(max(left, 10) * 1000)} if TCP_USER_TIMEOUT else {},
            },
            "redis": {"socket_timeout": left, "socket_connect_timeout": left},
        }
        driver = self._celery.connection_for_write().transport.driver_type
        connection = self._celery.connection_for_write(connect_timeout=left, transport_options=bounds.get(driver, {}))
        try:
            connection.ensure_connection(max_retries=1, interval_start=0, interval_step=0, interval_max=0)
            return Link(connection)
        except BaseException:
            with contextlib.suppress(Exception):
                connection.close()
            raise

    @property
    def recoverable(self) -> tuple[type[BaseException], ...]:
        """The errors of a broker that is away or refuses."""
        connection = self._celery.connection_for_write()
        own = (OperationalError, KombuError, EmbeddedBrokerError, OSError)
        return (*own, *connection.connection_errors, *connection.channel_errors)

    def _unavailable(self, within: str, exc: BaseException) -> BrokerUnavailable:
        url = self._celery.connection_for_write().as_uri()
        return BrokerUnavailable(
            f"the broker {url} did not take the event{within} ({type(exc).__name__}: {exc}); "
            "start it or set PIPELINE_BROKER_URL, and run `pipeline doctor` to see what is wrong"
        )

    def _leave_inherited(self) -> None:
        """After a fork leave the parent's links alone."""
        if self._pid != os.getpid():
            _inherited.append(self._idle)
            self._reset()

    def close(self) -> None:
        """Close all idle links."""
        self._leave_inherited()
        while link := self._take():
            link.close()


#: Links that came with a fork; closing or collecting them here would disturb the parent's sockets.
_inherited: list[deque[Link]] = []
