"""The tree of an event's effects: events, their deliveries, the events that those emitted; as data and as text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from ..core.event import DEFAULT_PRIORITY
from ..core.outcome import Outcome
from ..core.times import as_json_time
from ..ledger.log import Position

#: Characters of an error that are shown.
_SHOWN = 200


@dataclass(slots=True, eq=False)
class StepNode:
    """A step or a wait of a delivery that has ended."""

    name: str
    number: int
    started: datetime
    ended: datetime

    def as_data(self) -> dict[str, Any]:
        """Return the step as JSON."""
        return {name: _plain(getattr(self, name)) for name in self.__slots__}


@dataclass(slots=True, eq=False)
class DeliveryNode:
    """One delivery in a trace, and the events that it emitted."""

    id: str
    agent: str
    outcome: Outcome
    attempts: int
    started: datetime | None
    ended: datetime | None
    due: datetime | None
    worker: str | None
    error: str | None
    replay: str | None
    flow: str | None = None
    children: list[EventNode] = field(default_factory=list, repr=False)
    steps: list[StepNode] = field(default_factory=list, repr=False)

    def as_data(self) -> dict[str, Any]:
        """Return what is known about the delivery, as JSON."""
        data = {name: _plain(getattr(self, name)) for name in self.__slots__ if name not in ("children", "steps")}
        steps = {"steps": [step.as_data() for step in self.steps]} if self.steps else {}
        return {**data, **steps, "events": [event.id for event in self.children]}


@dataclass(slots=True, eq=False)
class EventNode:
    """One event in a trace, with its deliveries, then the events that it caused by itself.

    Attributes:
        parent: the event that it hangs under.
        delivery: the delivery that emitted it.
        given: the id that its program gave it, by which what it has caused names it.

    """

    id: str
    type: str
    source: str
    priority: int
    time: datetime
    recorded: datetime
    position: Position
    causation: str | None
    delivery: str | None
    targets: tuple[str, ...]
    replay: str | None
    given: str
    parent: EventNode | None = field(default=None, repr=False)
    children: list[DeliveryNode | EventNode] = field(default_factory=list, repr=False)

    @property
    def deliveries(self) -> list[DeliveryNode]:
        """The event's deliveries."""
        return [child for child in self.children if isinstance(child, DeliveryNode)]

    def as_data(self) -> dict[str, Any]:
        """Return what is known about the event, as JSON."""
        names = ("id", "type", "source", "priority", "time", "recorded", "causation", "delivery", "targets", "replay")
        return {
            **{name: _plain(getattr(self, name)) for name in names},
            "seq": self.position[1],
            "parent": self.parent and self.parent.id,
            "deliveries": [delivery.as_data() for delivery in self.deliveries],
        }


@dataclass(slots=True)
class FlowNode:
    """A flow that one of the events started, such as a join; it has not ended while members are missing."""

    id: str
    name: str
    kind: str
    status: str
    event: str
    started: datetime
    ended: datetime | None
    due: datetime | None
    reason: str | None

    def as_data(self) -> dict[str, Any]:
        """Return what is known about the flow, as JSON."""
        return {name: _plain(getattr(self, name)) for name in self.__slots__}


@dataclass(slots=True)
class Trace:
    """What an event has caused, or everything with one correlation id."""

    correlation: str
    roots: list[EventNode]
    flows: list[FlowNode]

    def walk(self) -> Iterator[tuple[int, EventNode | DeliveryNode]]:
        """Go through events and deliveries from the first cause on, each with its depth."""
        # Not by recursion: a chain of causes may be longer than Python's stack.
        stack: list[tuple[int, EventNode | DeliveryNode]] = [(0, root) for root in reversed(self.roots)]
        while stack:
            depth, node = stack.pop()
            yield depth, node
            stack += [(depth + 1, child) for child in reversed(node.children)]

    def __iter__(self) -> Iterator[EventNode]:
        """Iterate over the events, each after its cause."""
        return (node for _, node in self.walk() if isinstance(node, EventNode))

    def as_data(self) -> dict[str, Any]:
        """Return the trace as JSON, flat, because JSON does not nest as deep as causes do; `parent` tells the tree."""
        return {
            "correlation": self.correlation,
            "events": [event.as_data() for event in self],
            "flows": [flow.as_data() for flow in self.flows],
        }

    def render(self) -> str:
        """Return the trace as an indented text, with times relative to the first event."""
        if not self.roots:
            return f"correlation {self.correlation}: no events"
        start = min(root.recorded for root in self.roots)
        lines = [f"correlation {self.correlation}, from {start.isoformat(sep=' ', timespec='milliseconds')} on"]
        for depth, node in self.walk():
            lines.append(f"{'  ' * depth}{_line(node, start)}")
            if isinstance(node, DeliveryNode):
                lines += [f"{'  ' * depth}   {_step_line(step, start)}" for step in node.steps]
        pending = (flow for flow in self.flows if not flow.ended)
        lines += [f"{flow.kind} {flow.name} is not complete, {_since(start, flow.started)}" for flow in pending]
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.render()


def _plain(value: Any) -> Any:
    """Return a value as JSON."""
    if isinstance(value, datetime):
        return as_json_time(value)
    if isinstance(value, Outcome):
        return value.value
    return list(value) if isinstance(value, tuple) else value


def _line(node: EventNode | DeliveryNode, start: datetime) -> str:
    return _event_line(node, start) if isinstance(node, EventNode) else _delivery_line(node, start)


def _event_line(event: EventNode, start: datetime) -> str:
    parts = [f"{event.type} {event.id} from {event.source}", _since(start, event.recorded)]
    if event.priority != DEFAULT_PRIORITY:
        parts.append(f"priority {event.priority}")
    if event.targets:
        parts.append(f"only for {', '.join(event.targets)}")
    if event.replay:
        parts.append(f"by replay {event.replay}")
    return ", ".join(parts)


def _delivery_line(delivery: DeliveryNode, start: datetime) -> str:
    if delivery.outcome == Outcome.UNROUTED:
        return "-> no agent listens to it"
    parts = [f"-> {delivery.agent}: {delivery.outcome.value}"]
    if delivery.started:
        parts.append(_since(start, delivery.started))
        if delivery.ended:
            parts.append(f"took {(delivery.ended - delivery.started).total_seconds():.3f} s")
    if delivery.attempts != 1:
        parts.append(f"{delivery.attempts} attempts")
    if delivery.outcome in (Outcome.QUEUED, Outcome.RETRYING, Outcome.PARKED) and delivery.due:
        parts.append(f"due {_since(start, delivery.due)}")
    if delivery.replay:
        parts.append(f"by replay {delivery.replay}")
    if delivery.error and delivery.outcome != Outcome.SUCCEEDED:
        parts.append(_one_line(delivery.error))
    return ", ".join(parts)


def _step_line(step: StepNode, start: datetime) -> str:
    name = f"{step.name} ({step.number + 1})" if step.number > 0 else step.name
    if not step.name:
        return f"steps forgotten, so done again, {_since(start, step.started)}"
    return f"step {name}, {_since(start, step.started)}, took {(step.ended - step.started).total_seconds():.3f} s"


def _since(start: datetime, when: datetime) -> str:
    return f"{(when - start).total_seconds():+.3f} s"


def _one_line(text: str) -> str:
    """Return the beginning of a text that somebody else has written, fit for a terminal."""
    plain = "".join(char if char.isprintable() else " " for char in text[: 2 * _SHOWN])
    short = " ".join(plain.split())
    return short if len(short) <= _SHOWN else short[: _SHOWN - 3] + "..."
