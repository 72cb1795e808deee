"""The short way of an ordinary delivery: claim, handler, record, send, acknowledge.

Whatever does not go well goes on the long way, through Celery, with how far it has come.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from copy import copy
from dataclasses import dataclass, field
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
from ...core.event import Event
from ...core.ids import delivery_id
from ...core.observe import Log
from ...core.times import Pace, monotonic
from ...ledger.deliveries import Claim, Delivery
from ..delivery import Begun, Ended
from ..steps import Attempt, Done, Result, run
from .ordinary import is_ordinary, is_simple

if TYPE_CHECKING:
    from ...agents.agent import Agent
    from ...bus import Bus

logger = Log(get_logger(__name__))

#: Celery's signals about what the short way leaves out.
SIGNALS = (signals.task_received, signals.task_prerun, signals.task_success, signals.task_postrun)


@dataclass(slots=True)
class Simple:
    """An agent whose deliveries may go the short way.

    Attributes:
        request: the class of Celery's requests for its task.
        pace: how long its handler takes.

    """

    agent: Agent
    task: Any
    queue: str
    request: Any
    pace: Pace = field(default_factory=Pace)


@dataclass(slots=True)
class Taken:
    """A message that goes the short way.

    Attributes:
        event: its attributes that routing needs.
        id: the delivery's.
        started: when its handler was called.
        request: Celery's own, where remote control may look for it.

    """

    simple: Simple
    message: Any
    event: dict[str, Any]
    id: str
    started: float = 0.0
    request: Any = None

    @property
    def goes_with_others(self) -> bool:
        """Whether it may be claimed together with others: one that ends the process costs each of them an attempt."""
        return self.simple.pace.is_quick and self.simple.agent.retry.max > 0


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
            self._whole = self._make()._context
            self._whole.called_directly = False
        return getattr(self._whole, name)


class Shown:
    """What Celery shows as the task that runs; its stacks are left alone while deliveries of one agent follow."""

    def __init__(self) -> None:
        self._task: Any = None

    def show(self, task: Any, request: Current) -> None:
        """Let a task be the current one, with its request."""
        if task is self._task:
            task.request_stack.stack[-1] = request
            return
        self.hide()
        tasks.push(task)
        task.request_stack.push(request)
        self._task = task

    def hide(self) -> None:
        """Let no task be the current one."""
        if self._task is not None:
            tasks.pop()
            self._task.request_stack.pop()
            self._task = None


def is_stopping() -> bool:
    """Say whether the worker was told to end."""
    return any(told is not None and told is not False for told in (state.should_stop, state.should_terminate))


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
        self._simple = {simple.queue: simple for simple in self._simple_agents()}
        self._shown = Shown()
        self._tells = strategy.isEnabledFor(logging.INFO)

    def _simple_agents(self) -> Iterator[Simple]:
        consumer, app = self._consumer, self._consumer.app
        for agent in self._bus.agents:
            task = app.tasks[agent.task_name]
            if is_simple(agent, task, consumer.pool, app):
                request = create_request_cls(
                    symbol_by_name(task.Request), task, consumer.pool, consumer.hostname, None, app=app
                )
                yield Simple(agent, task, self._bus.names.queue_of(agent.name), request)

    def takes(self, message: Any, event: dict[str, Any], queue: str) -> bool:
        """Deliver an event if it is ordinary, else leave its message as it is."""
        simple = self._simple.get(queue)
        if simple is None:
            return False
        id = delivery_id(event["id"], simple.agent.name)
        ordinary = is_ordinary(
            simple.agent,
            event,
            message.delivery_info,
            message.properties,
            watched=self._is_watched(simple.task),
            limited=self._is_limited(simple.task),
            revoked=id in state.revoked,
        )
        if ordinary and not is_stopping():  # what a worker has not begun when it ends, the broker has again
            taken = Taken(simple, message, event, id)
            if self._tells:
                self._tell_of(taken)
            self._deliver(taken)
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
        with self._inline:
            self._deliver_alone(taken)

    def _deliver_alone(self, taken: Taken) -> None:
        delivery = self._delivery(taken)
        if delivery is None:
            self._lengthen(taken)
            return
        claim: Claim | BaseException
        try:
            claim = taken.simple.task.books.claim(delivery)
        except BaseException as exc:
            claim = exc
        self._go(taken, delivery, claim)

    def _delivery(self, taken: Taken) -> Delivery | None:
        """Return what a message says about its delivery; None when it holds no event, or another one than it says."""
        simple, marks, body = taken.simple, taken.event["bus"], taken.message.body
        try:
            event = Event.decode(body if isinstance(body, str) else bytes(body), taken.event["id"])
        except Exception:  # whatever a stranger's body provokes: the long way says so
            return None
        if event.type != taken.event["type"]:
            return None
        agent = simple.agent
        return Delivery(taken.id, event, agent.name, simple.task.source, agent.retry, logged="ledger" in marks)

    def _go(
        self, taken: Taken, delivery: Delivery, claim: Claim | BaseException, *, later: bool = False
    ) -> Ended | None:
        """Make the attempt that was claimed, and return what is still to be recorded of it.

        Arguments:
            later: whether the caller records it.

        """
        if isinstance(claim, BaseException):
            self._lengthen(taken, Begun(delivery, 0, claim))
        elif not claim.attempt:
            self._lengthen(taken)
        else:
            outcome = self._attempt(taken, delivery, claim.attempt, later=later)
            if isinstance(outcome, Ended):
                return outcome
            if outcome is None:
                self._end(taken)
            else:
                self._lengthen(taken, Begun(delivery, claim.attempt, outcome))
        return None

    def _attempt(
        self, taken: Taken, delivery: Delivery, attempt: int, *, later: bool
    ) -> Ended | Result | BaseException | None:
        """Run the handler and record its success; return what is no success, or not recorded yet."""
        simple = taken.simple
        agent, task, books = simple.agent, simple.task, simple.task.books
        context = Context(
            delivery.event, agent.name, delivery.id, attempt, delivery.source, agent.priority, ledger=books.ledger
        )
        self._shown.show(task, Current(delivery.id, partial(self._request, taken)))
        taken.started = monotonic()
        try:
            try:
                result = run(Attempt(self._bus, agent, context))
            finally:
                simple.pace.took(monotonic() - taken.started)
            if not isinstance(result, Done):
                return result
            for payload in returned_payloads(agent.name, result.value):
                context.publish(payload)
            ended, session = Ended(delivery, attempt, context.end()), context.opened_session
            if later and session is None:
                return ended
            emitted = books.succeed(*ended, session)
            if session is not None:
                context.close()  # it holds SQLite's write lock, which noting what was sent waits for
            if emitted:
                books.send(emitted)
        except BaseException as exc:
            with suppress(Exception):  # what cannot be rolled back cannot be recorded either
                context.close()
            return exc
        finally:
            if not later:
                self._shown.hide()
        return None

    def _end(self, taken: Taken) -> None:
        taken.message.ack_log_error(logger, self._consumer.connection_errors)
        self._count(taken)
        self._tell_of_end(taken)

    def _count(self, taken: Taken) -> None:
        state.total_count[taken.simple.task.name] += 1
        state.all_total_count[0] += 1

    def _tell_of_end(self, taken: Taken) -> None:
        if self._tells:
            self._tell_of(taken, monotonic() - taken.started)

    def _lengthen(self, taken: Taken, begun: Begun | None = None) -> None:
        """Send a delivery the long way, with how far it has come."""
        on_its_way = () if begun is None else (partial(self._go_on, taken, begun),)
        self._by_celery(taken.message, taken.event, taken.simple.queue, *on_its_way)

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
        return taken.simple.request(
            message,
            on_ack=settle((message.ack_log_error,)),
            on_reject=settle((message.reject_log_error,)),
            app=consumer.app,
            hostname=consumer.hostname,
            task=taken.simple.task,
            eventer=self._events,
            connection_errors=consumer.connection_errors,
            body=message.body,
            headers=message.headers,
        )

    def _request(self, taken: Taken) -> Any:
        """Return the request that Celery would have made; None for a message that was set aside then."""
        made: list[Any] = []
        self._by_celery(
            copy(taken.message),
            taken.event,
            taken.simple.queue,
            lambda message: made.append(self._made(taken, message)),
        )
        return made[0] if made else None

    def _tell_of(self, taken: Taken, runtime: float | None = None) -> None:
        """Write Celery's line that a task was received, or that it has succeeded."""
        about = {
            "id": taken.id,
            "name": taken.simple.task.name,
            "args": f"({taken.event['type']} {taken.event['id']})",
            "kwargs": "{}",
        }
        if runtime is None:
            about["eta"] = None
            strategy.info(LOG_RECEIVED, about, extra={"data": about})
        else:
            about |= {"return_value": "None", "runtime": runtime}
            tracer.info(LOG_SUCCESS, about, extra={"data": about})
