"""The short way of an ordinary delivery: claim, handler, record, send, acknowledge.

Whatever does not go well goes on the long way, through Celery, with how far it has come.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from copy import copy
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from celery import signals
from celery._state import _task_stack as tasks
from celery.app.trace import LOG_RECEIVED, LOG_SUCCESS
from celery.app.trace import logger as tracer
from celery.utils.imports import symbol_by_name
from celery.utils.log import get_logger
from celery.worker import state
from celery.worker.request import create_request_cls
from celery.worker.strategy import logger as strategy
from vine import promise

from ...agents.context import Context
from ...agents.payloads import returned_payloads
from ...core.errors import InvalidEvent
from ...core.event import Event
from ...core.ids import delivery_id
from ...core.observe import Log
from ...core.times import monotonic
from ...ledger.deliveries import Delivery
from ..delivery import Begun
from ..steps import Attempt, Done, run
from .ordinary import is_ordinary, is_simple

if TYPE_CHECKING:
    from ...agents.agent import Agent
    from ...bus import Bus

logger = Log(get_logger(__name__))

#: Celery's signals about what the short way leaves out.
SIGNALS = (signals.task_received, signals.task_prerun, signals.task_success, signals.task_postrun)


@dataclass(frozen=True, slots=True)
class Line:
    """An agent whose deliveries may go the short way."""

    agent: Agent
    task: Any
    queue: str
    #: The class of Celery's requests for its task.
    request: Any


@dataclass(frozen=True, slots=True)
class Taken:
    """A message that goes the short way.

    Attributes:
        event: its attributes that routing needs.
        id: the delivery's.

    """

    line: Line
    message: Any
    event: dict[str, Any]
    id: str


class Current:
    """A delivery's task request while its handler runs: Celery's own is made when more than the id is read.

    Attributes:
        id: the delivery's.

    """

    def __init__(self, id: str, make: Callable[[], Any]) -> None:
        self.id = id
        self._make = make

    def __getattr__(self, name: str) -> Any:
        """Return what Celery's own request has."""
        if "_whole" not in vars(self):
            self._whole = self._make()
        return getattr(self._whole, name)


class ShortWay:
    """Runs what is ordinary among the messages of one connection.

    Arguments:
        consumer: the worker's.
        by_celery: sends a message the long way, or gives its task message to the function that is passed.

    """

    def __init__(self, consumer: Any, by_celery: Callable[..., None]) -> None:
        self._consumer = consumer
        self._events = consumer.event_dispatcher
        self._inline: AbstractContextManager[None] = consumer.inline or nullcontext()
        self._by_celery = by_celery
        self._bus: Bus = consumer.bus
        self._lines = {line.queue: line for line in self._simple_lines()}
        self._tells = strategy.isEnabledFor(logging.INFO)

    def _simple_lines(self) -> Iterator[Line]:
        consumer, app = self._consumer, self._consumer.app
        for agent in self._bus.agents:
            task = app.tasks[agent.task_name]
            if is_simple(agent, task, consumer.pool, app):
                request = create_request_cls(
                    symbol_by_name(task.Request), task, consumer.pool, consumer.hostname, None, app=app
                )
                yield Line(agent, task, self._bus.names.queue_of(agent.name), request)

    def takes(self, message: Any, event: dict[str, Any], queue: str) -> bool:
        """Deliver an event if it is ordinary, else leave its message as it is."""
        line = self._lines.get(queue)
        if line is None:
            return False
        id = delivery_id(event["id"], line.agent.name)
        ordinary = is_ordinary(
            line.agent,
            event,
            message.delivery_info,
            message.properties,
            watched=self._is_watched(line.task),
            limited=self._is_limited(line.task),
            revoked=id in state.revoked,
        )
        if ordinary:
            with self._inline:
                self._deliver(Taken(line, message, event, id))
        return ordinary

    def _is_watched(self, task: Any) -> bool:
        for signal in SIGNALS:
            if signal.receivers:
                return True
        events = self._events
        if events and events.enabled and task.send_events and (not events.groups or "task" in events.groups):
            return True
        return bool(self._consumer.on_task_message)

    def _is_limited(self, task: Any) -> bool:
        consumer = self._consumer
        if not consumer._maximum_prefetch_restored:
            return True
        return not consumer.disable_rate_limits and consumer.task_buckets[task.name] is not None

    def _deliver(self, taken: Taken) -> None:
        message, started = taken.message, monotonic()
        if self._tells:
            self._tell_of(taken)
        begun = self._begin(taken)
        if begun is not None and begun.outcome is None:
            begun = self._attempt(taken, begun)
        if begun is None:
            self._by_celery(message, taken.event, taken.line.queue)
        elif begun.outcome is not None:
            self._by_celery(message, taken.event, taken.line.queue, partial(self._go_on, taken, begun))
        else:
            message.ack_log_error(logger, self._consumer.connection_errors)
            state.total_count[taken.line.task.name] += 1
            state.all_total_count[0] += 1
            if self._tells:
                self._tell_of(taken, monotonic() - started)

    def _begin(self, taken: Taken) -> Begun | None:
        """Claim a delivery; return None for what is no attempt to make: Celery's way says so."""
        line, marks = taken.line, taken.event["bus"]
        try:
            body = taken.message.body
            event = Event.decode(body if isinstance(body, str) else bytes(body), taken.event["id"])
            if event.type != taken.event["type"]:
                return None
        except InvalidEvent:
            return None
        delivery = Delivery(
            taken.id, event, line.agent.name, line.task.source, line.agent.retry, logged="ledger" in marks
        )
        try:
            claim = line.task.books.claim(delivery)
        except BaseException as exc:
            return Begun(delivery, 0, exc)
        return Begun(delivery, claim.attempt) if claim.attempt else None

    def _attempt(self, taken: Taken, begun: Begun) -> Begun:
        """Run the handler and record its success; return how far that came."""
        line, delivery = taken.line, begun.delivery
        agent, task, books = line.agent, line.task, line.task.books
        context = Context(
            delivery.event, agent.name, delivery.id, begun.attempt, delivery.source, agent.priority, ledger=books.ledger
        )
        tasks.push(task)
        task.request_stack.push(Current(delivery.id, partial(self._request, taken)))
        try:
            result = run(Attempt(self._bus, agent, context))
            if not isinstance(result, Done):
                return Begun(delivery, begun.attempt, result)
            for payload in returned_payloads(agent.name, result.value):
                context.publish(payload)
            effects, session = context.end(), context.opened_session
            emitted = books.succeed(delivery, begun.attempt, effects, None, session)
            if session is not None:
                context.close()  # it holds SQLite's write lock, which noting what was sent waits for
            if emitted:
                books.send(emitted)
        except BaseException as exc:
            with suppress(Exception):  # what cannot be rolled back cannot be recorded either
                context.close()
            return Begun(delivery, begun.attempt, exc)
        finally:
            tasks.pop()
            task.request_stack.pop()
        return begun

    def _go_on(self, taken: Taken, begun: Begun, message: Any) -> None:
        """Let Celery see what has begun: it is neither received nor claimed again."""
        message.headers["begun"] = begun
        request = self._made(taken, message)
        state.task_reserved(request)
        self._consumer.on_task_request(request)

    def _made(self, taken: Taken, message: Any) -> Any:
        consumer = self._consumer
        settle = partial(
            promise, consumer.call_soon_ack, on_error=consumer._restore_prefetch_count_after_connection_restart
        )
        return taken.line.request(
            message,
            on_ack=settle((message.ack_log_error,)),
            on_reject=settle((message.reject_log_error,)),
            app=consumer.app,
            hostname=consumer.hostname,
            task=taken.line.task,
            eventer=self._events,
            connection_errors=consumer.connection_errors,
            body=message.body,
            headers=message.headers,
        )

    def _request(self, taken: Taken) -> Any:
        """Return the request that Celery would have made, for a handler that reads it."""
        made: list[Any] = []
        self._by_celery(
            copy(taken.message), taken.event, taken.line.queue, lambda message: made.append(self._made(taken, message))
        )
        request = made[0]._context
        request.called_directly = False
        return request

    def _tell_of(self, taken: Taken, runtime: float | None = None) -> None:
        """Write Celery's line that a task was received, or that it has succeeded."""
        about = {
            "id": taken.id,
            "name": taken.line.task.name,
            "args": f"({taken.event['type']} {taken.event['id']})",
            "kwargs": "{}",
        }
        if runtime is None:
            about["eta"] = None
            strategy.info(LOG_RECEIVED, about, extra={"data": about})
        else:
            about |= {"return_value": "None", "runtime": runtime}
            tracer.info(LOG_SUCCESS, about, extra={"data": about})
