"""Room 3: one delivery of one event to one agent, step by step."""

from __future__ import annotations

import random
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import orjson
from celery import Task
from celery.exceptions import Reject
from celery.utils.log import get_task_logger
from pydantic import TypeAdapter, ValidationError

from .agent import Agent, Context, returned_payloads
from .errors import BrokerUnavailable, InvalidEvent
from .event import Event, Payload, explain
from .ids import delivery_id
from .retry import Again, Dead, decide
from .runner import call

if TYPE_CHECKING:
    from .app import Pipeline

logger = get_task_logger(__name__)

#: Seconds between the soft time limit, which a handler may clean up after, and the kill.
HARD_LIMIT_GRACE = 10.0


class DeliveryTask(Task):  # type: ignore[misc]  # celery's classes are untyped
    """The Celery task of one agent: acked when done, set aside when dead, tried again when its process dies."""

    abstract = True
    Request = "pipeline.consumer:DeliveryRequest"
    acks_late = True
    acks_on_failure_or_timeout = False
    #: A pool process that dies counts as an attempt: Celery sends the task again, to this agent's queue only.
    retry_on_worker_lost = True
    store_errors_even_if_ignored = False

    agent: Agent
    pipeline: Pipeline
    #: The CloudEvents source of the events that the agent emits.
    source: str

    def run(self, message: str | dict[str, Any]) -> Any:
        """Deliver one event: as JSON text from the bus, or decoded when Celery's canvas calls the agent."""
        request = self.request
        event = decode(message)
        context = self._context(event, request)
        try:
            result = call(self.agent, arguments(self.agent, event, context), self.pipeline.loop)
            answer = self._collect(context, result, request)
        except Exception as exc:
            raise self._after_failure(context, exc) from exc
        self._flush(context)
        return answer

    def _context(self, event: Event, request: Any) -> Context:
        agent = self.agent
        return Context(
            event=event,
            agent=agent.name,
            # Canvases may choose the task's id, the consumer derived it.
            delivery_id=request.id if request.ignore_result else delivery_id(event.id, agent.name),
            attempt=request.retries + 1,
            source=self.source,
            priority=agent.priority,
        )

    def _collect(self, context: Context, result: Any, request: Any) -> Any:
        """Take what the handler returned: the next events, or for a canvas the result that its chord waits for."""
        if not request.ignore_result:
            return plain(result)
        for payload in returned_payloads(self.agent.name, result):
            context.publish(payload)
        return None

    def _flush(self, context: Context) -> None:
        """Send what the handler emitted; only then the delivery is done."""
        if not context.outgoing:
            return
        try:
            self.pipeline.publisher.send(context.outgoing)
        except BrokerUnavailable as exc:
            # The event goes back to its queue: its own events have fixed ids, so sending them again is harmless.
            raise Reject(exc, requeue=True) from exc

    def _after_failure(self, context: Context, error: Exception) -> BaseException:
        """Return what to raise: Celery's Retry after sending the event to this queue again, or the error itself."""
        decision = decide(self.request.retries, error, self.agent.retry, random.random())
        event = context.event
        match decision:
            case Again(delay):
                logger.warning(
                    "agent %s failed on %s %s (attempt %d), trying again in %.1f s: %r",
                    context.agent, event.type, event.id, context.attempt, delay, error,
                )  # fmt: skip
                return self._again(delay, error)
            case Dead(reason):
                logger.error("agent %s: %s %s is dead (%s): %r", context.agent, event.type, event.id, reason, error)
                return error

    def _again(self, delay: float, error: Exception) -> BaseException:
        try:
            outcome: BaseException = self.retry(exc=error, countdown=delay, max_retries=None, throw=False)
        except Reject as exc:
            # Celery drops a retry that it cannot publish; back in the queue it is merely early.
            outcome = Reject(exc.reason, requeue=True)
        return outcome


def decode(message: str | dict[str, Any]) -> Event:
    """Return the event that a task was called with; raise InvalidEvent when it is none."""
    if isinstance(message, Event):
        return message
    return Event.decode(message if isinstance(message, str) else orjson.dumps(message))


def arguments(agent: Agent, event: Event, context: Context) -> tuple[Any, ...]:
    """Return the handler's arguments: the payload, the data or the event, and the context if it takes one."""
    first = event if agent.wants_event else payload_of(agent, event)
    return (first, context) if agent.wants_context else (first,)


def payload_of(agent: Agent, event: Event) -> Any:
    """Validate the event's data into the agent's payload class; raise InvalidEvent that names the wrong field."""
    if agent.payload is None:
        return event.data
    try:
        return _validator(agent.payload).validate_python(event.data)
    except ValidationError as exc:
        raise InvalidEvent(explain(exc, f"{event.type} for agent {agent.name!r}")) from exc


@lru_cache(maxsize=1024)
def _validator(payload: Any) -> TypeAdapter[Any]:
    return TypeAdapter(payload)


def plain(result: Any) -> Any:
    """Return a handler's result as JSON-compatible data."""
    if isinstance(result, Payload):
        return result.model_dump(mode="json", by_alias=True, round_trip=True)
    if isinstance(result, (list, tuple)):
        return [plain(one) for one in result]
    return result
