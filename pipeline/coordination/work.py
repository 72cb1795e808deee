"""What the steps of a saga or a workflow get, and what it tells: made of its event and of what steps have come to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from ..agents.filters.filter import parse
from ..agents.filters.paths import parse_path
from ..core.event import Event
from ..core.outcome import Outcome
from ..families import SagaCompensate, SagaStep
from ..ledger.flows.rows import COMPLETED, Member, Step
from .graph import Begin, Command, Graph


class Work:
    """A flow that follows a graph, as it stands.

    Attributes:
        cause: the event that it works on; None when it cannot be read any more.
        results: what its steps have come to, by their names.

    """

    def __init__(self, graph: Graph, steps: Mapping[int, Step], cause: Event | None) -> None:
        self.graph = graph
        self.cause = cause
        self._steps = steps
        done = {pos: step for pos, step in steps.items() if step.outcome is Outcome.SUCCEEDED}
        nodes = list(enumerate(graph.nodes))
        self.results = {node.name: orjson.loads(done[pos].result or "null") for pos, node in nodes if pos in done}
        self._undone = [node.name for pos, node in nodes if len(nodes) + pos in done]

    def is_undoing(self, commands: Sequence[Command]) -> bool:
        """Say whether it undoes what it has done."""
        first = len(self.graph.nodes)
        return any(isinstance(one, Begin) and one.pos >= first for one in commands) or max(self._steps) >= first

    def _attributes(self) -> dict[str, Any]:
        """Return the event's attributes, with the results so far in its data."""
        if self.cause is None:
            return {"data": {"results": self.results}}
        attributes = self.cause.attributes()
        data = attributes.get("data")
        own = data if isinstance(data, dict) else {}
        return {**attributes, "data": {**own, "results": self.results}}

    def meets(self, when: Any) -> bool:
        """Say whether a condition is met; what is missing does not."""
        return parse(when).matches(self._attributes())

    def member(self, pos: int) -> Member:
        """Return a step, or what undoes one, with the event as its agent gets it."""
        number = len(self.graph.nodes)
        node = self.graph.nodes[pos % number]
        agent = node.agent if pos < number else node.undo or ""
        if self.cause is None or (pos < number and node.input is None):
            return Member(agent)
        return Member(agent, self.cause.evolve(data=self._input(pos)).encode())

    def _input(self, pos: int) -> Any:
        """Return the data that a step gets: what it asks for, and what undoes one, what that came to."""
        number = len(self.graph.nodes)
        node = self.graph.nodes[pos % number]
        if pos >= number:
            return self.results.get(node.name)
        if node.input is None:
            return self.cause and self.cause.data
        said = self._attributes()
        return {field: parse_path(path).value(said) for field, path in node.input.items()}

    def announced(self, id: str, pos: int, why: str | None = None) -> Sequence[Any]:
        """Return what tells that a step, or what undoes one, begins: with all that is known, then with less."""
        number = len(self.graph.nodes)
        name = self.graph.nodes[pos % number].name
        if pos < number:
            less = SagaStep(saga_id=id, step=name)
            return SagaStep(saga_id=id, step=name, input=self._input(pos), results=self.results), less
        less_said = SagaCompensate(saga_id=id, step=name)
        return SagaCompensate(saga_id=id, step=name, result=self.results.get(name), reason=why), less_said

    def ended(self, status: str, reason: str) -> Sequence[tuple[str, Any]]:
        """Return the event that follows from its end: with all that is known, then with less."""
        about = {"original": self.cause and self.cause.data, "results": self.results}
        if status == COMPLETED:
            too_large = {"original": None, "results": None, "error": "its results are too large for one event"}
            return (self.graph.emits, about), (self.graph.emits, too_large)
        more = {"status": status, "error": reason, "compensated": self._undone}
        return (self.graph.fails, {**about, **more}), (self.graph.fails, {"original": None, "results": None, **more})
