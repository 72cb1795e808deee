"""Payloads: what a handler is called with, and what becomes of what it returns."""

from __future__ import annotations

from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

import orjson
from pydantic import TypeAdapter, ValidationError

from ..core.errors import InvalidEvent, PipelineError, explain
from ..core.event import Event, Payload, dump
from .agent import Agent
from .context import Context

if TYPE_CHECKING:
    from ..contracts.registry import Types


def arguments(
    agent: Agent, event: Event, context: Context, types: Types, blobs: dict[str, Any] | None = None
) -> tuple[Any, ...]:
    """Return the handler's arguments: the payload, the data or the event, and the context if it takes one."""
    first = event if agent.wants_event else payload_of(agent, event, types, blobs)
    return (first, context) if agent.wants_context else (first,)


def payload_of(agent: Agent, event: Event, types: Types, blobs: dict[str, Any] | None = None) -> Any:
    """Validate the event's data into the agent's payload class; raise InvalidEvent that names the wrong field.

    Data of another version than the class's is read as that version first: what is newer as it is, what is older
    through upcasters. NewerMajor is raised for a newer major version.

    Arguments:
        blobs: pydantic's context, with which the payload's blobs can be read.

    """
    if agent.payload is None:
        return event.data
    version = event.schema_version
    if agent.reads.get(event.type, version) == version:
        # As JSON, which it is: strict classes read times, UUIDs and tuples from nothing else.
        body = orjson.dumps(event.data)
    else:
        body = types.read(event, agent.name, agent.versions(event.type))
    try:
        return _validator(agent.payload).validate_json(body, context=blobs)
    except ValidationError as exc:
        raise InvalidEvent(explain(exc, f"{event.type} for agent {agent.name!r}")) from exc


@lru_cache(maxsize=1024)
def _validator(payload: Any) -> TypeAdapter[Any]:
    return TypeAdapter(payload)


def attributes_read(agent: Agent, event: Event, types: Types) -> dict[str, Any]:
    """Return an event's attributes as the agent's filter sees them: with the data that its handler would get.

    Raises as payload_of() does for data of another version.
    """
    attributes = event.attributes()
    if not reads_as_published(agent, event):
        attributes["data"] = orjson.loads(types.read(event, agent.name, agent.versions(event.type)))
    return attributes


def reads_as_published(agent: Agent, event: Event) -> bool:
    """Say whether an event's data is of the version that the agent's payload has, or of none that it knows."""
    version = event.schema_version
    return agent.reads.get(event.type, version) == version


def plain(result: Any, blobs: dict[str, Any] | None = None) -> Any:
    """Return a handler's result as JSON-compatible data.

    Arguments:
        blobs: pydantic's context, with which content is kept.

    """
    if isinstance(result, Payload):
        return dump(result, blobs)
    if isinstance(result, (list, tuple)):
        return [plain(item, blobs) for item in result]
    return result


class Said:
    """What somebody outside has said to an agent: its result where one is kept, and nothing to publish."""

    def __init__(self, value: Any) -> None:
        self.value = value


def answer_of(name: str, result: object, blobs: dict[str, Any] | None = None) -> Any:
    """Return a handler's result as a canvas keeps it, as JSON; raise InvalidEvent for what JSON has no form for."""
    try:
        return orjson.loads(orjson.dumps(result, default=partial(_dumped, blobs)))
    except Exception as exc:  # also what an object's own methods raise
        if isinstance(exc.__cause__, PipelineError) and not isinstance(exc.__cause__, InvalidEvent):
            raise exc.__cause__ from None  # the store of blobs says what to do
        raise InvalidEvent(
            f"agent {name!r} returned a {type(result).__name__} that JSON cannot hold ({type(exc).__name__}: {exc}); "
            "return a Payload, or what JSON knows"
        ) from None


def _dumped(blobs: dict[str, Any] | None, value: object) -> Any:
    if isinstance(value, Payload):
        return plain(value, blobs)
    if isinstance(value, Said):
        return value.value
    raise TypeError(f"there is a {type(value).__name__} in it")


def returned_payloads(name: str, result: object) -> tuple[Payload, ...]:
    """Return what a handler returned as payloads to publish; raise InvalidEvent for anything else."""
    if result is None or isinstance(result, Said):
        return ()
    payloads = result if isinstance(result, (list, tuple)) else (result,)
    for payload in payloads:
        if not isinstance(payload, Payload):
            raise InvalidEvent(
                f"agent {name!r} returned a {type(payload).__name__}; return None, a Payload or a list of Payloads, "
                "or call ctx.publish('event.type', data)"
            )
    return tuple(payloads)
