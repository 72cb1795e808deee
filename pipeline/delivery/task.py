"""Room 3: one delivery of one event to one agent, step by step."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import orjson
from celery import Task
from celery.exceptions import Reject
from pydantic import TypeAdapter, ValidationError

from ..agents.agent import Agent, returned_payloads
from ..agents.context import Context
from ..agents.runner import call
from ..core.errors import InvalidEvent
from ..core.event import Event, Payload, explain
from ..core.ids import delivery_id
from .inbox import Delivery, Inbox

if TYPE_CHECKING:
    from ..app.app import Pipeline

#: Seconds between the soft time limit, which a handler may clean up after, and the kill.
HARD_LIMIT_GRACE = 10.0


class NotAnEventError(InvalidEvent):
    """What was delivered is no event: the broker's dead letters keep it, as the ledger cannot."""


class DeliveryTask(Task):  # type: ignore[misc]  # celery's classes are untyped
    """The Celery task of one agent: acked when done, set aside when dead, tried again when its process dies."""

    abstract = True
    Request = "pipeline.delivery.consumer:DeliveryRequest"
    acks_late = True
    acks_on_failure_or_timeout = False
    #: A pool process that dies counts as an attempt. Without a ledger Celery sends the task again, to this queue only.
    retry_on_worker_lost = True
    store_errors_even_if_ignored = False

    agent: Agent
    pipeline: Pipeline
    #: The CloudEvents source of the events that the agent emits.
    source: str

    def run(self, message: str | dict[str, Any]) -> Any:
        """Deliver one event: as JSON text from the bus, or decoded when Celery's canvas calls the agent."""
        inbox = self.pipeline.inbox
        delivery = self.delivery(message, self.request)
        claim = inbox.claim(self, delivery)
        if not claim.attempt:
            return inbox.again(delivery, claim)
        context = self._context(delivery, claim.attempt)
        try:
            result = call(self.agent, arguments(self.agent, delivery.event, context), self.pipeline.loop)
            answer = self._collect(context, result, in_canvas=delivery.in_canvas)
            inbox.succeed(self, delivery, context, answer)
        except Reject:
            raise
        except Exception as exc:
            context.close()  # rolls back, so that the failure can be recorded
            raise inbox.fail(self, delivery, claim.attempt, exc) from exc
        finally:
            context.close()
        return answer

    def process_died(self, message: str | dict[str, Any], request: Any, error: BaseException) -> BaseException:
        """Record, in the worker's main process, an attempt whose pool process died; return Celery's Retry or the error.

        Raises NotAnEventError, or Reject when the ledger is away.
        """
        inbox = self.pipeline.inbox
        assert isinstance(inbox, Inbox)
        return inbox.process_died(self, self.delivery(message, request), error)

    def revoked(self, message: str | dict[str, Any], request: Any, reason: str) -> None:
        """Record that an operator has revoked a delivery: it is a dead letter, which can be requeued."""
        inbox = self.pipeline.inbox
        assert isinstance(inbox, Inbox)
        inbox.revoke(self, self.delivery(message, request), reason)

    def delivery(self, message: str | dict[str, Any], request: Any) -> Delivery:
        """Return what a message says about its delivery; raise NotAnEventError when it holds no event."""
        event = decode(message)
        bus = getattr(request, "bus", None) or {}
        return Delivery(
            # Canvases may choose the task's id, the consumer derived it.
            id=request.id if request.ignore_result else delivery_id(event.id, self.agent.name),
            event=event,
            # Celery's own retries of a canvas come without our mark.
            expected=bus.get("attempt") or (request.retries + 1 if request.retries else None),
            replay=bus.get("replay"),
            broadcast=bus.get("broadcast", "replay" not in bus),
            logged=self.pipeline.has_ledger and bus.get("ledger") == self.pipeline.ledger.id,
            in_canvas=not request.ignore_result,
            retries=request.retries,
            redelivered=bool((request.delivery_info or {}).get("redelivered")),
        )

    def _context(self, delivery: Delivery, attempt: int) -> Context:
        return Context(
            event=delivery.event,
            agent=self.agent.name,
            delivery_id=delivery.id,
            attempt=attempt,
            source=self.source,
            priority=self.agent.priority,
            replay=delivery.replay is not None,
            ledger=self.pipeline.ledger if self.pipeline.has_ledger else None,
        )

    def _collect(self, context: Context, result: Any, *, in_canvas: bool) -> Any:
        """Take what the handler returned: the next events, or for a canvas the result that its chord waits for."""
        if in_canvas:
            return plain(result)
        for payload in returned_payloads(self.agent.name, result):
            context.publish(payload)
        return None


def decode(message: str | dict[str, Any]) -> Event:
    """Return the event that a task was called with; raise NotAnEventError when it is none."""
    if isinstance(message, Event):
        return message
    try:
        return Event.decode(message if isinstance(message, str) else orjson.dumps(message))
    except InvalidEvent as exc:
        raise NotAnEventError(*exc.args) from exc


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
