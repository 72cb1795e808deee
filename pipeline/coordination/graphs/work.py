"""What the steps of a saga or a workflow get, and what it tells: made of its event and of what steps have come to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import orjson

from ...agents.filters.filter import parse
from ...agents.filters.paths import parse_path
from ...agents.payloads import answer_of
from ...core.errors import line_of
from ...core.event import Event
from ...core.outcome import Outcome
from ...families import SagaCompensate, SagaStep
from ...ledger.flows.items import FAILED, MOST_ITEMS, folded, place_of
from ...ledger.flows.rows import COMPLETED, Member, Step
from .graph import Graph, Hold, Node

RUN_IT = "run a worker whose code has it, and it goes on by itself"
#: Makes what a step gets as its data, of the event and of what steps before it came to, by their names.
Makes = Callable[[Event, dict[str, Any]], Any]


class Work:
    """A flow that follows a graph, as it stands.

    Attributes:
        cause: the event that it works on; None when it cannot be read any more.
        steps: its rows, with one for all items of a step.
        results: what its steps have come to, by their names.

    """

    def __init__(self, graph: Graph, rows: Mapping[int, Step], cause: Event | None) -> None:
        self.graph = graph
        self.cause = cause
        self.steps = steps = folded(rows, len(graph.nodes), graph.collecting)
        nodes = list(enumerate(graph.nodes))
        came_to = {node.name: (pos, steps[pos]) for pos, node in nodes if pos in steps}
        #: With what the items have come to of a step that has failed.
        self._came_to = {
            name: orjson.loads(step.result or "null")
            for name, (pos, step) in came_to.items()
            if step.outcome is Outcome.SUCCEEDED or (step.result and graph.nodes[pos].each)
        }
        self.results = {
            name: value for name, value in self._came_to.items() if came_to[name][1].outcome is Outcome.SUCCEEDED
        }
        undone = {pos - len(nodes) for pos, step in steps.items() if step.outcome is Outcome.SUCCEEDED}
        self._undone = [node.name for pos, node in nodes if pos in undone]

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

    def members(self, pos: int, functions: Mapping[str, Makes]) -> dict[int, Member] | Hold:
        """Return the deliveries of a step, or of what undoes one, by position, with the event as its agent gets it.

        A step that cannot begin, since what it is to get cannot be made, is one that has ended; one that gets what a
        function makes that is not declared here holds the flow.
        """
        number = len(self.graph.nodes)
        node = self.graph.nodes[pos % number]
        if pos >= number:
            return {pos: self._member(node.undo or "", self._came_to.get(node.name))}
        if node.computed and node.name not in functions:
            whose = f"{self.graph.kind} {self.graph.name!r} has none for it where this was decided"
            return Hold(f"step {node.name!r} gets what a function makes, and {whose}: {RUN_IT}")
        try:
            if node.each is not None:
                items = _items(node.each, parse_path(node.each).value(self._attributes()))
                each = {place_of(i, pos, number): self._member(node.agent, item) for i, item in enumerate(items)}
                return each or {pos: Member(node.agent, outcome=Outcome.SUCCEEDED, result="[]")}
            return {pos: self._one(node, pos, functions)}
        except Exception as exc:  # whatever the function raises
            return {pos: Member(node.agent, outcome=Outcome.CANCELLED, error=f"it could not begin: {line_of(exc)}")}

    def _one(self, node: Node, pos: int, functions: Mapping[str, Makes]) -> Member:
        if node.computed:
            assert self.cause is not None
            made = functions[node.name](self.cause, dict(self.results))
            return self._member(node.agent, answer_of(f"input= of {node.name}", made))
        is_own = node.input is not None or self.graph.participants  # those of a collaboration get its payload only
        return self._member(node.agent, self._input(pos)) if is_own else Member(node.agent)

    def _member(self, agent: str, data: Any) -> Member:
        return Member(agent) if self.cause is None else Member(agent, self.cause.evolve(data=data).encode())

    def _input(self, pos: int) -> Any:
        """Return the data that a step gets by its paths; without them that of the event."""
        node = self.graph.nodes[pos % len(self.graph.nodes)]
        if node.input is None:
            return self.cause and self.cause.data
        said = self._attributes()
        return {field: parse_path(path).value(said) for field, path in node.input.items()}

    def announced(self, id: str, pos: int, why: str | None, member: Member | None) -> Sequence[Any]:
        """Return what tells that a step, or what undoes one, begins: with all that is known, then with less.

        Arguments:
            why: why it is undone.
            member: the one delivery that it is; None for one for each item of a list.

        """
        number = len(self.graph.nodes)
        name = self.graph.nodes[pos % number].name
        if pos < number:
            less = SagaStep(saga_id=id, step=name)
            gets = orjson.loads(member.body)["data"] if member is not None and member.body else self._input(pos)
            return SagaStep(saga_id=id, step=name, input=gets, results=self.results), less
        less_said = SagaCompensate(saga_id=id, step=name)
        return SagaCompensate(saga_id=id, step=name, result=self._came_to.get(name), reason=why), less_said

    @property
    def errors(self) -> dict[str, str]:
        """What has failed, by the names of the steps."""
        failed = ((node.name, self.steps.get(pos)) for pos, node in enumerate(self.graph.nodes))
        return {n: step.error or step.outcome.value for n, step in failed if step and step.outcome.value in FAILED}

    def ended(self, status: str, reason: str) -> Sequence[tuple[str, Any]]:
        """Return the event that follows from its end: with all that is known, then with less."""
        about = {"original": self.cause and self.cause.data, "results": self.results}
        if status == COMPLETED:
            too_large = {"original": None, "results": None, "error": "its results are too large for one event"}
            return (self.graph.emits, about), (self.graph.emits, too_large)
        more = {"status": status, "error": reason, "compensated": self._undone}
        return (self.graph.fails, {**about, **more}), (self.graph.fails, {"original": None, "results": None, **more})


def _items(each: str, found: Any) -> list[Any]:
    """Return the items of a list; raise ValueError that says why there are none."""
    if not isinstance(found, list):
        raise ValueError(f"each={each!r} is {'missing' if found is None else 'no list'}")
    if len(found) > MOST_ITEMS:
        raise ValueError(f"each={each!r} has {len(found):,} items, and {MOST_ITEMS:,} is the most")
    return found
