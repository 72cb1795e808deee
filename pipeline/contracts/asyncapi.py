"""The AsyncAPI 3 document of an app: channels, operations, messages, schemas and the bindings of AMQP."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from pydantic import TypeAdapter
from pydantic.errors import PydanticInvalidForJsonSchema

from ..core.errors import InvalidEvent
from ..core.event import CONTENT_TYPE, Event
from ..core.routing import wants
from .graph import AgentNode, System, TypeNode, is_type

VERSION = "3.0.0"
BINDING = "0.3.0"
#: The schema version of an event that names none.
FIRST = "1.0.0"
#: Names that no Python class has, and so no schema that is made of one.
ENVELOPE, ANY = "cloudevents-1.0", "any-event"
#: How wildcards are spelled in names of channels, as which `#` would end a reference; no event type has brackets.
_WILDCARDS = str.maketrans({"*": "(word)", "#": "(words)"})
#: Delivered persistently (AMQP 0-9-1, delivery-mode 2).
_PERSISTENT = 2
#: Parts of a JSON Schema that are schemas by name, and those that are no schemas at all.
_BY_NAME = ("properties", "patternProperties", "dependentSchemas", "$defs")
_VALUES = ("default", "const", "enum", "examples")

Json = dict[str, Any]


def document(system: System, *, version: str = "1.0.0") -> Json:
    """Return what an app sends and receives as an AsyncAPI 3 document; raise InvalidEvent for a type without a schema.

    Arguments:
        system: the app's agents and schedules.
        version: the app's own version.

    """
    return _Document(system).made(version)


class _Described(NamedTuple):
    """An event type in one version, with what its data has to fit: nothing for any JSON."""

    type: str
    version: str
    nodes: tuple[TypeNode, ...]


def _versions_of(type: str, nodes: Sequence[TypeNode]) -> Iterator[_Described]:
    """Yield an event type in each version that somebody names."""
    for version in dict.fromkeys(node.version for node in nodes if node.version) or [FIRST]:
        fitting = (node for node in nodes if node.payload is not None and node.version in ("", version))
        yield _Described(type, version, tuple(fitting))


def key_of(type: str, version: str) -> str:
    """Return the name of the message that a type has in one version."""
    return f"{type}-{version}"


def channel_of(pattern: str) -> str:
    """Return the name of the channel of an event type or a topic pattern."""
    return pattern.translate(_WILDCARDS)


class _Document:
    """A document in the making."""

    def __init__(self, system: System) -> None:
        self._system = system
        self._types = system.types
        every = (one for type, nodes in self._types.items() for one in _versions_of(type, nodes))
        self._messages = {key_of(one.type, one.version): one for one in every}
        patterns = dict.fromkeys(pattern for agent in system.agents for pattern in agent.patterns)
        self._patterns = [pattern for pattern in patterns if not is_type(pattern)]

    def made(self, version: str) -> Json:
        """Return the document."""
        schemas, definitions = _schemas(node for one in self._messages.values() for node in one.nodes)
        messages = {key: _message(one, schemas) for key, one in self._messages.items()}
        channels = self._channels()
        if any(ANY in channel["messages"] for channel in channels.values()):
            messages[ANY] = _any_message()
        return {
            "asyncapi": VERSION,
            "info": {"title": self._system.name, "version": version},
            "defaultContentType": CONTENT_TYPE,
            "channels": channels,
            "operations": self._operations(),
            "components": {"messages": messages, "schemas": {ENVELOPE: envelope(), **definitions}},
        }

    # -- channels

    def _channels(self) -> Json:
        channels = {channel_of(name): self._topic(name) for name in (*self._types, *self._patterns)}
        return channels | {_queue_of(agent): self._queue(agent) for agent in self._system.agents}

    def _topic(self, pattern: str) -> Json:
        exchange = {"name": self._system.events, "type": "topic", "durable": True, "autoDelete": False}
        return {
            "address": pattern,
            "messages": _references("#/components/messages/", self._received([pattern])),
            "bindings": {"amqp": {"is": "routingKey", "exchange": exchange, "bindingVersion": BINDING}},
        }

    def _queue(self, agent: AgentNode) -> Json:
        queue = {"name": agent.queue, "durable": True, "exclusive": False, "autoDelete": False}
        return {
            "address": agent.queue,
            "description": f"The queue of agent {agent.name}. What names it as a target is sent here.",
            "messages": _references("#/components/messages/", self._read(agent)),
            "bindings": {"amqp": {"is": "queue", "queue": queue, "bindingVersion": BINDING}},
        }

    def _received(self, patterns: Iterable[str]) -> list[str]:
        """Return the names of the messages that topic patterns match; where none is known it may be any."""
        listed = tuple(patterns)
        return [key for key, one in self._messages.items() if wants(listed, one.type)] or [ANY]

    def _read(self, agent: AgentNode) -> list[str]:
        return self._received([*agent.patterns, *(node.type for node in agent.reads)])

    # -- operations

    def _operations(self) -> Json:
        operations: Json = {}
        for agent in self._system.agents:
            operations[f"{agent.name}.receive"] = self._receives(agent, _queue_of(agent), self._read(agent))
            for pattern in agent.patterns:
                channel = channel_of(pattern)
                operations[f"{agent.name}.receive.{channel}"] = self._receives(
                    agent, channel, self._received([pattern])
                )
            for node in agent.sends:
                who = {"x-agent": agent.name, **({"x-did": agent.did} if agent.did else {})}
                operations[f"{agent.name}.send.{key_of(node.type, node.version)}"] = self._sends(node, who)
        for schedule in self._system.schedules:
            operations[f"schedule:{schedule.name}"] = self._sends(schedule.sends, {"x-schedule": schedule.name})
        return operations

    def _receives(self, agent: AgentNode, channel: str, keys: Iterable[str]) -> Json:
        return {
            "action": "receive",
            "channel": {"$ref": f"#/channels/{channel}"},
            **({"description": agent.about} if agent.about else {}),
            "messages": list(_references(f"#/channels/{channel}/messages/", keys).values()),
            "bindings": {"amqp": {"ack": True, "bindingVersion": BINDING}},
            "x-agent": agent.name,
            "x-queue": agent.queue,
            **({"x-did": agent.did} if agent.did else {}),
            **({"x-joins": list(agent.members)} if agent.members else {}),
        }

    def _sends(self, node: TypeNode, who: Json) -> Json:
        key = key_of(node.type, node.version)
        return {
            "action": "send",
            "channel": {"$ref": f"#/channels/{node.type}"},
            "messages": [{"$ref": f"#/channels/{node.type}/messages/{key}"}],
            "bindings": {"amqp": {"deliveryMode": _PERSISTENT, "bindingVersion": BINDING}},
            **who,
        }


def _queue_of(agent: AgentNode) -> str:
    return f"queue:{agent.queue}"


def _references(where: str, keys: Iterable[str]) -> Json:
    return {key: {"$ref": where + key} for key in keys}


# -- messages and schemas


def _message(one: _Described, schemas: dict[int, Json]) -> Json:
    """Return the message of one type and version; its data fits everybody who describes it, as publishing checks."""
    data = [schemas[id(node)] for node in one.nodes]
    needed = ["schemaversion"] if one.version != FIRST else []
    constants: Json = {"type": {"const": one.type}, "schemaversion": {"const": one.version}}
    own: Json = {"type": "object", "properties": constants}
    about = one.nodes[0].payload if one.nodes else None
    if data:
        own["properties"]["data"] = data[0] if len(data) == 1 else {"allOf": data}
        needed.append("data")
    if needed:
        own["required"] = needed
    return {
        "name": one.type,
        "title": getattr(about, "__name__", one.type),
        **_about(about),
        "contentType": CONTENT_TYPE,
        "payload": {"allOf": [{"$ref": f"#/components/schemas/{ENVELOPE}"}, own]},
        "bindings": {"amqp": {"contentEncoding": "utf-8", "bindingVersion": BINDING}},
    }


def _about(payload: Any) -> Json:
    text = payload.__dict__.get("__doc__") if isinstance(payload, type) else None
    return {"description": text.strip()} if isinstance(text, str) and text.strip() else {}


def _any_message() -> Json:
    return {
        "title": "Any event",
        "contentType": CONTENT_TYPE,
        "payload": {"$ref": f"#/components/schemas/{ENVELOPE}"},
        "bindings": {"amqp": {"contentEncoding": "utf-8", "bindingVersion": BINDING}},
    }


def envelope() -> Json:
    """Return the JSON Schema of an event without its data: CloudEvents 1.0 with the bus's extension attributes."""
    schema = Event.model_json_schema()
    properties = {name: part for name, part in schema["properties"].items() if name not in ("data", "data_base64")}
    properties["targets"] = {"type": "string", "description": "Names of agents, joined by commas."}
    properties["metadata"] = {"type": "string", "description": "JSON of an object, which what follows inherits."}
    return {
        "type": "object",
        "title": "CloudEvent",
        "description": "An event in the JSON format of CloudEvents 1.0.",
        "properties": {**{name: _draft_07(part) for name, part in properties.items()}, "data": True},
        "required": ["specversion", "id", "source", "type"],
    }


def _schemas(nodes: Iterable[TypeNode]) -> tuple[dict[int, Json], Json]:
    """Return the JSON Schema of each node's data, by the node's identity, and the definitions that they share."""
    described = {id(node): node for node in nodes if node.payload is not None}
    try:
        found, shared = TypeAdapter.json_schemas(
            [(key, "validation", TypeAdapter(node.payload)) for key, node in described.items()],
            ref_template="#/components/schemas/{model}",
        )
    except PydanticInvalidForJsonSchema as exc:
        raise InvalidEvent(_without_schema(described.values(), exc)) from exc
    definitions = {name: _draft_07(schema) for name, schema in shared.get("$defs", {}).items()}
    return {key: _draft_07(schema) for (key, _), schema in found.items()}, definitions


def _without_schema(nodes: Iterable[TypeNode], error: PydanticInvalidForJsonSchema) -> str:
    """Return what to tell somebody one of whose types has no JSON Schema."""
    for node in nodes:
        try:
            TypeAdapter(node.payload).json_schema()
        except PydanticInvalidForJsonSchema as exc:
            what = getattr(node.payload, "__name__", repr(node.payload))
            return f"{what} of {node.type}: it has no JSON Schema ({exc.message}); annotate the field WithJsonSchema"
    return str(error.message)


def _draft_07(schema: Any) -> Any:
    """Return a JSON Schema of pydantic's (2020-12) as AsyncAPI has them: those of draft 07."""
    if isinstance(schema, list):
        return [_draft_07(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    made: Json = {}
    for name, part in schema.items():
        if name in _BY_NAME:
            made[name] = {key: _draft_07(value) for key, value in part.items()}
        elif name in _VALUES:
            made[name] = part
        elif name == "prefixItems":
            made["items"] = _draft_07(part)
        elif name == "items" and "prefixItems" in schema:
            made["additionalItems"] = _draft_07(part)
        elif name != "discriminator":  # OpenAPI's; the constants in the alternatives say the same
            made[name] = _draft_07(part)
    return made
