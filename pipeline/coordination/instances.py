"""Flows for those who look: which there are, how far one has come, and its picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

import orjson

from ..core.errors import InvalidSelection, nearest
from ..core.times import as_json_time, moment
from ..ledger.flows.rows import STATUSES, Step
from .flows import Flows as Mover

if TYPE_CHECKING:
    from sqlalchemy import Row

    from ..bus import Bus

#: The fewest characters of an id that stand for it.
SHORTEST_PREFIX = 8
_SAID = ("id", "name", "kind", "status", "event_id", "correlation", "members", "done", "failed", "reason")
_TIMES = ("started", "ended", "due")
#: Colours of a step's outcome in a picture; others have none.
_COLOURS = {
    "succeeded": "#2e7d32", "running": "#1565c0", "dead": "#c62828", "dropped": "#c62828", "cancelled": "#757575",
    "late": "#757575", "parked": "#b26a00", "retrying": "#b26a00",
}  # fmt: skip


@dataclass(frozen=True)
class Flow:
    """A flow as it stands.

    Attributes:
        id: that of the delivery that has started it.
        kind: what it is, such as "join".
        status: active, completed, failed or cancelled.
        event_id: the event that it works on.
        members, done, failed: how many steps it has, have ended well, and are dead.
        due: when it ends in any case.
        reason: what it was complete by, or why it has failed.
        definition: what it follows, where the whole was asked for.
        steps: its steps, likewise.

    """

    id: str
    name: str
    kind: str
    status: str
    event_id: str
    correlation: str
    members: int
    done: int
    failed: int
    started: datetime
    ended: datetime | None
    due: datetime | None
    reason: str | None
    definition: dict[str, Any] = field(default_factory=dict)
    steps: Sequence[Step] = ()

    def as_data(self) -> dict[str, Any]:
        """Return it as JSON data, with its definition and its steps where they are known."""
        data = {name: getattr(self, name) for name in _SAID}
        data |= {name: as_json_time(getattr(self, name)) for name in _TIMES}
        if not self.definition:
            return data
        steps = [{**step._asdict(), "result": orjson.loads(step.result or "null")} for step in self.steps]
        return {**data, "definition": self.definition, "steps": steps}

    @property
    def mermaid(self) -> str:
        """Its picture as a text for Mermaid: the steps with what has become of them, and the event that follows."""
        lines = ["flowchart LR", f'    start(["{self.kind} {self.name}"])']
        for step in self.steps:
            lines.append(f'    s{step.pos}["{step.agent}: {step.outcome.value}"]')
            lines.append(f"    start --> s{step.pos} --> end_")
            if step.outcome.value in _COLOURS:
                lines.append(f"    style s{step.pos} stroke:{_COLOURS[step.outcome.value]},stroke-width:2px")
        follows = self.definition.get("fails" if self.status == "failed" else "emits", "")
        lines.append(f'    end_(["{follows}: {self.reason or self.status}"])')
        return "\n".join(lines)


class Instances:
    """The flows of an app's ledger."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._flows = bus.ledger.waiting.flows

    def list(self, *, name: str | None = None, status: str | None = None, limit: int = 100) -> list[Flow]:
        """Return flows, the newest first.

        Arguments:
            name: only those of this join.
            status: only those that are so: active, completed, failed or cancelled.
            limit: how many at most.

        Raises InvalidSelection for a status that there is none of.

        """
        if status is not None and status not in STATUSES:
            raise InvalidSelection(f"status: no flow is {status!r}; {nearest(status, STATUSES)}")
        return [_flow(row) for row in self._flows.recent(name=name, status=status, limit=limit)]

    def show(self, id: str) -> Flow:
        """Return a flow with its definition and its steps.

        Arguments:
            id: its id, or its first 8 characters.

        Raises UnknownFlow.

        """
        row, definition, steps = self._flows.show(id, prefix=len(id) >= SHORTEST_PREFIX)
        return _flow(row, definition=orjson.loads(definition), steps=steps)

    def abort(self, id: str, reason: str = "somebody has given it up") -> bool:
        """Give a saga or workflow up: what it has done is undone; say whether it had not ended before.

        Raises UnknownFlow, and InvalidSelection for a join, which has nothing to undo.
        """
        flow = self.show(id)
        if flow.kind == "join":
            raise InvalidSelection(f"{flow.id} is a join, which has nothing to undo; `pipeline cancel --tree` stops it")
        return Mover(self._bus).abort(flow.id, reason)

    def check(self) -> Sequence[tuple[Flow, Sequence[str]]]:
        """Return the flows that go on and need agents that are not declared in this process, with those agents."""
        found = []
        for row, definition, waiting in self._flows.going_on():
            flow = _flow(row, definition=orjson.loads(definition))
            nodes = flow.definition.get("nodes", ())
            named = (name for node in nodes for name in (node["agent"], node["undo"]) if name)
            missing = [name for name in dict.fromkeys([*named, *waiting]) if name not in self._bus.agents]
            found += [(flow, missing)] if missing else []
        return found


def _flow(row: Row[Any], **more: Any) -> Flow:
    about = {name: getattr(row, name) for name in _SAID}
    about |= {name: None if (at := getattr(row, name)) is None else moment(at) for name in _TIMES}
    return Flow(**about, **more)
