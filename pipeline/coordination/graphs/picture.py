"""Pictures of flows: what is in them and what leads where, and the same as a text for Mermaid."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from ...contracts.graph import entities
from ...ledger.flows.items import folded, is_undo, items_of
from ...ledger.flows.rows import WELL, Step

#: Colours of what has become of something; others have none.
_COLOURS = {
    "succeeded": "#2e7d32", "completed": "#2e7d32", "running": "#1565c0", "active": "#1565c0", "dead": "#c62828",
    "dropped": "#c62828", "failed": "#c62828", "stuck": "#c62828", "cancelled": "#757575", "late": "#757575",
    "parked": "#b26a00", "retrying": "#b26a00", "compensating": "#b26a00", "compensated": "#757575",
}  # fmt: skip


class Part(NamedTuple):
    """What is in the picture of a flow.

    Attributes:
        kind: the flow itself, a step, what undoes one, or the event that follows.
        state: the flow's status, or the outcome of the step.
        said: what has become of it, in words; empty for the flow itself.

    """

    id: str
    kind: Literal["start", "step", "undo", "end"]
    label: str
    state: str
    said: str


class Link(NamedTuple):
    """What leads from one part to another; `undoes` says that the second undoes the first."""

    start: str
    end: str
    undoes: bool = False


class Picture(NamedTuple):
    """A flow as it stands: its steps with what has become of them, and the event that follows."""

    parts: Sequence[Part]
    links: Sequence[Link]


def picture(
    what: str, status: str, reason: str | None, definition: Mapping[str, Any], steps: Sequence[Step]
) -> Picture:
    """Return the picture of a flow.

    Arguments:
        what: its kind and its name.

    """
    has_failed = status in ("failed", "compensated", "compensating")
    follows = definition.get("fails" if has_failed else "emits", "")
    within = list(_graph(definition["nodes"], steps) if "nodes" in definition else _members(steps))
    parts = [
        Part("start", "start", what, status, ""),
        *(one for one in within if isinstance(one, Part)),
        Part("end_", "end", follows, status, reason or status),
    ]
    return Picture(parts, [one for one in within if isinstance(one, Link)])


def _members(steps: Sequence[Step]) -> Iterator[Part | Link]:
    for step in steps:
        yield Part(f"s{step.pos}", "step", step.agent, step.outcome.value, step.outcome.value)
        yield Link("start", f"s{step.pos}")
        yield Link(f"s{step.pos}", "end_")


def _graph(nodes: Sequence[Mapping[str, Any]], steps: Sequence[Step]) -> Iterator[Part | Link]:
    """Return the steps of a saga or workflow with what follows what, those that have not begun, too."""
    number, rows = len(nodes), {step.pos: step for step in steps}
    whole = folded(rows, number, {pos for pos, node in enumerate(nodes) if node.get("collect")})
    counts = {
        pos: Counter(item.outcome.value in WELL for item in items) for pos, items in items_of(rows, number).items()
    }
    places = {node["name"]: pos for pos, node in enumerate(nodes)}
    before = {name for node in nodes for name in node.get("after", ())}
    for pos, node in enumerate(nodes):
        became = whole[pos].outcome.value if pos in whole else "not begun"
        many = f" ({counts[pos][True]} of {counts[pos].total()})" if pos in counts else ""
        yield Part(f"s{pos}", "step", f"{node['name']}{many}", became, became)
        for name in node.get("after") or [""]:
            yield Link(f"s{places[name]}" if name else "start", f"s{pos}")
        if node["name"] not in before:
            yield Link(f"s{pos}", "end_")
    for pos in sorted(pos for pos in whole if is_undo(pos, number)):
        step = whole[pos]
        yield Part(f"s{pos}", "undo", step.agent, step.outcome.value, step.outcome.value)
        yield Link(f"s{pos - number}", f"s{pos}", undoes=True)


# -- Mermaid

_SHAPES = {"start": '(["{}"])', "step": '["{}"]', "undo": '[/"{}"/]', "end": '(["{}"])'}


def mermaid(drawn: Picture) -> str:
    """Return a picture as a text for Mermaid."""
    lines = [f"    {part.id}{_SHAPES[part.kind].format(_text(part))}" for part in drawn.parts]
    lines += [f"    {link.start} {'-. undone by .->' if link.undoes else '-->'} {link.end}" for link in drawn.links]
    colours = ((part.id, _COLOURS.get(part.state)) for part in drawn.parts)
    lines += [f"    style {id} stroke:{colour},stroke-width:2px" for id, colour in colours if colour]
    return "\n".join(["flowchart LR", *lines])


def _text(part: Part) -> str:
    """Return what a part says, in which nothing but the colons that it is read by means anything to Mermaid."""
    text = ": ".join(filter(None, (part.label, part.said)))
    return ":".join(entities(word) for word in text.split(":"))
