"""Tasks that end a chord or a chain in an event."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson
from celery import Task
from celery.canvas import Signature

from ..brokers.topology import EMIT_FAILED_TASK, EMIT_TASK
from ..core.errors import BrokerUnavailable, LedgerUnavailable
from ..core.event import Event, new_event
from ..core.ids import caused_id

if TYPE_CHECKING:
    from celery import Celery

    from ..bus import Bus


class EmitTask(Task):  # type: ignore[misc]  # celery's classes are untyped
    """Base of the tasks below: they publish, so they are done only when the broker has the event."""

    abstract = True
    acks_late = True
    acks_on_failure_or_timeout = False
    ignore_result = True
    autoretry_for = (BrokerUnavailable, LedgerUnavailable)
    retry_backoff = True
    max_retries = None

    bus: Bus

    def publish(
        self,
        event_type: str,
        data: Any,
        cause: dict[str, Any] | None,
        task_id: str,
    ) -> None:
        """Publish an event whose id follows from the task's, so that a repeated task publishes the same event."""
        event = new_event(
            event_type,
            data,
            source=self.bus.source,
            cause=Event.decode(orjson.dumps(cause)) if cause else None,
            correlation_id=None if cause else self.request.root_id,
            id=caused_id(task_id, 0, self.bus.ledger.secret if self.bus.has_ledger else b""),
            version=self.bus.types.newest(event_type),
        )
        self.bus.outbox.publish([event])


class Emit(EmitTask):
    """Publish what comes before it in a chain, or the results of a chord, as one event."""

    name = EMIT_TASK

    def run(
        self,
        result: Any,
        event_type: str,
        cause: dict[str, Any] | None = None,
        names: list[str] | None = None,
    ) -> None:
        """Publish `result` as the data of an event; with `names`, as a join does: each result by its agent."""
        if names is not None:
            results = dict(zip(names, result, strict=True))
            about = {"completed_by": "all", "results": results, "errors": {}, "missing": []}
            data = {"original": (cause or {}).get("data"), **about}
        else:
            data = result if isinstance(result, dict) else {"results" if isinstance(result, list) else "result": result}
        self.publish(event_type, data, cause, self.request.id)


class EmitFailed(EmitTask):
    """Publish that a chord cannot complete; Celery calls it in the process where the member died."""

    name = EMIT_FAILED_TASK
    #: Celery looks here how an errback wants to be called: this one with the error, not with a task id.
    __header__ = staticmethod(lambda request, exc, traceback: None)

    def run(
        self,
        request: Any,
        exc: Exception,
        traceback: Any,
        event_type: str,
        cause: dict[str, Any],
    ) -> None:
        """Publish the original data and the error."""
        data = {"original": cause.get("data"), "error": str(exc)}
        self.publish(event_type, data, cause, request.id)


def emit(event_type: str, *, cause: Event | None = None, app: Celery | None = None) -> Signature:
    """Return the Celery signature that publishes what it is given as an event: `chord([...], emit("a.done"))`.

    Arguments:
        event_type: the type of the event; a dict is its data, anything else `{"result": ...}` or `{"results": [...]}`.
        cause: the event whose correlation and priority are inherited; default the correlation of the Celery task.
        app: the Celery app that sends it; default Celery's current one.

    """
    return Signature(
        EMIT_TASK, kwargs={"event_type": event_type, "cause": cause.__json__() if cause else None}, app=app
    )
