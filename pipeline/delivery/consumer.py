"""Room 2: what a worker takes from an agent's queue becomes that agent's own Celery task, without another hop."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from amqp.exceptions import ResourceLocked
from billiard.einfo import ExceptionInfo
from billiard.exceptions import Terminated, TimeLimitExceeded, WorkerLostError
from celery.exceptions import Ignore, Reject, Retry
from celery.utils.log import get_logger
from celery.worker.consumer import Consumer
from celery.worker.request import Request
from celery.worker.state import task_ready

from ..agents.agent import Agent
from ..brokers import topology
from ..core.ids import delivery_id, derived_id
from ..limits.gate import Gate
from .poison import check_event, check_task
from .task import NotAnEventError

if TYPE_CHECKING:
    from ..app.app import Pipeline

logger = get_logger(__name__)


class DeliveryRequest(Request):  # type: ignore[misc]  # celery's classes are untyped
    """A delivery in the worker's main process: a hard time limit counts as a failed attempt, not as the end."""

    gate: Gate | None = None

    def acknowledge(self) -> None:
        """Acknowledge, and let the next delivery of the agent in."""
        was = self.acknowledged
        super().acknowledge()
        if self.gate and not was:
            self.gate.leave()

    def reject(self, requeue: bool = False) -> None:
        """Reject, and let the next delivery of the agent in."""
        was = self.acknowledged
        super().reject(requeue)
        if self.gate and not was:
            self.gate.leave()

    def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> None:
        """After a hard time limit try again, on this agent's queue only, or set aside after the last attempt."""
        if self.task.pipeline.has_ledger:
            if self._settle(exc_info):
                return
        elif isinstance(exc_info.exception, TimeLimitExceeded):
            if self._context.retries < self.task.max_retries and self._retry_worker_lost(exc_info.exception, exc_info):
                return
            self.reject(requeue=False)  # before Celery, which would requeue it for ever
        super().on_failure(exc_info, send_failed_event, return_ok)

    def _settle(self, exc_info: Any) -> bool:
        """With a ledger: record an attempt whose process died, and ack what is recorded; say whether that was all."""
        error = getattr(exc_info.exception, "exc", exc_info.exception)  # billiard wraps what it has pickled
        cancelled = isinstance(error, SystemExit | KeyboardInterrupt) and (
            self._already_cancelled or self._already_revoked
        )
        if cancelled or isinstance(error, (Reject, Ignore, Retry, Terminated, NotAnEventError)):
            return False
        if isinstance(error, (TimeLimitExceeded, WorkerLostError, SystemExit, KeyboardInterrupt)):
            try:
                outcome = self.task.process_died(self.args[0], self._context, error)
            except Reject:
                task_ready(self)
                self.reject(requeue=True)
                return True
            except Exception as exc:  # the ledger is away, or the event unreadable: the broker keeps the message
                logger.error("%s[%s]: %r could not be recorded: %s", self.name, self.id, error, exc)
                self.reject(requeue=not isinstance(exc, NotAnEventError))
                return True
            if isinstance(outcome, Retry):
                task_ready(self)
                self.on_retry(raised(outcome))
                return True
        self.acknowledge()  # the ledger keeps the dead letter
        return isinstance(error, MemoryError)

    def _announce_revoked(self, reason: str, terminated: bool, signum: Any, expired: bool) -> None:
        """Record that an operator has revoked the delivery, before Celery acks it."""
        if self.task.pipeline.has_ledger:
            try:
                self.task.revoked(self.args[0], self._context, reason)
            except Exception as exc:
                logger.error("%s[%s]: that it was revoked could not be recorded: %s", self.name, self.id, exc)
        super()._announce_revoked(reason, terminated, signum, expired)

    def on_timeout(self, soft: bool, timeout: float) -> None:
        """Report a time limit; the pool has called on_failure() before, which decided what follows."""
        if self.task.pipeline.has_ledger and not soft:
            logger.error("%s[%s] was killed after %g s", self.name, self.id, timeout)
        elif soft or self._context.retries >= self.task.max_retries:
            super().on_timeout(soft, timeout)
        else:
            logger.warning("%s[%s] was killed after %g s and is tried again", self.name, self.id, timeout)


def raised(exc: BaseException) -> Any:
    """Return an exception as Celery passes it on; billiard makes nothing of one that has no traceback."""
    try:
        raise exc
    except BaseException:
        return ExceptionInfo()


class AgentConsumer(Consumer):  # type: ignore[misc]  # celery's classes are untyped
    """Celery's consumer, which also understands events; set as `worker_consumer`."""

    pipeline: Pipeline

    class Blueprint(Consumer.Blueprint):  # type: ignore[misc]  # celery's classes are untyped
        """Celery's steps but native delayed delivery, which would widen every agent's bindings."""

        default_steps = [step for step in Consumer.Blueprint.default_steps if "delayed_delivery" not in step]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Find the bus that belongs to the worker's app and the agents whose queues are consumed."""
        super().__init__(*args, **kwargs)
        self.pipeline = self.app.pipeline
        for setting, wrong in (("task_compression", self.app.conf.task_compression), ("task_protocol", 1)):
            if wrong and self.app.conf[setting] == wrong:
                raise SystemExit(f"{setting} = {wrong!r}: workers of the bus refuse such tasks; remove the setting")
        self._queues_by_tag: dict[str, str] = {}
        queues = self.app.amqp.queues
        for name in queues.consume_from:
            agent = topology.agent_of(name)
            if agent is not None and agent not in self.pipeline.agents:
                raise SystemExit(f"-Q {name}: {self.pipeline.agents.unknown(agent)}")
        queues.select_add(topology.emit_queue())
        self._run_request: Callable[[Any], None] = vars(self)["on_task_request"]
        self.on_task_request = self._admit
        self._gates: dict[str, Gate] = {}
        self._open_gates()

    def _open_gates(self) -> None:
        limited = [agent for agent in self.pipeline.agents if agent.max_concurrent]
        self._gates = {
            topology.QUEUE_PREFIX + agent.name: Gate(agent.max_concurrent or 0, self._run_request) for agent in limited
        }

    def _admit(self, request: Any) -> None:
        gate = self._gates.get(request.name)
        if gate is None:
            self._run_request(request)
        else:
            gate.enter(request)

    def on_close(self) -> None:
        """Forget what waits when the connection is lost; what still runs leaves its old gate."""
        super().on_close()
        for gate in self._gates.values():
            gate.close()
        self._open_gates()

    def start(self) -> None:
        """Run until the worker ends; refuse a node name that another worker has, instead of stealing its commands."""
        with self.app.connection_for_read() as connection:
            self.ensure_connected(connection)
            if self._name_is_taken(connection):
                raise SystemExit(f"another worker is called {self.hostname}; give each its own name, as in `-n two@%h`")
        super().start()

    def _name_is_taken(self, connection: Any) -> bool:
        if connection.transport.driver_type == "redis":
            # Redis has no exclusive queues, so the name's owner is asked: on a connection that is closed afterwards. A
            # pooled one would stay open beside the worker's event loop, which then misses what new pool processes say.
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

    def queue_of(self, message: Any) -> str | None:
        """Return the queue that a message was taken from."""
        info = message.delivery_info or {}
        tag = info.get("consumer_tag")
        if tag is None:  # our Redis and embedded transports address every copy to its queue
            return info.get("routing_key")
        if tag not in self._queues_by_tag and self.task_consumer:
            self._queues_by_tag = {known: queue for queue, known in self.task_consumer._active_tags.items()}
        return self._queues_by_tag.get(tag)

    def create_task_handler(self, *args: Any, **kwargs: Any) -> Any:
        """Return the callback for every message: events become tasks, tasks are checked, the rest is set aside."""
        run = super().create_task_handler(*args, **kwargs)
        agents, limit = self.pipeline.agents, self.pipeline.settings.max_event_bytes

        def on_message(message: Any) -> None:
            queue = self.queue_of(message)
            name = queue and topology.agent_of(queue)
            try:
                if not name or "task" in message.headers:
                    check_task(message)
                else:
                    event = check_event(message, limit)
                    agent = agents[name]
                    # What was sent to this queue alone is for its agent, whatever the patterns say now.
                    if "direct" not in event["bus"] and not is_for(agent, event):
                        message.ack_log_error(logger, self.connection_errors)
                        return
                    to_task_message(message, event, agent, str(queue))
            except Exception as exc:  # whatever a stranger's message provokes must not reach the main process
                self.set_aside(message, exc)
                return
            run(message)

        return on_message


def is_for(agent: Agent, event: dict[str, Any]) -> bool:
    """Say whether the agent wants the event: targets name it, or a pattern matches (old bindings may linger)."""
    targets = event.get("targets")
    if targets:
        return agent.name in targets.split(",")
    return agent.matches(event["type"])


def to_task_message(message: Any, event: dict[str, Any], agent: Agent, queue: str) -> None:
    """Turn an event's message into a task message of Celery's protocol 2, in place, without decoding the body.

    Celery takes a message without content type as already decoded: the body stays text until the delivery reads it,
    once, in the process that runs the handler.
    """
    bus = event.get("bus") or {}
    id = delivery_id(event["id"], agent.name)
    if "replay" in bus:
        id = derived_id(id, bus["replay"])
    task = topology.QUEUE_PREFIX + agent.name
    message.headers = {
        "lang": "py",
        "task": task,
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
        "bus": bus,
    }
    redelivered = (message.delivery_info or {}).get("redelivered", False)
    message.delivery_info = {**message.delivery_info, "exchange": "", "routing_key": queue, "redelivered": redelivered}
    body = message.body
    text = body if isinstance(body, str) else bytes(body).decode("utf-8")
    message.body = message._decoded_cache = ((text,), {}, {})
    message.content_type = message.content_encoding = None
