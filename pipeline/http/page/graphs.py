"""What is drawn: who emits what to whom, and a flow with its steps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote

from fastapi import APIRouter
from fastapi.responses import Response

from ...contracts.graph import System, is_type
from ...core.routing import needs_receiver, wants
from ...history.traffic import LOOKED_AT, Emitted, emitted_lately
from ...ledger.waiting.pauses import AGENT
from ..access import READS, App
from .drawing import MOST_NODES, Drawing, Edge, Node, draw
from .shown import OneView, PageRoute

if TYPE_CHECKING:
    from ...coordination.flows.instances import Flow

#: What a state looks like for those who see no colours.
SIGNS = {
    **dict.fromkeys(("succeeded", "completed", "online"), "✓"),
    **dict.fromkeys(("dead", "dropped", "failed", "stuck", "suspected"), "✗"),
    **dict.fromkeys(("running", "active", "compensating"), "▶"),
    **dict.fromkeys(("queued", "retrying", "parked", "draining"), "…"),
    "paused": "‖",
}
#: The sign of all else: what has not begun, is not there, or was left out.
OTHER = "○"

router = APIRouter(include_in_schema=False, route_class=PageRoute)


class Role(NamedTuple):
    """An agent, as the topology shows it.

    Attributes:
        state: how it is: online, paused, offline, not there ...
        patterns: what it listens to.
        emits: the types that it emits: as it declares, or as it lately did.
        members: the agents whose work it joins, or that are the steps of its flow.

    """

    agent: str
    state: str
    patterns: tuple[str, ...]
    emits: tuple[str, ...]
    members: tuple[str, ...]


class Passed(NamedTuple):
    """An event type, or a pattern that matches no type which is known.

    Attributes:
        senders: the agents that emit it, and schedules.
        receivers: the agents that listen to it.
        lately: how many of the newest events of the log are of it.

    """

    type: str
    senders: tuple[str, ...]
    receivers: tuple[str, ...]
    lately: int


class Topology(NamedTuple):
    """Who emits what to whom."""

    roles: Sequence[Role]
    types: Sequence[Passed]
    schedules: Mapping[str, str]


@router.get("/ui/topology", dependencies=[READS])
def topology(app: App, view: OneView) -> Response:
    """Show who emits what to whom."""
    states = {one.agent: one.state.value for one in app.presence.agents()}
    states |= {one.name: "paused" for one in app.pauses.list() if one.kind == AGENT}
    found = topology_of(app.system, states, app.ledger.subscribers.all(), emitted_lately(app.ledger))
    shown = picture_of(found)
    return view.show(
        "topology.html", "Topology", "topology", found=found, picture=shown, most=MOST_NODES, looked_at=LOOKED_AT
    )


def topology_of(
    system: System, states: Mapping[str, str], patterns: Mapping[str, tuple[str, ...]], lately: Iterable[Emitted]
) -> Topology:
    """Return who emits what to whom.

    Arguments:
        system: what the app declares.
        states: how the agents are that have ever run.
        patterns: what they listen to; of others the declaration counts.
        lately: what was emitted.

    """
    declared = {one.name: one for one in system.agents}
    seen = list(lately)

    def role(agent: str) -> Role:
        own = declared.get(agent)
        listens = patterns.get(agent) or (own.patterns if own else ())
        sends = [sent.type for sent in own.sends] if own else []
        sends += sorted(one.type for one in seen if one.agent == agent)
        members = own.members if own else ()
        return Role(agent, states.get(agent, "not there"), tuple(listens), tuple(dict.fromkeys(sends)), members)

    roles = [role(agent) for agent in sorted({*declared, *states, *patterns})]
    schedules = {one.name: one.sends.type for one in system.schedules}
    exact = {pattern for role in roles for pattern in role.patterns if is_type(pattern)}
    types = {*system.types, *exact, *(one.type for one in seen), *(type for role in roles for type in role.emits)}
    others = {
        pattern for role in roles for pattern in role.patterns if not any(wants([pattern], type) for type in types)
    }

    def passed(type: str) -> Passed:
        senders = [role.agent for role in roles if type in role.emits]
        senders += [name for name, sent in schedules.items() if sent == type]
        # Of a pattern that is drawn as it is written, those count that have written it.
        receivers = tuple(
            role.agent for role in roles if type in role.patterns or (type in types and wants(role.patterns, type))
        )
        return Passed(type, tuple(senders), receivers, sum(one.number for one in seen if one.type == type))

    return Topology(roles, [passed(type) for type in sorted(types | others)], schedules)


def picture_of(topology: Topology) -> Drawing | None:
    """Return the same, drawn; not types that no agent has to do with, nor announcements that nobody listens to."""
    nodes = [
        Node(
            f"agent {one.agent}", one.agent, "agent", one.state, said(one.state), f"agents/{quote(one.agent, safe='')}"
        )
        for one in topology.roles
    ]
    nodes += [Node(f"schedule {name}", name, "schedule") for name in topology.schedules]
    edges = []
    for one in topology.types:
        if one.receivers or (one.senders and needs_receiver(one.type)):
            nodes.append(Node(f"type {one.type}", one.type, "type", link=f"?type={quote(one.type, safe='')}"))
    for role in topology.roles:
        agent = f"agent {role.agent}"
        edges += [Edge(agent, f"type {type}", "sends", f"{role.agent} emits {type}") for type in role.emits]
        edges += [Edge(agent, f"agent {name}", "joins", f"{name} works for {role.agent}") for name in role.members]
    for one in topology.types:
        edges += [
            Edge(f"type {one.type}", f"agent {name}", "receives", f"{name} listens to {one.type}")
            for name in one.receivers
        ]
    edges += [
        Edge(f"schedule {name}", f"type {type}", "sends", f"{name} emits {type}")
        for name, type in topology.schedules.items()
    ]
    return draw(nodes, edges)


def flow_picture(flow: Flow) -> Drawing | None:
    """Return a flow, drawn: its steps with what has become of them, and the event that follows."""
    parts, links = flow.picture
    labels = {part.id: part.label for part in parts}
    nodes = [
        Node(
            part.id,
            part.label,
            part.kind,
            part.state,
            f"{SIGNS.get(part.state, OTHER)} {part.said or part.state}",
            f"events/{quote(flow.event_id, safe='')}" if part.kind == "start" else "",
        )
        for part in parts
    ]
    edges = [
        Edge(
            link.start,
            link.end,
            "undoes" if link.undoes else "",
            f"{labels[link.end]} {'undoes' if link.undoes else 'follows'} {labels[link.start]}",
        )
        for link in links
    ]
    return draw(nodes, edges)


def said(state: str) -> str:
    """Return a state in words, with its sign."""
    return f"{SIGNS.get(state, OTHER)} {state}"
