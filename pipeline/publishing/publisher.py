"""(1) Publish an event: one message to the topic exchange, whoever listens, or one to each target; bounded in time."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import struct
from collections import deque
from collections.abc import Iterator, Sequence
from functools import cached_property
from time import sleep
from typing import TYPE_CHECKING, Any

from kombu.exceptions import KombuError, OperationalError

from ..brokers.conflicts import conflict_of
from ..brokers.kinds import Kind, Objection, kind_of
from ..brokers.topology import Topology
from ..brokers.urls import ESCAPE
from ..core.errors import (
    BrokerUnavailable,
    ConfigError,
    EmbeddedBrokerBusy,
    EmbeddedBrokerError,
    EventRefused,
    UnknownAgent,
    without_passwords,
)
from ..core.event import Encoded, Event
from ..core.ids import Seal
from ..core.observe import Fact, Log, Spans
from ..core.times import monotonic
from .link import Link

if TYPE_CHECKING:
    from celery import Celery

    from ..settings import Settings

logger = Log(logging.getLogger(__name__))

#: Seconds between two attempts to reach a broker that does not answer.
RECONNECT_INTERVAL = 0.2
#: Idle links that are kept for the next publish.
MAX_IDLE = 10


class Publisher:
    """Sends events from any thread of any process; links are opened when needed and used again."""

    def __init__(self, celery: Celery, settings: Settings, names: Topology, spans: Spans | None = None) -> None:
        self._celery = celery
        self._spans = spans or Spans()
        self._settings = settings
        self._names = names
        self._reset()

    @cached_property
    def max_bytes(self) -> int:
        """The largest encoded event that can be sent; raises ConfigError, before anything is written, when none can."""
        kind_of(self._connection().transport)
        return self._settings.max_event_bytes

    def _reset(self) -> None:
        self._pid = os.getpid()
        if not self._settings.confirm:
            # What is written last would be lost with the process: closing waits until the broker has read it.
            atexit.register(self.close)
        self._idle: deque[Link] = deque()

    def deliver(
        self, agent: str, items: Sequence[tuple[Event, dict[str, Any]]], seal: Seal, *, timeout: float | None = None
    ) -> None:
        """Send events to one agent's queue; nobody else gets them.

        Arguments:
            items: events, each with what the worker has to know: {"attempt": n}, or {"replay": id, "broadcast": bool}.
            seal: what signs that.

        Raises as send_encoded() does, and EventTooLarge or InvalidEvent before anything is sent.

        """
        batch = [self.encode(event, {**bus, "direct": True}, seal)._replace(agent=agent) for event, bus in items]
        self.send_encoded(batch, timeout=timeout)

    def send_encoded(
        self,
        batch: Sequence[Encoded],
        *,
        timeout: float | None = None,
        patient: bool = True,
        known: Sequence[str] = (),
    ) -> None:
        """Send what is encoded, in order.

        Arguments:
            timeout: seconds until BrokerUnavailable is raised; default the setting `publish_timeout`.
            patient: whether a broker that refuses is tried until then, instead of once more.
            known: agents whose queues somebody must have declared.

        Raises UnknownAgent or QueueConflict before anything is sent, BrokerUnavailable when the broker does not take
        the events in time, and EventRefused when it is there and will never take one of them. After that some of them
        may have been taken all the same; publishing the same events again is safe, because their ids stay.

        """
        limit = self._settings.publish_timeout if timeout is None else timeout
        deadline = monotonic() + limit
        tries = 0
        while batch:
            tries += 1
            try:
                with self._link(deadline) as link:
                    if known:
                        link.limit(deadline)
                    unknown = [agent for agent in known if not link.knows(agent)]
                    if not unknown:
                        self._send(link, batch, deadline)
            except self.recoverable as exc:
                if conflict := conflict_of(exc):
                    raise conflict from exc
                objection = self.kind.objection(exc)
                if objection is Objection.EVENT:
                    raise self._refused(exc) from exc
                hopeless = isinstance(exc, EmbeddedBrokerError) and not isinstance(exc, EmbeddedBrokerBusy)
                hopeless = hopeless or (tries > 1 and not patient)
                if hopeless or monotonic() + RECONNECT_INTERVAL >= deadline:
                    unavailable = self._unavailable("" if hopeless else f" within {limit:g} s", exc)
                    unavailable.answered = objection is not None
                    raise unavailable from exc
                sleep(RECONNECT_INTERVAL)
            else:
                if unknown:
                    names = ", ".join(map(repr, unknown))
                    raise UnknownAgent(f"targets: no agent is called {names}: no worker on this broker has ever run it")
                return

    def _send(self, link: Link, batch: Sequence[Encoded], deadline: float) -> None:
        try:
            if self._spans.heard:
                with self._spans.span("send", batch=batch):
                    link.send(batch, confirm=self._settings.confirm, deadline=deadline)
            else:
                link.send(batch, confirm=self._settings.confirm, deadline=deadline)
        except (TypeError, ValueError, OverflowError, struct.error) as exc:  # no driver can write it
            raise self._refused(exc) from exc
        if self._spans.count is not None:
            self._spans.count([Fact("published", (encoded.event.type,)) for encoded in batch])

    def encode(self, event: Event, bus: dict[str, Any] | None = None, seal: Seal | None = None) -> Encoded:
        """Return the event ready for the wire; raise EventTooLarge or InvalidEvent.

        Arguments:
            bus: what the worker has to know about the message, beside the event.
            seal: what signs that.

        """
        return event.encoded(self.max_bytes, bus, seal)

    @contextlib.contextmanager
    def channel(self) -> Iterator[Any]:
        """Lend a link's channel to somebody who looks at queues; the broker has to answer within `publish_timeout`."""
        deadline = monotonic() + self._settings.publish_timeout
        with self._link(deadline) as link:
            link.limit(deadline)
            yield link.channel

    @contextlib.contextmanager
    def _link(self, deadline: float) -> Iterator[Link]:
        """Lend an idle link or a new one; one that failed is let go of, and its idle siblings with it."""
        self._leave_inherited()
        link = self._take() or self.connect(deadline)
        try:
            yield link
        except BaseException:
            link.abandon()
            while idle := self._take():
                idle.abandon()
            raise
        if len(self._idle) < MAX_IDLE:
            self._idle.append(link)
        else:
            link.close(deadline)

    def _take(self) -> Link | None:
        try:
            return self._idle.pop()
        except IndexError:
            return None

    def connect(self, deadline: float) -> Link:
        """Return a new link; raise what the transport raises when there is none by the deadline (monotonic time)."""
        connection = self._connection()
        kind, own = self.kind, connection.transport_options
        try:
            for hosts in range(len(connection.alt) or 1, 0, -1):  # each gets its share of the time
                left = max((deadline - monotonic()) / hosts, 0.05)
                connection.connect_timeout = left
                connection.transport_options = {**own, **kind.bounds(left)}
                try:
                    connection.ensure_connection(max_retries=0)
                    return Link(connection, self._names, deadline)
                except self.recoverable:
                    if hosts == 1:
                        raise
                    connection.maybe_switch_next()
            raise AssertionError("there is always a host")
        except BaseException:
            with contextlib.suppress(Exception):
                connection.close()
            raise

    @property
    def recoverable(self) -> tuple[type[BaseException], ...]:
        """The errors of a broker that is away or refuses."""
        connection = self._connection()
        own = (OperationalError, KombuError, EmbeddedBrokerError, OSError)
        return (*own, *connection.connection_errors, *connection.channel_errors)

    def _unavailable(self, within: str, exc: BaseException) -> BrokerUnavailable:
        if isinstance(exc, EmbeddedBrokerError):  # which says what to do
            return BrokerUnavailable(f"the embedded broker did not take the event{within}: {exc}")
        return BrokerUnavailable(
            without_passwords(
                f"the broker {self.address} did not take the event{within} ({type(exc).__name__}: {exc}); "
            )
            + "start it or set PIPELINE_BROKER_URL, and run `pipeline doctor` to see what is wrong"
        )

    def _refused(self, exc: BaseException) -> EventRefused:
        said = f"the broker {self.address} refuses the event for itself ({type(exc).__name__}: {exc}); "
        return EventRefused(without_passwords(said) + "publish less at once, or raise the broker's limit")

    @property
    def kind(self) -> Kind:
        """The kind of the broker; raises ConfigError for one that the bus does not know."""
        return kind_of(self._connection().transport)

    @property
    def address(self) -> str:
        """The broker's URL without its password."""
        return without_passwords(str(self._connection().as_uri()))

    def _connection(self, **options: Any) -> Any:
        """Return a connection that is not open yet; raise ConfigError when the Celery app's broker_url is none."""
        try:
            return self._celery.connection_for_write(**options)
        except (KeyError, TypeError, ValueError):  # which may show a part of the password
            unread = "broker_url of the Celery app cannot be read"
            raise ConfigError(f"{unread}: use a scheme and options that Kombu knows, and {ESCAPE}") from None

    def _leave_inherited(self) -> None:
        """After a fork leave the parent's links alone."""
        if self._pid != os.getpid():
            _inherited.append(self._idle)
            self._reset()

    def close(self) -> None:
        """Close all idle links, within `publish_timeout` seconds."""
        self._leave_inherited()
        deadline = monotonic() + self._settings.publish_timeout
        while link := self._take():
            link.close(deadline)


#: Links that came with a fork; closing or collecting them here would disturb the parent's sockets.
_inherited: list[deque[Link]] = []
