"""Flows for those who look: which there are, how far one has come, and its picture."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol

import orjson

from ...core.errors import InvalidSelection, nearest
from ...core.outcome import Outcome
from ...core.times import as_json_time, moment
from ...ledger.flows.items import folded, is_undo
from ...ledger.flows.rows import STATUSES, Step
from ..graphs.held import held_by
from ..graphs.picture import Picture, mermaid, picture
from ..graphs.plan import DEADLINE, clocks_of
from .verbs import Verbs

if TYPE_CHECKING:
    from sqlalchemy import Row

    from ...bus import Bus

#: The fewest characters of an id that stand for it.
SHORTEST_PREFIX = 8
_SAID = ("id", "name", "kind", "status", "event_id", "correlation", "members", "done", "failed", "reason")
_TIMES = ("started", "ended")


@dataclass(frozen=True)
class Flow:
    """A flow as it stands.

    Attributes:
        id: that of the delivery that has started it.
        kind: what it is, such as "join".
        status: active, completed, failed, cancelled, compensating, compensated or stuck.
        event_id: the event that it works on.
        members, done, failed: how many steps it has, have ended well, and are dead.
        due: when it ends in any case.
        reason: what it was complete by, or why it has failed.
        definition: what it follows, where the whole was asked for.
        steps: its steps, likewise.
        outer: the flow that it is a step of; None for none.
        inner: the flows that are steps of it.

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
    outer: str | None = None
    inner: tuple[str, ...] = ()

    def as_data(self) -> dict[str, Any]:
        """Return it as JSON data, with its definition and its steps where they are known."""
        data = {name: getattr(self, name) for name in _SAID}
        data |= {name: as_json_time(getattr(self, name)) for name in _TIMES}
        if not self.definition:
            return data
        steps = [{**step._asdict(), "result": orjson.loads(step.result or "null")} for step in self.steps]
        return {**data, "outer": self.outer, "inner": self.inner, "definition": self.definition, "steps": steps}

    def title(self, step: Step) -> str:
        """Return what people call a step: its name, with "undo" before that of what undoes one; a member's number."""
        nodes = self.definition.get("nodes", ())
        if not nodes:
            return str(step.pos)
        name = str(nodes[step.pos % len(nodes)]["name"])
        if is_undo(step.pos, len(nodes)):
            return f"undo {name}"
        return name if step.pos < len(nodes) else f"{name} {step.pos // len(nodes) - 2}"

    @property
    def picture(self) -> Picture:
        """The steps with what has become of them, what follows what, and the event that follows."""
        return picture(f"{self.kind} {self.name}", self.status, self.reason, self.definition, self.steps)

    @property
    def mermaid(self) -> str:
        """Its picture as a text for Mermaid."""
        return mermaid(self.picture)


class Letters(Protocol):
    """What gives dead letters back, or drops them: see DeadLetters."""

    def requeue(self, ids: Iterable[str], *, by: str = "") -> Any:
        """Give them back to their agents; of what is returned `number` says how many were."""

    def drop(self, ids: Iterable[str], *, by: str = "") -> Any:
        """Decide that they are not to be handled; likewise."""


class Instances:
    """The flows of an app's ledger.

    Arguments:
        letters: the app's dead letters.

    """

    def __init__(self, bus: Bus, letters: Letters) -> None:
        self._bus = bus
        self._flows = bus.ledger.waiting.flows
        self._letters = letters

    def list(self, *, name: str | None = None, status: str | None = None, limit: int = 100) -> list[Flow]:
        """Return flows, the newest first.

        Arguments:
            name: only those of this join, saga or workflow.
            status: only those that are so, as in Flow.
            limit: how many at most.

        Raises InvalidSelection for a status that there is none of.

        """
        if status is not None and status not in STATUSES:
            raise InvalidSelection(f"status: no flow is {status!r}; {nearest(status, STATUSES)}")
        statuses = None if status is None else (status,)
        return [_flow(row) for row in self._flows.recent(name=name, statuses=statuses, limit=limit)]

    def show(self, id: str) -> Flow:
        """Return a flow with its definition and its steps.

        Arguments:
            id: its id, or its first 8 characters.

        Raises UnknownFlow.

        """
        row, definition, steps = self._flows.show(id, prefix=len(id) >= SHORTEST_PREFIX)
        outer, inner = self._flows.around(row.id)
        return _flow(row, definition=orjson.loads(definition), steps=steps, outer=outer, inner=inner)

    def abort(self, id: str, reason: str = "somebody has given it up") -> bool:
        """Give a saga or workflow up: what it has done is undone; say whether it had not ended before.

        Raises UnknownFlow, and InvalidSelection for a join, which has nothing to undo.
        """
        flow = self.show(id)
        if "nodes" not in flow.definition:
            told = f"{flow.id} is a {flow.kind}, which has nothing to undo"
            raise InvalidSelection(f"{told}; `pipeline flows cancel` stops it, `pipeline cancel --tree` all around it")
        return Verbs(self._bus).abort(flow.id, reason)

    def cancel(self, id: str, reason: str = "somebody has cancelled it") -> bool:
        """Stop a flow as it stands, with the flows that are its steps: nothing is undone, and no event follows.

        Say whether it had not ended before. Raises UnknownFlow.
        """
        return Verbs(self._bus).cancel(self.show(id).id, reason)

    def resume(self, id: str, *, by: str = "") -> Sequence[str]:
        """Let a flow that is stuck go on: what holds it is done again; return the names of those steps.

        A step that is a flow starts another one instead of one that has ended badly. Raises UnknownFlow, and
        InvalidSelection when it has ended, has no steps that hold it, is held by a step whose handler still runs after
        its time, or somebody else was quicker.
        """
        return self._again(self._going_on(id), None, by)

    def retry_step(self, id: str, step: str, *, by: str = "") -> Sequence[str]:
        """Do a step again that has failed, or what undoes it, by its name; errors are those of resume()."""
        return self._again(self._going_on(id), step, by)

    def skip(self, id: str, step: str, *, by: str = "") -> Sequence[str]:
        """Let a flow go on without a step that holds it, or without what undoes it; errors are those of resume()."""
        flow = self._going_on(id)
        holding = held_by(flow.definition, flow.status, flow.steps, step=step, to_skip=True)
        if not holding and (failed := held_by(flow.definition, flow.status, flow.steps, step=step)):
            raise InvalidSelection(
                f"step {self._names(flow, failed, step)[0]!r} has failed before a point of no return: what {flow.kind} "
                f"{flow.name} {flow.id} has done is undone, and does not go on without it; `pipeline flows retry-step` "
                "does the step again"
            )
        mover, names = Verbs(self._bus), self._names(flow, holding, step)
        dead = [one.id for one in holding if one.outcome is Outcome.DEAD]
        changed = self._letters.drop(dead, by=by).number if dead else 0
        self._check_changed(flow, names, changed + mover.do_without(flow.id, holding))
        return names

    def _going_on(self, id: str) -> Flow:
        flow = self.show(id)
        if flow.ended:
            raise InvalidSelection(f"{flow.kind} {flow.name} {flow.id} has ended ({flow.status}); nothing was changed")
        return flow

    def _again(self, flow: Flow, step: str | None, by: str) -> Sequence[str]:
        holding = held_by(flow.definition, flow.status, flow.steps, step=step)
        mover = Verbs(self._bus)
        if step is None and not holding:  # it may be held by what a newer version of the code has
            mover.look_again(flow.id)
            return []
        names = self._names(flow, holding, step)
        dead = [one.id for one in holding if one.outcome is Outcome.DEAD]
        self._check_ended(flow, holding)
        changed = self._letters.requeue(dead, by=by).number if dead else 0
        self._check_changed(flow, names, changed + mover.begin_anew(flow.id, holding))
        return names

    def _check_changed(self, flow: Flow, names: Sequence[str], changed: int) -> None:
        """Raise InvalidSelection where nothing was changed: somebody else has helped in this moment."""
        if not changed:
            steps = ", ".join(repr(name) for name in names)
            raise InvalidSelection(
                f"step {steps} of {flow.kind} {flow.name} {flow.id}: somebody else was quicker, or its dead letter "
                "cannot be given back (see the log); nothing was changed"
            )

    def _check_ended(self, flow: Flow, holding: Sequence[Step]) -> None:
        """Raise InvalidSelection where the handler of a step still runs: its end would be taken for the new one's."""
        running = self._flows.running_on(flow.id)
        for one in holding:
            if one.id in running:
                (name,) = self._names(flow, [one], None)
                raise InvalidSelection(
                    f"step {name!r} of {flow.kind} {flow.name} {flow.id} is {one.outcome}, and its handler still runs "
                    f"on worker {running[one.id]}, whose end would be taken for that of a new run: say it again when "
                    "that has ended, or its worker was stopped; `pipeline flows skip` goes on without it"
                )

    @staticmethod
    def _names(flow: Flow, holding: Sequence[Step], step: str | None) -> Sequence[str]:
        """Return the names of steps; raise InvalidSelection that says why there are none."""
        names = [node["name"] for node in flow.definition.get("nodes", ())]
        if holding:
            return list(dict.fromkeys(names[one.pos % len(names)] for one in holding))
        told = f"{flow.kind} {flow.name} {flow.id}"
        if not names:
            raise InvalidSelection(
                f"{told} has no steps that hold it: requeue, or drop, the dead letters of its members"
            )
        if step not in names:
            raise InvalidSelection(f"{told} has no step {step!r}; {nearest(str(step), names)}")
        known = folded({one.pos: one for one in flow.steps}, len(names))
        pos = names.index(step)
        own, undoing = known.get(pos), known.get(pos + len(names))
        is_now = "it has not begun" if own is None else f"it is {own.outcome}"
        is_now += "" if undoing is None else f", and what undoes it is {undoing.outcome}"
        raise InvalidSelection(f"step {step!r} does not hold {told} ({flow.status}): {is_now}; nothing was changed")

    def check(self) -> Sequence[tuple[Flow, Sequence[str]]]:
        """Return the flows that go on and need what is not declared in this process, with the names of that.

        Those are agents, and functions that make what steps get: "input of NAME", by the step's name.
        """
        found = []
        for row, definition, waiting in self._flows.going_on():
            flow = _flow(row, definition=orjson.loads(definition))
            nodes = flow.definition.get("nodes", ())
            named = (name for node in nodes for name in (node["agent"], node["undo"]) if name)
            missing = [name for name in dict.fromkeys([*named, *waiting]) if name not in self._bus.agents]
            functions = Verbs(self._bus).functions(flow.name)
            missing += [f"input of {n['name']}" for n in nodes if n.get("computed") and n["name"] not in functions]
            found += [(flow, missing)] if missing else []
        return found


def _flow(row: Row[Any], **more: Any) -> Flow:
    about = {name: getattr(row, name) for name in _SAID}
    about |= {name: None if (at := getattr(row, name)) is None else moment(at) for name in _TIMES}
    end = clocks_of(row.clocks, row.due).get(DEADLINE)
    about["due"] = None if end is None else moment(end)
    return Flow(**about, **more)
