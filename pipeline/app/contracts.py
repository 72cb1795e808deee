"""What an app has to tell about its agents: who receives and sends what, as the room `contracts` takes it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from ..agents.agent import Agent
from ..agents.declare import returned
from ..contracts.graph import AgentNode, ScheduleNode, System, TypeNode, is_type
from ..contracts.registry import payloads_in
from ..core.event import Payload

if TYPE_CHECKING:
    from ..bus import Bus
    from ..coordination.schedule import Scheduled


def system_of(bus: Bus, schedules: Mapping[str, Scheduled]) -> System:
    """Return the agents and schedules that an app has declared so far."""
    members = {member for agent in bus.agents for member in agent.members}
    return System(
        name=bus.celery.main or "pipeline",
        events=bus.names.events.name,
        agents=tuple(_agent(bus, agent, is_member=agent.name in members) for agent in bus.agents),
        schedules=tuple(ScheduleNode(name, _type(what, bus.types.newest)) for name, (_, what, _) in schedules.items()),
    )


def _agent(bus: Bus, agent: Agent, *, is_member: bool) -> AgentNode:
    # What a member of a join returns is the join's, unless it also listens on its own.
    results = () if is_member and not agent.patterns else returned(agent.handler)
    return AgentNode(
        name=agent.name,
        queue=bus.names.queue_of(agent.name),
        patterns=agent.patterns,
        reads=tuple(_reads(agent)),
        sends=tuple(dict.fromkeys(_type(one, bus.types.newest) for one in (*agent.emits, *payloads_in(results)))),
        members=agent.members,
        did=agent.did,
        about=(inspect.isroutine(agent.handler) and inspect.getdoc(agent.handler)) or "",
    )


def _reads(agent: Agent) -> Iterable[TypeNode]:
    """Return what an agent's payload says about the types that it listens to by their names, and about its own."""
    if agent.payload is None:
        return
    version = getattr(agent.payload, "schema_version", "")
    own = getattr(agent.payload, "event_type", "")
    for type in dict.fromkeys([*filter(is_type, agent.patterns), *([own] if own else [])]):
        yield TypeNode(type, agent.payload, version)


def _type(what: Payload | type[Payload] | str, newest: Callable[[str], str]) -> TypeNode:
    if isinstance(what, str):
        return TypeNode(what, version=newest(what))  # as which it is published
    cls = what if isinstance(what, type) else type(what)
    return TypeNode(cls.event_type, cls, cls.schema_version)
