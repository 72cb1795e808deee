"""Payloads: what a handler is called with, and what becomes of what it returns."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import orjson
from pydantic import TypeAdapter, ValidationError

from ..core.errors import InvalidEvent
from ..core.event import Event, Payload, dump, explain
from .agent import Agent
from .context import Context


def arguments(agent: Agent, event: Event, context: Context) -> tuple[Any, ...]:
    """Return the handler's arguments: the payload, the data or the event, and the context if it takes one."""
    first = event if agent.wants_event else payload_of(agent, event)
    return (first, context) if agent.wants_context else (first,)


def payload_of(agent: Agent, event: Event) -> Any:
    """Validate the event's data into the agent's payload class; raise InvalidEvent that names the wrong field."""
    if agent.payload is None:
        return event.data
    try:
        # As JSON, which it is: strict classes read times, UUIDs and tuples from nothing else.
        return _validator(agent.payload).validate_json(orjson.dumps(event.data))
    except ValidationError as exc:
        raise InvalidEvent(explain(exc, f"{event.type} for agent {agent.name!r}")) from exc


@lru_cache(maxsize=1024)
def _validator(payload: Any) -> TypeAdapter[Any]:
    return TypeAdapter(payload)


def plain(result: Any) -> Any:
    """Return a handler's result as JSON-compatible data."""
    if isinstance(result, Payload):
        return dump(result)
    if isinstance(result, (list, tuple)):
        return [plain(item) for item in result]
    return result


def answer_of(name: str, result: object) -> Any:
    """Return a handler's result as a canvas keeps it, as JSON; raise InvalidEvent for what JSON has no form for."""
    try:
        return orjson.loads(orjson.dumps(result, default=_dumped))
    except Exception as exc:  # also what an object's own methods raise
        raise InvalidEvent(
            f"agent {name!r} returned a {type(result).__name__} that JSON cannot hold ({type(exc).__name__}: {exc}); "
            "return a Payload, or what JSON knows"
        ) from None


def _dumped(value: object) -> Any:
    if isinstance(value, Payload):
        return plain(value)
    raise TypeError(f"there is a {type(value).__name__} in it")


def returned_payloads(name: str, result: object) -> tuple[Payload, ...]:
    """Return what a handler returned as payloads to publish; raise InvalidEvent for anything else."""
    if result is None:
        return ()
    payloads = result if isinstance(result, (list, tuple)) else (result,)
    for payload in payloads:
        if not isinstance(payload, Payload):
            raise InvalidEvent(
                f"agent {name!r} returned a {type(payload).__name__}; return None, a Payload or a list of Payloads, "
                "or call ctx.publish('event.type', data)"
            )
    return tuple(payloads)
