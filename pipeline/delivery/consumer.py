"""(2) What a worker takes from an agent's queue becomes that agent's own Celery task, without another hop."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from time import sleep
from typing import TYPE_CHECKING, Any

from amqp.exceptions import ResourceLocked
from celery.concurrency.solo import TaskPool as SoloPool
from celery.utils.log import get_logger
from celery.utils.threads import bound_open_broker_sockets
from celery.worker.consumer import Consumer
from celery.worker.state import active_requests, maybe_shutdown
from kombu import Connection

from ..agents.agent import Agent
from ..brokers.conflicts import conflict_of
from ..brokers.kinds import PARTS, has_exclusive_queues, kind_of
from ..core.errors import ConfigError, InvalidEvent, LedgerError
from ..core.ids import Seal, delivery_id, derived_id
from ..core.observe import Log
from ..core.routing import reaches
from ..core.times import monotonic
from ..limits.gate import Gate
from .poison import check_event, check_task, said_by_bus
from .process.guarded import guard
from .process.inline import Inline
from .process.pool import keeping_what_was_given
from .process.returns import Returns
from .strays import Told

if TYPE_CHECKING:
    from ..bus import Bus

logger = Log(get_logger(__name__))

#: Seconds that a lost connection may take to be closed.
FAREWELL = 0.1


class AgentConsumer(Consumer):  # type: ignore[misc]  # celery's classes are untyped
    """Celery's consumer, which also understands events; set as `worker_consumer`."""

    bus: Bus
    #: A consumer of the user's own derives from this one; Celery's knows task messages alone.
    reads_events = True
    amqheartbeat: float

    class Blueprint(Consumer.Blueprint):  # type: ignore[misc]  # celery's classes are untyped
        """Celery's steps but native delayed delivery, which would widen every agent's bindings."""

        default_steps = [step for step in Consumer.Blueprint.default_steps if "delayed_delivery" not in step]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Raise SystemExit for a setting that the bus cannot work with, and for the queue (-Q) of an unknown agent."""
        super().__init__(*args, **kwargs)
        self.bus = self.app.pipeline.bus
        try:
            self._own = kind_of(self.conninfo.transport).of_worker(self.bus.settings.broker_timeout)
        except ConfigError as exc:
            raise SystemExit(f"pipeline: {exc}") from exc
        self._bound()
        for setting, wrong in (("task_compression", self.app.conf.task_compression), ("task_protocol", 1)):
            if wrong and self.app.conf[setting] == wrong:
                raise SystemExit(f"{setting} = {wrong!r}: workers of the bus refuse such tasks; remove the setting")
        self._check_results()
        self._queues_by_tag: dict[str, str] = {}
        queues = self.app.amqp.queues
        for name in queues.consume_from:
            agent = self.bus.names.agent_of(name)
            if agent is not None and agent not in self.bus.agents:
                raise SystemExit(f"-Q {name}: {self.bus.agents.unknown(agent)}")
            lacking = agent is None and self.bus.agents.of_task(name)
            if lacking:  # a queue of that name would be another one than the agent's
                raise SystemExit(f"-Q {name}: with the namespace it is -Q {self.bus.names.queue_of(lacking.name)}")
        queues.select_add(self.bus.names.emit_queue())
        self._run_request: Callable[[Any], None] = vars(self)["on_task_request"]
        self.on_task_request = self._admit
        self._returns = Returns(lambda seconds, do: self.call_soon_ack(self.timer.call_after, seconds, do))
        self._told = Told()
        self._gates: dict[str, Gate] = {}
        self._open_gates()

    def _check_results(self) -> None:
        """Raise SystemExit for a join whose members' results would be nowhere."""
        joins = [agent.name for agent in self.bus.agents if agent.members]
        try:
            if joins:
                self.app.backend.ensure_chords_allowed()
        except NotImplementedError:
            raise SystemExit(
                f"join {joins[0]!r} needs its members' results, and result_backend = {self.app.conf.result_backend!r} "
                "keeps none: set one with chords, such as sqlite:///results.db or redis://"
            ) from None

    def _bound(self) -> None:
        """See to it that a broker that falls silent is noticed within `broker_timeout`, whatever the loop does then."""
        if self.amqheartbeat:  # and nobody has switched heartbeats off
            self.amqheartbeat = min(self.amqheartbeat, max(1, int(self.bus.settings.broker_timeout / PARTS)))
        if isinstance(self.pool, SoloPool):  # which runs handlers in the loop
            self.bus.pulse.rests = partial(bool, active_requests)
            if self.amqheartbeat and self.conninfo.supports_heartbeats:
                self.pool.on_apply = Inline(self.pool.on_apply, self._lines, self.amqheartbeat / 2)

    def _lines(self) -> list[Any]:
        """Return the connections on which the broker has to hear from the worker."""
        ours = (self.connection, self.event_dispatcher and self.event_dispatcher.connection)
        return [one.connection for one in ours if one is not None and one.connected]

    def _open_gates(self) -> None:
        self._gates = {
            agent.task_name: Gate(agent.max_concurrent, self._run_request)
            for agent in self.bus.agents
            if agent.max_concurrent
        }

    def _admit(self, request: Any) -> None:
        request.returns = self._returns
        gate = self._gates.get(request.name)
        if gate is None:
            self._run_request(request)
        else:
            gate.enter(request)

    def on_close(self) -> None:
        """Forget what waits when the connection is lost; what still runs leaves its old gate."""
        with keeping_what_was_given(self.pool):
            super().on_close()
        self._returns.forget_waiting()
        for gate in self._gates.values():
            gate.close()
        self._open_gates()

    def start(self) -> None:
        """Run until the worker ends; it ends at once when its name or one of its queues is somebody else's."""
        try:
            self._check_name()
            super().start()
        except self.channel_errors as exc:
            if conflict := conflict_of(exc):
                raise SystemExit(f"pipeline: {conflict}") from exc
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
            raise SystemExit(f"another worker is called {self.hostname}; give each its own name, as in `-n two@%h`")

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

    @property
    def event_dispatcher(self) -> Any:
        """Who sends the worker's events."""
        return self.__dict__.get("event_dispatcher")

    @event_dispatcher.setter
    def event_dispatcher(self, dispatcher: Any) -> None:
        """Let an event that cannot be sent wait for the next connection; Celery would connect again in the loop."""
        if dispatcher is not None:
            send = dispatcher.send
            dispatcher.send = lambda *args, **fields: send(*args, **{**fields, "retry": False})
        self.__dict__["event_dispatcher"] = dispatcher

    def register_with_event_loop(self, hub: Any) -> None:
        """Let the loop note that it turns."""
        super().register_with_event_loop(hub)
        hub.call_repeatedly(1.0, self._beat)

    def _beat(self) -> None:
        self.bus.pulse.at = monotonic()

    def perform_pending_operations(self) -> None:
        """Note that the loop turns which workers on an embedded broker have."""
        self._beat()
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
                bound_open_broker_sockets(connection, FAREWELL)
                with suppress(Exception):
                    connection.collect(socket_timeout=FAREWELL)
        super().on_connection_error_after_connected(exc)

    def _name_is_taken(self, connection: Any) -> bool:
        if not has_exclusive_queues(connection.transport.driver_type):
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

    def call_soon_ack(self, p: Any, *args: Any, **kwargs: Any) -> Any:
        """Ack at once in the event loop's own thread: deferred, the ack waits behind a poll that may sleep."""
        if self.hub and threading.get_ident() == getattr(self.hub, "_loop_thread", None):
            p(*args, **kwargs)
            return p
        return super().call_soon_ack(p, *args, **kwargs)

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        """Set aside what cannot be decoded; Celery would ack it."""
        self.set_aside(message, exc)

    def set_aside(self, message: Any, reason: object) -> None:
        """Reject a message into its queue's dead letters, with a line in the log that says why."""
        logger.error("set aside a message from %s: %s", self.queue_of(message) or "an unknown queue", reason)
        message.reject_log_error(logger, self.connection_errors)

    @property
    def _seal(self) -> Seal | None:
        return self.bus.ledger.seal if self.bus.has_ledger else None

    def _check_sender(self, message: Any, agent: Agent | None) -> None:
        """Take from a task message what only the bus may say, unless it has; refuse what came in by the events' door.

        Who may publish events need not be one who may run tasks.
        """
        headers, exchange = message.headers, (message.delivery_info or {}).get("exchange")
        if exchange == self.bus.names.events.name or (agent is not None and headers["task"] != agent.task_name):
            raise InvalidEvent(f"task {headers['task']!r} was sent where only events are taken")
        if "bus" in headers and self.bus.agents.of_task(headers["task"]):
            headers["bus"] = said_by_bus(headers, message._decoded_cache, self._seal)

    def queue_of(self, message: Any) -> str | None:
        """Return the queue that a message was taken from."""
        info = message.delivery_info or {}
        tag = info.get("consumer_tag")
        if tag is None:  # our Redis and embedded transports address every copy to its queue
            return info.get("routing_key")
        if tag not in self._queues_by_tag and self.task_consumer:
            self._queues_by_tag = {active: queue for queue, active in self.task_consumer._active_tags.items()}
        return self._queues_by_tag.get(tag)

    def update_strategies(self) -> None:
        """Let each task's requests be guarded before Celery makes use of their class."""
        for task in self.app.tasks.values():
            guard(task)
        super().update_strategies()

    def create_task_handler(self, *args: Any, **kwargs: Any) -> Any:
        """Return the callback for every message: events become tasks, tasks are checked, the rest is set aside."""
        run = super().create_task_handler(*args, **kwargs)
        names, limit = self.bus.names, self.bus.settings.max_event_bytes
        agents = {names.queue_of(agent.name): agent for agent in self.bus.agents}

        def on_message(message: Any) -> None:
            queue = self.queue_of(message) or ""
            agent = agents.get(queue)
            try:
                if agent is None or "task" in message.headers:
                    check_task(message)
                    self._check_sender(message, agent)
                else:
                    event = check_event(message, limit, self._seal, agent.name)
                    if not to_task_message(message, event, agent, queue):
                        self._pass_by(message, event, agent)
                        return
            except LedgerError as exc:  # whether the message is ours cannot be said now
                logger.warning("a message goes back to %s after a pause: %s", queue, exc)
                give_back = partial(message.reject_log_error, logger, self.connection_errors, requeue=True)
                self._returns.after_pause(queue, give_back)
                return
            except Exception as exc:  # whatever a stranger's message provokes must not reach the main process
                self.set_aside(message, exc)
                return
            if self._returns.since:
                self._returns.since.pop(queue, None)
            try:
                run(message)
            except self.connection_errors + self.channel_errors:
                raise
            except Exception as exc:  # what Celery records about it may fail, too
                logger.exception("%s", message.headers.get("task"))
                if not message.acknowledged:
                    self.set_aside(message, exc)

        return on_message

    def _pass_by(self, message: Any, event: dict[str, Any], agent: Agent) -> None:
        """Ack an event that is for other agents, with a line in the log: another program has sent it to everybody."""
        level = logging.INFO if self._told.is_new(agent.name, event["targets"]) else logging.DEBUG
        about = agent.name, event["type"], event["id"], event["targets"]
        logger.log(level, "agent %s does not want %s %s: its targets are %s", *about)
        message.ack_log_error(logger, self.connection_errors)


def to_task_message(message: Any, event: dict[str, Any], agent: Agent, queue: str) -> bool:
    """Turn an event's message into a task message of Celery's protocol 2, in place, without decoding the body.

    Celery takes a message without content type as already decoded: the body stays text until the delivery reads it,
    once, in the process that runs the handler. Returns False, and changes nothing, for an event that has targets and
    none of them is the agent.
    """
    bus, targets = event["bus"], event["targets"]
    named = targets and targets.split(",")
    if not reaches(agent.name, agent.patterns, event["type"], named):
        key = message.delivery_info.get("routing_key")
        if not bus and isinstance(key, str) and key != queue and reaches(agent.name, agent.patterns, key, named):
            bus = {"routed": key}  # other programs may choose a routing key that is not the type
        elif targets and "direct" not in bus:  # what was sent to this queue alone is for its agent
            return False
        else:
            bus = {**bus, "stray": True}  # a process of the pool asks who wants it
    id = delivery_id(event["id"], agent.name)
    if "replay" in bus:
        id = derived_id(id, bus["replay"])
    delivery = id
    if "requeued" in bus:  # Celery may remember the delivery's own id as one that was revoked
        id = derived_id(id, f"requeued/{bus['requeued']}")
    message.headers = {
        "lang": "py",
        "task": agent.task_name,
        "id": id,
        "root_id": event.get("correlationid") or event["id"],
        "parent_id": event.get("causationid"),
        "group": None,
        "retries": max(0, bus.get("attempt", 1) - 1),
        "eta": None,
        "expires": None,
        "timelimit": (None, None),
        "argsrepr": f"({event['type']} {event['id']})",
        "kwargsrepr": "{}",
        "ignore_result": True,
        "bus": {**bus, "key": event["id"], "type": event["type"], "delivery": delivery},
    }
    redelivered = (message.delivery_info or {}).get("redelivered", False)
    message.delivery_info = {**message.delivery_info, "exchange": "", "routing_key": queue, "redelivered": redelivered}
    body = message.body
    text = body if isinstance(body, str) else bytes(body).decode("utf-8")
    message.body = message._decoded_cache = ((text,), {}, {})
    message.content_type = message.content_encoding = None
    return True
