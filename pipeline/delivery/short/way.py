"""The short way of an ordinary delivery: claim, handler, record, send, acknowledge.

Whatever does not go well goes on the long way, through Celery, with how far it has come.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from copy import copy
from functools import partial
from typing import Any

from celery import signals
from celery.utils.imports import symbol_by_name
from celery.utils.log import get_logger
from celery.worker import state
from celery.worker.request import create_request_cls
from vine import promise

from ...core.ids import delivery_id, member_id
from ...core.observe import Log
from ..delivery import Begun
from .ordinary import fits, is_ordinary, is_simple
from .runs import Runs, Simple, Taken, is_stopping

logger = Log(get_logger(__name__))

#: Deliveries of a group, at most: that many may run again when their process dies.
MOST = 100
#: Celery's signals about what the short way leaves out.
SIGNALS = (signals.task_received, signals.task_prerun, signals.task_success, signals.task_postrun)


class ShortWay(Runs):
    """Runs what is ordinary among the messages of one connection.

    Arguments:
        consumer: the worker's.
        by_celery: sends a message the long way, or gives its task message to the function that is passed.

    """

    def __init__(self, consumer: Any, by_celery: Callable[..., None]) -> None:
        super().__init__(consumer.bus)
        self._consumer = consumer
        self._events = consumer.event_dispatcher
        self._inline: AbstractContextManager[None] = consumer.inline or nullcontext()
        self._by_celery = by_celery
        self._simple = {simple.queue: simple for simple in self._simple_agents()}

    def _simple_agents(self) -> Iterator[Simple]:
        consumer, app = self._consumer, self._consumer.app
        for agent in self._bus.agents if fits(consumer) else ():
            task = app.tasks[agent.task_name]
            if is_simple(agent, task, app):
                request = create_request_cls(
                    symbol_by_name(task.Request), task, consumer.pool, consumer.hostname, None, app=app
                )
                yield Simple(agent, task, self._bus.names.queue_of(agent.name), request)

    def takes(self, message: Any, event: dict[str, Any], queue: str) -> bool:
        """Deliver an event if it is ordinary, else leave its message as it is."""
        simple = self._simple.get(queue)
        if simple is None:
            return False
        step = event["bus"].get("flow")
        # What id_of() says of what is ordinary: asked there, it would be one more file on the way of each event.
        id = member_id(*step) if step else delivery_id(event["id"], simple.agent.name)
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

    def _end(self, taken: Taken) -> None:
        taken.message.ack_log_error(logger, self._consumer.connection_errors)
        self._count(taken)
        self._tell_of_end(taken)

    def _count(self, taken: Taken) -> None:
        state.total_count[taken.simple.task.name] += 1
        state.all_total_count[0] += 1

    def _go_long(self, taken: Taken, begun: Begun | None) -> None:
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

    def close(self) -> None:
        """Take note that the connection has ended."""


class InBursts(ShortWay):
    """Delivers in groups what has come in one burst.

    Arguments:
        consumer: the worker's.
        by_celery: sends a message the long way, or gives its task message to the function that is passed.
        flush: writes what was acknowledged so far, where that is gathered.
        most: deliveries that wait for the end of their burst.

    """

    def __init__(
        self, consumer: Any, by_celery: Callable[..., None], flush: Callable[[], None] | None, most: int = MOST
    ) -> None:
        super().__init__(consumer, by_celery)
        if flush is not None:
            self._flush = flush  # type: ignore[method-assign]  # the connection's
        self._most = most
        self._waiting: list[Taken] = []

    def takes(self, message: Any, event: dict[str, Any], queue: str) -> bool:
        """Deliver an event if it is ordinary, else what has come before it: then the message goes the long way."""
        ordinary = super().takes(message, event, queue)
        if not ordinary:
            self.run()
        return ordinary

    def _deliver(self, taken: Taken) -> None:
        self._waiting.append(taken)
        if len(self._waiting) >= self._most:
            self.run()

    def run(self) -> None:
        """Deliver what the burst has brought."""
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        with self._inline:
            self._deliver_some(waiting)

    def close(self) -> None:
        """Forget what waits: its connection has ended, and the broker gives it again."""
        self._waiting.clear()
