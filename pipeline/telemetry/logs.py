"""Logs that say which delivery they are about: as attributes of each record, and as lines of JSON."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

import orjson
from celery import current_app, signals
from celery._state import get_current_task

from ..core.errors import traceback_of
from ..core.observe import About, Spans

#: What a record says of the delivery that wrote it, under the name that it has in JSON and as the record's attribute.
NAMES = {
    "event": "event_id",
    "type": "event_type",
    "correlation": "correlation_id",
    "agent": "agent",
    "delivery": "delivery_id",
    "attempt": "attempt",
    "trace": "trace_id",
}
#: What runs here, in each thread and task.
_here: ContextVar[About | None] = ContextVar("pipeline_delivery", default=None)
_OF_TRACEPARENT = slice(3, 35)


@contextmanager
def _remember(name: str, about: About) -> Iterator[None]:
    """Keep what a handler is called for, until it has ended."""
    if name != "deliver":
        yield
        return
    token = _here.set(about)
    try:
        yield
    finally:
        _here.reset(token)


def _listen() -> None:
    """Hear of deliveries, once somebody wants to know."""
    if _remember not in Spans._everywhere:
        Spans.listen_everywhere(_remember)


def delivery_here() -> dict[str, Any]:
    """Return what runs here, by the names of the JSON fields; nothing where that is no delivery."""
    about = _here.get()
    found: dict[str, Any] = {}
    if about is not None:
        event = about["event"]
        found = {
            "event": event.key,
            "type": event.type,
            "correlation": event.correlation_id,
            "agent": about["agent"],
            "delivery": about["delivery"],
            "attempt": about["attempt"],
            "trace": (event.traceparent or "")[_OF_TRACEPARENT],
        }
    elif (agent := getattr(task := get_current_task(), "agent", None)) is not None:  # before or after its handler
        request = task.request_stack.top
        said = vars(request) if request is not None else {}
        bus: Mapping[str, Any] = said.get("bus") or {}
        found = {
            "event": bus.get("key"),
            "type": bus.get("type"),
            "correlation": said.get("root_id"),
            "agent": agent.name,
            "delivery": bus.get("delivery") or said.get("id"),
            "attempt": bus.get("attempt"),
        }
    if (trace := _trace()) is not None:
        found["trace"] = trace
    return {name: value for name, value in found.items() if value not in (None, "")}


def _trace() -> str | None:
    """Return the id of the trace that goes on here, if OpenTelemetry is in use."""
    api = sys.modules.get("opentelemetry.trace")
    if api is None:
        return None
    context = api.get_current_span().get_span_context()
    return format(context.trace_id, "032x") if context.is_valid else None


class DeliveryFilter(logging.Filter):
    """Adds to each record what it is about: `event_id`, `event_type`, `correlation_id`, `agent`, `delivery_id` ...

    What is not known is empty, so that a format such as "%(event_id)s %(message)s" fits every record.
    """

    def __init__(self) -> None:
        super().__init__()
        _listen()

    def filter(self, record: logging.LogRecord) -> bool:
        """Let every record pass."""
        found = delivery_here()
        for name, attribute in NAMES.items():
            setattr(record, attribute, found.get(name, ""))
        return True


class JsonFormatter(logging.Formatter):
    """Writes each record as one line of JSON: time, level, logger, message, and what it is about."""

    def __init__(self) -> None:
        super().__init__()
        _listen()

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            "process": record.process,
            **delivery_here(),
        }
        if record.exc_info and record.exc_info[1] is not None:
            line["error"] = traceback_of(record.exc_info[1])
        if record.stack_info:
            line["stack"] = record.stack_info
        try:
            return orjson.dumps(line, default=str).decode()
        except TypeError:  # half of a character, or a number that is too large
            return json.dumps(line, default=str)


def _dress(logger: logging.Logger, **_: Any) -> None:
    """Let the handlers that Celery has made write JSON; those of users stay theirs."""
    if not current_app.conf.worker_hijack_root_logger:
        return
    for handler in logger.handlers:
        handler.setFormatter(JsonFormatter())


def write_json() -> None:
    """Let workers and beat of this process write JSON, unless its users have set logging up by themselves."""
    signals.after_setup_logger.connect(_dress)
    signals.after_setup_task_logger.connect(_dress)
