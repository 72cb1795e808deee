"""Who receives and sends what: agents and event types as plain data, as a Mermaid text and as an SVG image."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from html import escape
from typing import Any, Literal, NamedTuple

from ..core.errors import visible
from ..core.routing import wants

#: Pixels of the image: a character of its fixed-width font, a node, what lies between nodes and columns, the border.
CHARACTER, HEIGHT, GAP, BETWEEN, BORDER = 8, 30, 14, 220, 24
_FONT = "ui-monospace, Menlo, Consolas, monospace"


@dataclass(frozen=True)
class TypeNode:
    """An event type, and one description of its data; a type that several describe has several.

    Attributes:
        payload: the type that its data is validated into, a Payload class as a rule; None when it may be any JSON.
        version: the schema version; empty for a description that holds for every version.

    """

    type: str
    payload: Any = None
    version: str = ""


@dataclass(frozen=True)
class AgentNode:
    """An agent.

    Attributes:
        queue: the name of its queue.
        patterns: the topic patterns that it listens to.
        reads: descriptions of what it receives, where it is declared with one.
        sends: what it emits, as far as its declaration says so.
        members: the agents that it joins.
        about: its documentation.

    """

    name: str
    queue: str
    patterns: tuple[str, ...] = ()
    reads: tuple[TypeNode, ...] = ()
    sends: tuple[TypeNode, ...] = ()
    members: tuple[str, ...] = ()
    did: str | None = None
    about: str = ""


@dataclass(frozen=True)
class ScheduleNode:
    """A schedule, and what it sends."""

    name: str
    sends: TypeNode


@dataclass(frozen=True)
class System:
    """The agents and schedules of one app.

    Attributes:
        name: the app's.
        events: the topic exchange to which events are published.
        agents, schedules: in the order of their declaration.

    """

    name: str
    events: str
    agents: tuple[AgentNode, ...] = ()
    schedules: tuple[ScheduleNode, ...] = ()

    @property
    def types(self) -> dict[str, list[TypeNode]]:
        """Every event type that is known by name, with all descriptions of its data, in the order of declaration."""
        found: dict[str, list[TypeNode]] = {}
        for node in self._described():
            known = found.setdefault(node.type, [])
            if node not in known:
                known.append(node)
        return found

    def _described(self) -> Iterator[TypeNode]:
        for agent in self.agents:
            yield from agent.reads
            yield from (TypeNode(pattern) for pattern in agent.patterns if is_type(pattern))
            yield from agent.sends
        yield from (schedule.sends for schedule in self.schedules)


def is_type(pattern: str) -> bool:
    """Say whether a topic pattern is one event type."""
    return "*" not in pattern and "#" not in pattern


class Edge(NamedTuple):
    """What leads from one node to another; a node is what it is, and its name."""

    start: tuple[str, str]
    end: tuple[str, str]
    kind: Literal["receives", "sends", "joins"]


def nodes_of(system: System) -> list[tuple[str, str]]:
    """Return the nodes: types, patterns that match none of them, agents, schedules."""
    types = system.types
    patterns = dict.fromkeys(pattern for agent in system.agents for pattern in agent.patterns)
    unmatched = [one for one in patterns if not any(wants([one], type) for type in types)]
    return [
        *(("type", name) for name in (*types, *unmatched)),
        *(("agent", agent.name) for agent in system.agents),
        *(("schedule", schedule.name) for schedule in system.schedules),
    ]


def edges_of(system: System) -> list[Edge]:
    """Return what leads from types to the agents that receive them, from senders to types, from joins to members."""
    types = [name for kind, name in nodes_of(system) if kind == "type"]
    found: list[Edge] = []
    for agent in system.agents:
        node = ("agent", agent.name)
        received = [name for name in types if name in agent.patterns or (is_type(name) and wants(agent.patterns, name))]
        found += [Edge(("type", name), node, "receives") for name in received]
        found += [Edge(node, ("type", name), "sends") for name in dict.fromkeys(sent.type for sent in agent.sends)]
        found += [Edge(node, ("agent", member), "joins") for member in agent.members]
    found += [Edge(("schedule", one.name), ("type", one.sends.type), "sends") for one in system.schedules]
    return found


# -- Mermaid

_SHAPES = {"type": '["{}"]', "agent": '(["{}"])', "schedule": '[/"{}"/]'}
_ARROWS = {"receives": "-->", "sends": "-.->", "joins": "==>"}


def mermaid(system: System) -> str:
    """Return the graph as a Mermaid flowchart."""
    ids = {node: f"{node[0]}{number}" for number, node in enumerate(nodes_of(system))}
    lines = [f"    {id}{_SHAPES[kind].format(entities(name))}" for (kind, name), id in ids.items()]
    lines += [f"    {ids[edge.start]} {_ARROWS[edge.kind]} {ids[edge.end]}" for edge in edges_of(system)]
    return "\n".join(["flowchart LR", *lines, ""])


def entities(text: str) -> str:
    """Return a text in which nothing means anything to Mermaid, or to the page that it makes."""
    return "".join(each if each.isalnum() or each in " .-_" else f"#{ord(each)};" for each in visible(text))


# -- SVG

#: What no XML may hold (1.0, section 2.2), beside the control characters that are made visible.
_NO_XML = str.maketrans({0xFFFE: "\\ufffe", 0xFFFF: "\\uffff"})
_FILLS = {"type": "#eef4ff", "agent": "#eefaf0", "schedule": "#fff6e5"}
_LINES = {
    "receives": 'stroke="#4a6fb3"',
    "sends": 'stroke="#3c8c52" stroke-dasharray="6 4"',
    "joins": 'stroke="#9a6a00" stroke-width="2"',
}


class _Box(NamedTuple):
    """Where a node is."""

    x: int
    y: int
    width: int

    @property
    def middle(self) -> int:
        return self.y + HEIGHT // 2

    @property
    def right(self) -> int:
        return self.x + self.width


def svg(system: System) -> str:
    """Return the graph as an SVG image: types on the left, agents and schedules on the right; it holds no script."""
    nodes = nodes_of(system)
    left = _column([node for node in nodes if node[0] == "type"], BORDER)
    others = [node for node in nodes if node[0] != "type"]
    boxes = {**left, **_column(others, max((box.right for box in left.values()), default=BORDER) + BETWEEN)}
    width = max((box.right for box in boxes.values()), default=0) + BETWEEN // 2
    height = max((box.y for box in boxes.values()), default=0) + HEIGHT + BORDER
    title = _words(f"Agents and event types of {system.name}")
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
            f'viewBox="0 0 {width} {height}" font-family="{_FONT}" font-size="13" role="img">',
            f"<title>{title}</title>",
            '<defs><marker id="arrow" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" markerHeight="8" '
            'orient="auto" markerUnits="userSpaceOnUse"><path d="M0 0L8 4L0 8z" fill="#444"/></marker></defs>',
            f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
            *(_line(edge, boxes[edge.start], boxes[edge.end]) for edge in edges_of(system)),
            *(_node(kind, name, box) for (kind, name), box in boxes.items()),
            "</svg>",
            "",
        ]
    )


def _words(text: str) -> str:
    """Return a text as XML has it."""
    return escape(visible(text).translate(_NO_XML))


def _column(nodes: Iterable[tuple[str, str]], x: int) -> dict[tuple[str, str], _Box]:
    """Return the boxes of nodes that stand one below the other, as wide as the longest name."""
    listed = list(nodes)
    width = max((len(visible(name)) for _, name in listed), default=0) * CHARACTER + 2 * GAP
    return {node: _Box(x, BORDER + number * (HEIGHT + GAP), width) for number, node in enumerate(listed)}


def _line(edge: Edge, start: _Box, end: _Box) -> str:
    """Return a curve; what is received arrives a little above what is sent leaves, so that neither hides the other."""
    about = _words(f"{edge.start[1]} {edge.kind} {edge.end[1]}")
    if edge.kind == "receives":
        about = _words(f"{edge.end[1]} receives {edge.start[1]}")
        begin, finish, bend = (start.right, start.middle - 5), (end.x, end.middle - 5), BETWEEN // 2
        inner = (begin[0] + bend, finish[0] - bend)
    elif edge.kind == "sends":
        begin, finish, bend = (start.x, start.middle + 5), (end.right, end.middle + 5), BETWEEN // 2
        inner = (begin[0] - bend, finish[0] + bend)
    else:
        begin, finish, bend = (start.right, start.middle), (end.right, end.middle), BETWEEN // 3
        inner = (begin[0] + bend, finish[0] + bend)
    path = f"M{begin[0]} {begin[1]}C{inner[0]} {begin[1]} {inner[1]} {finish[1]} {finish[0]} {finish[1]}"
    return f'<path d="{path}" fill="none" {_LINES[edge.kind]} marker-end="url(#arrow)"><title>{about}</title></path>'


def _node(kind: str, name: str, box: _Box) -> str:
    rounding = 4 if kind == "type" else HEIGHT // 2
    return (
        f'<g><rect x="{box.x}" y="{box.y}" width="{box.width}" height="{HEIGHT}" rx="{rounding}" '
        f'fill="{_FILLS[kind]}" stroke="#444"/>'
        f'<text x="{box.x + box.width // 2}" y="{box.middle + 5}" text-anchor="middle">{_words(name)}</text>'
        f"<title>{kind}</title></g>"
    )
