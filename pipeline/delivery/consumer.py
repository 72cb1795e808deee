"""(2) What a worker takes from an agent's queue becomes that agent's own Celery task, without another hop."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

from celery.utils.log import get_logger
from celery.worker.consumer import Consumer
from vine import promise

from ..agents.agent import Agent
from ..core.errors import EventTooLarge, InvalidEvent, LedgerError
from ..core.ids import Seal, derived_id
from ..core.observe import Log, ended
from ..core.routing import reaches
from ..ledger.aside import Bad
from ..limits.gate import Gate
from .delivery import id_of
from .filtered import FilteredOut
from .lane.lane import Lane
from .poison import check_event, check_task, said_by_bus
from .process.connected import Connected
from .process.guarded import guard
from .process.pool import keeping_what_was_given
from .process.returns import Returns
from .process.stops import stop_running
from .short import ShortWay, short_way
from .strays import Told

logger = Log(get_logger(__name__))
TRACE = ("traceparent", "tracestate")  # what Celery's own instrumentation looks for
ANOTHER_LEDGER = (
    "agent %s gets events of a publisher whose ledger is not this worker's (%s): set the same PIPELINE_LEDGER_URL or "
    "PIPELINE_DIRECTORY for both, or neither can trace them or send them again"
)


class AgentConsumer(Connected):
    """Celery's consumer, which also understands events; set as `worker_consumer`."""

    #: A consumer of the user's own derives from this one; Celery's knows task messages alone.
    reads_events = True
    filtered: FilteredOut | None = None

    class Blueprint(Consumer.Blueprint):  # type: ignore[misc]  # celery's classes are untyped
        """Celery's steps but native delayed delivery, which would widen every agent's bindings."""

        default_steps = [step for step in Consumer.Blueprint.default_steps if "delayed_delivery" not in step]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Raise SystemExit for a setting that the bus cannot work with, and for the queue (-Q) of an unknown agent."""
        super().__init__(*args, **kwargs)
        for setting, wrong in (("task_compression", self.app.conf.task_compression), ("task_protocol", 1)):
            if wrong and self.app.conf[setting] == wrong:
                raise ended(logger, f"{setting} = {wrong!r}: workers of the bus refuse such tasks; remove the setting")
        self._check_results()
        self._queues_by_tag: dict[str, str] = {}
        queues = self.app.amqp.queues
        for name in queues.consume_from:
            agent = self.bus.names.agent_of(name)
            if agent is not None and agent not in self.bus.agents:
                raise ended(logger, f"-Q {name}: {self.bus.agents.unknown(agent)}")
            lacking = agent is None and self.bus.agents.of_task(name)
            if lacking:  # a queue of that name would be another one than the agent's
                raise ended(logger, f"-Q {name}: with the namespace it is -Q {self.bus.names.queue_of(lacking.name)}")
        queues.select_add(self.bus.names.emit_queue())
        #: Runs a request in the pool.
        self.run_in_pool: Callable[[Any], None] = vars(self)["on_task_request"]
        self.on_task_request = self._admit
        self.returns = Returns(lambda seconds, do: self.call_soon_ack(self.timer.call_after, seconds, do))
        self.bus.stop_running = lambda stops: self.call_soon_ack(stop_running, self.pool, stops)
        self.bus.slots = max(self.pool.limit or 1, self.controller.max_concurrency or 0)  # the pool does not run yet
        self._told = Told()
        self._acks: deque[Callable[[], Any]] = deque()
        self._gates: dict[str, Gate] = {}
        self.lane: Lane | None = None
        self._short: ShortWay | None = None
        self.open_gates(self.bus.agents)

    def _check_results(self) -> None:
        """Raise SystemExit for a join whose members' results would be nowhere."""
        joins = [agent.name for agent in self.bus.agents if agent.members and not self.bus.has_ledger]
        try:
            if joins:
                self.app.backend.ensure_chords_allowed()
        except NotImplementedError:
            raise ended(
                logger,
                f"join {joins[0]!r} needs its members' results, and result_backend = {self.app.conf.result_backend!r} "
                "keeps none: set one with chords, such as sqlite:///results.db or redis://",
            ) from None

    def enter_lane(self, lane: Lane) -> None:
        """Let async agents run in a lane from now on, hundreds at once, instead of the pool."""
        self.lane = lane
        self.open_gates(agent for agent in self.bus.agents if agent.is_async)

    def in_lane(self, agent: Agent) -> int | None:
        """Return how many of an agent's handlers run at once in the lane; None for those that run in the pool."""
        if self.lane is None or not agent.is_async:
            return None
        return agent.max_concurrent or self.bus.settings.async_concurrency

    def open_gates(self, agents: Iterable[Agent]) -> None:
        """Let so many deliveries of each of some agents run at once as it says."""
        for agent in agents:
            if self.lane is not None and (number := self.in_lane(agent)):
                self._gates[agent.task_name] = Gate(number, self.lane.give)
            elif agent.max_concurrent:
                self._gates[agent.task_name] = Gate(agent.max_concurrent, self.run_in_pool)

    def _admit(self, request: Any) -> None:
        request.returns = self.returns
        gate = self._gates.get(request.name)
        if gate is None:
            self.run_in_pool(request)
        else:
            gate.enter(request)

    def register_with_event_loop(self, hub: Any) -> None:
        """Let the worker's loop hear what the lane says."""
        super().register_with_event_loop(hub)
        if self.lane is not None:
            self.lane.register(hub)

    @property
    def event_dispatcher(self) -> Any:
        """Who sends the worker's events."""
        return self.__dict__.get("event_dispatcher")

    @event_dispatcher.setter
    def event_dispatcher(self, dispatcher: Any) -> None:
        """Let an event that cannot be sent wait for the next connection; Celery would connect again in the loop."""
        if dispatcher is not None:
            send = dispatcher.send

            def send_once(*args: Any, **fields: Any) -> Any:
                if "retry" in fields:
                    fields["retry"] = False
                return send(*args, **fields)

            dispatcher.send = send_once
        self.__dict__["event_dispatcher"] = dispatcher

    def on_close(self) -> None:
        """Forget what waits when the connection is lost; what still runs leaves its old gate."""
        if self._short is not None:
            self._short.close()
        if self.filtered is not None:
            self.filtered.close()
        with keeping_what_was_given(self.pool):
            super().on_close()
        self.returns.forget_waiting()
        for gate in self._gates.values():
            gate.close()
        self._gates = {}
        self.open_gates(self.bus.agents)

    def call_soon_ack(self, p: Any, *args: Any, **kwargs: Any) -> Any:
        """Ack at once in the event loop's own thread: deferred, the ack waits behind a poll that may sleep.

        What other threads have acked since the loop's last turn leaves in one piece.
        """
        if not self.hub:
            return super().call_soon_ack(p, *args, **kwargs)
        if threading.get_ident() == getattr(self.hub, "_loop_thread", None):
            p(*args, **kwargs)
        else:
            self._acks.append(partial(p, *args, **kwargs))
            self.hub.call_soon(self._write_acks)
        return p

    def _write_acks(self) -> None:
        with self.together():
            while self._acks:
                self._acks.popleft()()

    def together(self) -> AbstractContextManager[Any]:
        """Return what lets all that is acked meanwhile leave in one piece, where the connection can do that."""
        connection = self.connection and self.connection._connection  # its property of that name would connect anew
        gathering: AbstractContextManager[Any] = getattr(connection, "together", nullcontext)()
        return gathering

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        """Set aside what cannot be decoded; Celery would ack it."""
        self.set_aside(message, exc)

    def set_aside(self, message: Any, reason: object) -> None:
        """Reject a message into its queue's dead letters, with a line in the log that says why."""
        logger.error("set aside a message from %s: %s", self.queue_of(message) or "an unknown queue", reason)
        message.reject_log_error(logger, self.connection_errors)

    def _ack_soon(self, message: Any) -> None:
        self.call_soon_ack(promise(message.ack_log_error, (logger, self.connection_errors)))

    def _set_aside_soon(self, message: Any, reason: object) -> None:
        self.call_soon_ack(promise(self.set_aside, (message, reason)))

    def _give_up(self, message: Any, agent: Agent, reason: EventTooLarge) -> None:
        """Let the ledger know that a delivery ends here: it would send the event again and again."""
        try:
            event = check_event(message, len(message.body), self._seal, agent.name)
            if "ledger" in event["bus"]:  # a first message has no delivery yet, but the one that is sent after it
                self.bus.ledger.due.refuse([Bad(id_of(event["id"], agent.name, event["bus"]), str(reason))])
        except Exception as exc:
            logger.warning("that %s gives up an event could not be noted: %s", agent.name, exc)

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
            self.remember_tags()
        return self._queues_by_tag.get(tag)

    def remember_tags(self) -> None:
        """Note which queue each consumer takes from; no two of a process have the same tag."""
        self._queues_by_tag |= {active: queue for queue, active in self.task_consumer._active_tags.items()}

    def update_strategies(self) -> None:
        """Let each task's requests be guarded before Celery makes use of their class."""
        for task in self.app.tasks.values():
            guard(task)
        super().update_strategies()

    def create_task_handler(self, *args: Any, **kwargs: Any) -> Any:
        """Return the callback for every message: events become tasks, tasks are checked, the rest is set aside."""
        run = super().create_task_handler(*args, **kwargs)
        agents = self.handled = {self.bus.names.queue_of(agent.name): agent for agent in self.bus.agents}

        def by_celery(message: Any, event: dict[str, Any], queue: str, run: Callable[[Any], Any] = run) -> None:
            self._by_celery(run, message, event, agents[queue], queue)

        self._short = short = short_way(self, by_celery)
        filtered = self.filtered or FilteredOut(self.bus, self._ack_soon, self._set_aside_soon)
        self.filtered = filtered  # its thread outlives a lost connection

        def on_message(message: Any) -> None:
            queue = self.queue_of(message) or ""
            agent = agents.get(queue)
            try:
                event = self._checked(message, agent)
            except LedgerError as exc:  # whether the message is ours cannot be said now
                self._put_off(message, queue, exc)
                return
            except Exception as exc:  # whatever a stranger's message provokes must not reach the main process
                if isinstance(exc, EventTooLarge) and agent is not None:
                    self._give_up(message, agent, exc)
                self.set_aside(message, exc)
                return
            if self.returns.since:
                self.returns.since.pop(queue, None)
            if event is None:
                self._guarded(run, message)
            elif agent is not None and agent.filter is not None and filtered.takes(message, event, agent):
                pass
            elif not short.takes(message, event, queue):
                by_celery(message, event, queue)

        return on_message

    def _checked(self, message: Any, agent: Agent | None) -> dict[str, Any] | None:
        """Return an event's attributes; None for a task. Raises what says why the message is neither."""
        if agent is None or "task" in message.headers:
            check_task(message)
            self._check_sender(message, agent)
            return None
        event = check_event(message, self.bus.settings.max_event_bytes, self._seal, agent.name)
        if not event["bus"]:
            self._mention_another_ledger(message, agent)
        return event

    def _by_celery(
        self, run: Callable[[Any], Any], message: Any, event: dict[str, Any], agent: Agent, queue: str
    ) -> None:
        """Let Celery, or another one that runs task messages, have an event as one."""
        try:
            wanted = to_task_message(message, event, agent, queue)
        except Exception as exc:
            self.set_aside(message, exc)
            return
        if wanted:
            self._guarded(run, message)
        else:
            self._pass_by(message, event, agent)

    def _guarded(self, run: Callable[[Any], Any], message: Any) -> None:
        """Let Celery have a message; what it records about it may fail, too."""
        try:
            run(message)
        except self.connection_errors + self.channel_errors:
            raise
        except Exception as exc:
            logger.exception("%s", message.headers.get("task"))
            if not message.acknowledged:
                self.set_aside(message, exc)

    def _put_off(self, message: Any, queue: str, reason: LedgerError) -> None:
        """Give a message back to its queue after a pause."""
        logger.warning("a message goes back to %s after a pause: %s", queue, reason)
        give_back = partial(message.reject_log_error, logger, self.connection_errors, requeue=True)
        self.returns.after_pause(queue, give_back)

    def _mention_another_ledger(self, message: Any, agent: Agent) -> None:
        """Log now and then that a publisher of the bus has another ledger: each side then knows half of the story."""
        said = message.headers.get("bus")
        theirs = said.get("ledger") if isinstance(said, dict) else None
        if self._seal is None or theirs in (None, self._seal.ledger):
            return
        if self._told.is_new("ledger", str(theirs)):
            logger.warning(ANOTHER_LEDGER, agent.name, self.bus.ledger)

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
    if "flow" not in bus and not reaches(agent.name, agent.patterns, event["type"], named):
        key = message.delivery_info.get("routing_key")
        if not bus and isinstance(key, str) and key != queue and reaches(agent.name, agent.patterns, key, named):
            bus = {"routed": key}  # other programs may choose a routing key that is not the type
        elif targets and "direct" not in bus:  # what was sent to this queue alone is for its agent
            return False
        else:
            bus = {**bus, "stray": True}  # a process of the pool asks who wants it
    traced = {name: text for name in TRACE if isinstance(text := message.headers.get(name), str)}
    message.headers = {**_headers(event, bus, agent), **traced}
    redelivered = (message.delivery_info or {}).get("redelivered", False)
    message.delivery_info = {**message.delivery_info, "exchange": "", "routing_key": queue, "redelivered": redelivered}
    text = body if isinstance(body := message.body, str) else bytes(body).decode("utf-8")
    message.body = message._decoded_cache = ((text,), {}, {})
    message.content_type = message.content_encoding = None
    return True


def _headers(event: dict[str, Any], bus: dict[str, Any], agent: Agent) -> dict[str, Any]:
    """Return the headers of the task that an event becomes, and with them what the delivery has to know about it."""
    id = delivery = id_of(event["id"], agent.name, bus)
    if "requeued" in bus:  # Celery may remember the delivery's own id as one that was revoked
        id = derived_id(id, f"requeued/{bus['requeued']}")
    marks = {**bus, "key": event["id"], "type": event["type"], "delivery": delivery}
    return {
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
        "bus": marks,
        "headers": {"bus": marks},  # what a retry takes along; Celery would look for it among all the others
    }
