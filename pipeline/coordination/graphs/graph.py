"""Sagas and workflows: what follows from what, as data, and a pure function that says what to do next.

Nothing but the rows of the steps' deliveries says how far one has come: so a fact that comes twice, late or in another
order changes nothing, and whoever looks at the rows comes to the same.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, NamedTuple

from ...core.outcome import OPEN, Outcome
from ...ledger.flows import items
from ...ledger.flows.rows import COMPENSATED, COMPLETED, FAILED, WELL, Step

_OPEN = frozenset(outcome.value for outcome in OPEN)
#: Why something is undone when neither a dead step nor its row says it any more.
GIVEN_UP = "it was given up"
#: The attribute of a starter's handler that has its functions, by the names of the steps that get what they make.
FUNCTIONS = "functions"
HELP = "requeue or drop what is dead"
#: Says whether a step's condition is met, by the results so far.
Meets = Callable[[Any], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A step of a graph, as it is kept with the flow.

    Attributes:
        agent: whose delivery it is.
        after: the steps that have to be over before it begins, by name.
        undo: the agent that undoes it; None for nothing to undo.
        input: what it gets as data: by field a path into the event's data or, after `results`, into what steps came to;
            None for the event's data.
        computed: whether a function makes what it gets, that the declaration has under the step's name.
        each: a path to the list for each of whose items it is done; None for once.
        collect: whether it goes on without the items that fail.
        timeout: seconds after which it has failed when it is not done; None for any time.
        when: a filter (JSON data) on the same: the step is left out where that does not match; None for always.
        final: whether nothing is undone any more once it is done: what fails later waits for somebody.

    """

    name: str
    agent: str
    after: tuple[str, ...] = ()
    undo: str | None = None
    input: Mapping[str, str] | None = None
    when: Any = None
    final: bool = False
    computed: bool = False
    each: str | None = None
    collect: bool = False
    timeout: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Graph:
    """What a saga or a workflow was started with; newer versions of the code do not change it."""

    kind: str
    name: str
    emits: str
    fails: str
    source: str
    nodes: tuple[Node, ...]
    #: Of a collaboration: the names of those who take part in it.
    participants: tuple[str, ...] = ()

    @property
    def collecting(self) -> frozenset[int]:
        """The positions of the steps that go on without the items that fail."""
        return frozenset(pos for pos, node in enumerate(self.nodes) if node.collect)

    def as_data(self) -> dict[str, Any]:
        """Return it as JSON data."""
        return asdict(self)

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Graph:
        """Return what as_data() has made; what a newer version has added to it is left out."""
        known = {name: data[name] for name in ("kind", "name", "emits", "fails", "source")}
        names = {field.name for field in fields(Node)}
        nodes = [{name: value for name, value in node.items() if name in names} for node in data["nodes"]]
        known["participants"] = tuple(data.get("participants", ()))
        return cls(**known, nodes=tuple(Node(**{**node, "after": tuple(node.get("after", ()))}) for node in nodes))


class Begin(NamedTuple):
    """A step begins; with a position behind those of all steps it is what undoes one, and says why."""

    pos: int
    why: str | None = None


class Close(NamedTuple):
    """The flow ends."""

    status: str
    reason: str


class Hold(NamedTuple):
    """The flow cannot go on by itself: somebody has to requeue, or drop, what is dead."""

    reason: str


Command = Begin | Close | Hold


class Progress:
    """How far a flow that follows a graph has come.

    Arguments:
        steps: its deliveries, by position; one for all items of a step (see items.folded()).
        meets: evaluates conditions.
        given_up: why it is to be undone, although no step is dead: its time is over, or somebody has said so.

    """

    def __init__(self, graph: Graph, steps: Mapping[int, Step], meets: Meets, given_up: str | None = None) -> None:
        self._graph = graph
        self._steps = steps
        self._meets = meets
        self._given_up = given_up
        self._places = {node.name: pos for pos, node in enumerate(graph.nodes)}
        self._final = [node.name for pos, node in enumerate(graph.nodes) if node.final and self._is(pos, WELL)]
        # Once nothing is undone any more, it goes on without what somebody has dropped.
        dropped = {Outcome.DROPPED.value} if self._final else set[str]()
        self._well, self._failed = {*WELL} | dropped, items.FAILED - dropped

    def next(self) -> list[Command]:
        """Return what is to be done now; nothing while steps run on which it depends."""
        is_undoing = any(pos >= len(self._graph.nodes) for pos in self._steps)
        why = self._given_up or self._first_failure() or (GIVEN_UP if is_undoing else None)
        is_open = [pos for pos in self._places.values() if self._is(pos, _OPEN)]
        if why is None:
            begin = [Begin(pos) for pos in self._places.values() if self._may_begin(pos)]
            if begin or is_open:
                return [*begin]
            return [Close(COMPLETED, "all")]
        if is_open:  # what it has done by then is undone, too
            return []
        return self._undo(why)

    def _undo(self, why: str) -> list[Command]:
        nodes = self._graph.nodes
        if self._final:
            return [Hold(f"{why}; nothing is undone after {self._final[0]!r}: {HELP}")]
        done = [pos for pos in self._places.values() if self._is(pos, WELL) or self._is_partly_done(pos)]
        undoable = [pos for pos in done if nodes[pos].undo is not None]
        for pos in sorted(undoable, key=lambda pos: (-(self._steps[pos].ended or 0), -pos)):
            place = len(nodes) + pos
            if place not in self._steps:
                return [Begin(place, why)]
            if self._is(place, _OPEN):
                return []
            if self._steps[place].outcome is Outcome.DEAD:
                return [Hold(f"what undoes {nodes[pos].name!r} is dead: requeue it, or drop it to go on without it")]
        return [Close(COMPENSATED if undoable else FAILED, why)]

    def _is_partly_done(self, pos: int) -> bool:
        """Say whether a step has failed, and some of its items are done."""
        has_items = self._graph.nodes[pos].each is not None
        return has_items and self._is(pos, items.FAILED) and self._steps[pos].result is not None

    def _first_failure(self) -> str | None:
        failed = [(self._steps[pos].ended or 0, pos) for pos in self._places.values() if self._is(pos, self._failed)]
        if not failed:
            return None
        step = self._steps[min(failed)[1]]
        return f"step {self._graph.nodes[step.pos].name!r} is {step.outcome.value}: {step.error or 'no reason'}"

    def _may_begin(self, pos: int) -> bool:
        node = self._graph.nodes[pos]
        if pos in self._steps or not all(self._is_over(self._places[name]) for name in node.after):
            return False
        return not self._is_left_out(pos)

    def _is_over(self, pos: int) -> bool:
        """Say whether a step has ended well, or never begins: all before it are over, and it is not wanted."""
        if pos in self._steps:
            return self._is(pos, self._well)
        before = self._graph.nodes[pos].after
        return all(self._is_over(self._places[name]) for name in before) and self._is_left_out(pos)

    def _is_left_out(self, pos: int) -> bool:
        """Say whether a step is not wanted: its condition is not met, or all that it comes after were left out."""
        node = self._graph.nodes[pos]
        if node.after and not any(self._is(self._places[name], self._well) for name in node.after):
            return True
        return node.when is not None and not self._meets(node.when)

    def _is(self, pos: int, outcomes: Collection[str]) -> bool:
        return pos in self._steps and self._steps[pos].outcome.value in outcomes


def circle_in(after: Mapping[str, Sequence[str]]) -> list[str]:
    """Return the names of a circle of steps that wait for each other; nothing when there is none."""
    over: set[str] = set()
    while ready := [name for name, names in after.items() if name not in over and over.issuperset(names)]:
        over.update(ready)
    left = [name for name in after if name not in over]
    way: list[str] = []
    at = left[0] if left else None
    while at is not None and at not in way:
        way.append(at)
        at = next((name for name in after[at] if name in left), None)
    return way[way.index(at) :] if at in way else way
