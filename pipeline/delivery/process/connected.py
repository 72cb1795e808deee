"""The connections of a worker's loop: every wait on them ends, and a loop that hangs is known by it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from time import sleep
from typing import TYPE_CHECKING, Any

from amqp.exceptions import ResourceLocked
from celery.concurrency.solo import TaskPool as SoloPool
from celery.utils.log import get_logger
from celery.worker.consumer import Consumer
from celery.worker.state import maybe_shutdown
from kombu import Connection

from ...brokers.conflicts import conflict_of
from ...brokers.kinds import PARTS, has_exclusive_queues, kind_of
from ...brokers.sockets import bound
from ...core.errors import ConfigError, EmbeddedBrokerBusy, EmbeddedBrokerError
from ...core.observe import Log, ended
from ...core.times import monotonic
from .adopted import Adopted
from .ends import Ends
from .held import EVERY, Held
from .inline import Inline

if TYPE_CHECKING:
    from ...agents.agent import Agent
    from ...bus import Bus

logger = Log(get_logger(__name__))

#: Seconds that a lost connection may take to be closed, and the loop's own, which gives back what it holds.
FAREWELL, LAST_WORDS = 0.1, 5.0


class Connected(Consumer):  # type: ignore[misc]  # celery's classes are untyped
    """Celery's consumer, which notices within `broker_timeout` that its broker is silent, and says that it lives."""

    bus: Bus
    amqheartbeat: float
    #: What stands around handlers that run in the loop; other pools than solo run them elsewhere.
    inline: Inline | None = None
    #: The agents that it runs, by their queues; the step that opens its lane later than it starts.
    handled: dict[str, Agent]
    open_lane: Callable[[], Any] | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Raise SystemExit for a broker that the bus does not know."""
        super().__init__(*args, **kwargs)
        self.bus = self.app.pipeline.bus
        try:
            self._own = kind_of(self.conninfo.transport).of_worker(self.bus.settings.broker_timeout)
        except ConfigError as exc:
            raise ended(logger, f"pipeline: {exc}") from exc
        self._bound()
        self._ends = Ends()
        self._held = Held(self.bus)
        self._adopted = Adopted(self.bus)
        self.loop: Callable[..., None] = self._turning(self.loop)

    def _turning(self, loop: Callable[..., None]) -> Callable[..., None]:
        def turn(*args: Any) -> None:
            with self._ends.turning():
                loop(*args)

        return turn

    def _bound(self) -> None:
        """See to it that a broker that falls silent is noticed within `broker_timeout`, whatever the loop does then."""
        if self.amqheartbeat:  # and nobody has switched heartbeats off
            self.amqheartbeat = min(self.amqheartbeat, max(1, int(self.bus.settings.broker_timeout / PARTS)))
        if isinstance(self.pool, SoloPool):  # which runs handlers in the loop
            beats = self.amqheartbeat and self.conninfo.supports_heartbeats
            self.inline = inline = Inline(self._lines, self.amqheartbeat / 2 if beats else 0)
            self.bus.pulse.rests = lambda: inline.is_busy
            self.pool.on_apply = inline.around(self.pool.on_apply)

    def _lines(self) -> list[Any]:
        """Return the connections on which the broker has to hear from the worker."""
        ours = (self.connection, self.event_dispatcher and self.event_dispatcher.connection)
        return [one.connection for one in ours if one is not None and one.connected]

    def start(self) -> None:
        """Run until the worker ends; it ends at once when its name or one of its queues is somebody else's."""
        try:
            self._check_name()
            super().start()
        except EmbeddedBrokerBusy:
            raise
        except EmbeddedBrokerError as exc:
            raise ended(logger, f"pipeline: {exc}") from exc
        except self.channel_errors as exc:
            if conflict := conflict_of(exc):
                raise ended(logger, f"pipeline: {conflict}") from exc
            raise

    def _check_name(self) -> None:
        """Refuse a node name that another worker has, instead of stealing its commands."""
        while True:
            self._beat()
            try:
                with self.app.connection_for_read(transport_options=self._own) as connection:
                    self.ensure_connected(connection)
                    is_taken = self._name_is_taken(connection)
            except self.connection_errors as exc:
                if self.app.conf.broker_connection_retry_on_startup is False:
                    raise
                self.on_connection_error_before_connected(exc)
                maybe_shutdown()
                sleep(1)
            else:
                break
        if is_taken:
            raise ended(
                logger,
                f"another worker is called {self.hostname}, so this one ends; give each its own name, as in "
                "`-n two@%h`",
            )

    def connection_for_read(self, heartbeat: Any = None) -> Any:
        """Return the connection that the loop reads from."""
        return self.ensure_connected(self.app.connection_for_read(heartbeat=heartbeat, transport_options=self._own))

    def connection_for_write(self, url: Any = None, heartbeat: Any = None) -> Any:
        """Return the connection that the loop sends its events on."""
        connect = self.app.connection_for_write
        return self.ensure_connected(connect(url=url, heartbeat=heartbeat, transport_options=self._own))

    def ensure_connected(self, conn: Any) -> Any:
        """Connect, as often as it takes; the worker lives meanwhile."""
        ensure = conn.ensure_connection

        def ensure_beating(errback: Any, max_retries: Any, callback: Callable[[], None]) -> Any:
            def beat() -> None:
                self._beat()
                callback()

            return ensure(errback, max_retries, callback=beat)

        conn.ensure_connection = ensure_beating
        try:
            return super().ensure_connected(conn)
        finally:
            del conn.ensure_connection

    def register_with_event_loop(self, hub: Any) -> None:
        """Let the loop note that it turns."""
        super().register_with_event_loop(hub)
        self._ends.attend(hub)
        hub.call_repeatedly(1.0, self._beat)
        hub.call_repeatedly(EVERY, self.hold)
        hub.call_repeatedly(EVERY, self.adopt)

    def _beat(self) -> None:
        self.bus.pulse.at = monotonic()

    def hold(self) -> None:
        """Leave the queues alone whose agents are paused."""
        self._held.apply(self)

    def leave_alone(self, queue: str) -> None:
        """Do not begin to consume a queue whose agent is paused."""
        self._held.leave(queue)

    def adopt(self) -> None:
        """Take on the agents that somebody has added to the ledger, and let those go that were removed."""
        self._adopted.apply(self)

    def keep_alive(self) -> None:
        """Let the broker hear that the worker lives, while nobody turns its loop."""
        for line in self._lines():
            with suppress(Exception):
                line.keep_alive()

    def perform_pending_operations(self) -> None:
        """Note that the loop turns which workers on an embedded broker have."""
        self._beat()
        self._ends.between()
        self.hold()
        self.adopt()
        super().perform_pending_operations()

    def stop(self) -> None:
        """Stop taking messages; while handlers still run the worker lives, though nobody turns its loop."""
        self.bus.pulse.rests = partial(bool, True)
        super().stop()

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """Let go of all idle connections: a broker that has fallen silent would not answer a farewell either."""
        if conflict_of(exc):
            raise exc  # connecting again does not mend it
        lost = [self.event_dispatcher and self.event_dispatcher.connection]
        with suppress(Exception):
            lost += [idle for idle in self.app.pool._resource.queue if isinstance(idle, Connection)]
        for connection in lost:
            if connection is not None:
                bound(connection, FAREWELL)
                with suppress(Exception):
                    connection.collect(socket_timeout=FAREWELL)
        bound(self.connection, LAST_WORDS)
        super().on_connection_error_after_connected(exc)

    def _name_is_taken(self, connection: Any) -> bool:
        if not (self.app.conf.control_queue_exclusive and has_exclusive_queues(connection.transport.driver_type)):
            # So the name's owner is asked: on a connection that is closed afterwards. A pooled one would stay open
            # beside the worker's event loop, which then misses what new pool processes say.
            return bool(self.app.control.ping(destination=[self.hostname], timeout=1.0, connection=connection))
        mailbox = self.app.control.mailbox.get_queue(self.hostname)
        try:
            mailbox(connection.default_channel).queue_declare(passive=True)
        except ResourceLocked:
            return True
        except connection.channel_errors:
            return False  # no worker of that name has been here
        return False
