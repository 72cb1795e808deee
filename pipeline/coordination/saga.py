"""Sagas, whose steps are undone when a later one fails, and workflows, whose steps follow each other as a graph."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from typing import Any

from ..agents.agent import Agent
from ..agents.context import Context
from ..agents.filters import Where, parse
from ..agents.filters.paths import parse_path, text_at
from ..agents.strand import aside
from ..core.errors import InvalidAgent, InvalidEvent, nearest
from ..core.event import Event
from ..core.ids import derived_id
from ..core.times import SECOND, now, seconds_of
from ..core.topics import check_type
from ..ledger.flows.rows import Start, as_json
from .graph import Begin, Graph, Node, Progress, circle_in
from .work import Work

#: Steps that a saga or a workflow may have.
MOST = 500


@dataclass(frozen=True, slots=True)
class FlowStep:
    """A step as step() takes it."""

    agent: Agent
    undo: Agent | None = None
    input: Mapping[str, str] | None = None
    after: Sequence[str] = ()
    when: Where = None
    final: bool = False
    name: str | None = None


def step(
    agent: Agent,
    *,
    undo: Agent | None = None,
    input: Mapping[str, str] | None = None,
    after: str | Iterable[str] = (),
    when: Where = None,
    final: bool = False,
    name: str | None = None,
) -> FlowStep:
    """Return a step of a saga or a workflow.

    Arguments:
        agent: what does it; what it returns is the step's result.
        undo: the agent that undoes it, when a later step fails; it gets the step's result as its data.
        input: what the step gets as its data: by field a path, into the event's data ("data.total"), or into what
            steps before it came to ("results.reserve.id"); default the event's data.
        after: the steps of a workflow that have to be over before it, by name; a saga's go one after the other.
        when: a filter on the event's data and on `results`: where it does not match, the step is left out.
        final: whether nothing is undone any more once it is done: what fails later waits for somebody who helps.
        name: default the agent's.

    """
    names = (after,) if isinstance(after, str) else tuple(after)
    return FlowStep(agent, undo, input, names, when, final, name)


class Starter:
    """The handler of the agent that starts a saga or a workflow.

    Arguments:
        kind: "saga" or "workflow".
        steps: in the order in which they are named.
        key: a path to what there is one of for each value.
        is_there: says whether there is a flow of an id.

    Raises InvalidAgent, InvalidEvent or InvalidFilter when the declaration is wrong.

    """

    def __init__(
        self,
        kind: str,
        name: str,
        steps: Sequence[FlowStep],
        *,
        emits: str,
        fails: str,
        source: str,
        key: str | None,
        deadline: float | timedelta | str | None,
        is_there: Callable[[str], bool],
    ) -> None:
        what = f"{kind} {name!r}"
        self._what, self._key, self._is_there = what, key, is_there
        if key is not None:
            parse_path(key, f"{what}: key")
        self._deadline = None if deadline is None else seconds_of(deadline, f"{what}: deadline")
        nodes = _nodes(what, steps, chained=kind == "saga")
        self.agents = tuple(dict.fromkeys(name for node in nodes for name in (node.agent, node.undo) if name))
        emits, fails = check_type(emits), check_type(fails)
        self.graph = Graph(kind=kind, name=name, emits=emits, fails=fails, source=source, nodes=nodes)
        self._as_json = as_json(self.graph.as_data())

    def __call__(self, event: Event, ctx: Context) -> None:
        """Write down the flow and the steps that begin, together with the success of the delivery that starts it."""
        id = ctx.delivery_id
        if self._key is not None:
            value = text_at(self._key, event.attributes())
            if value is None:
                raise InvalidEvent(f"{self._what}: key={self._key!r} is missing in {event.type} {event.id}")
            id = derived_id(derived_id("flow", self.graph.name), value)
            if aside(partial(self._is_there, id)):
                return
        work = Work(self.graph, {}, event)
        begin = [one.pos for one in Progress(self.graph, {}, work.meets).next() if isinstance(one, Begin)]
        if not begin:
            raise InvalidEvent(f"{self._what}: no step is wanted for {event.type} {event.id}, by their conditions")
        due = None if self._deadline is None else now() + round(self._deadline * SECOND)
        about = (self.graph.name, self.graph.kind, event.key, event.correlation_id, self._as_json)
        members = {pos: work.member(pos) for pos in begin}
        for row in Start(id, *about, members, due, number=len(self.graph.nodes)).rows():
            ctx.write(row)
        if self.graph.kind == "saga":
            for pos in begin:
                ctx.publish(work.announced(id, pos)[0])


def starter(flow: Starter) -> Callable[[Event, Context], None]:
    """Return it as a function, as agents are declared with."""

    def start(event: Event, ctx: Context) -> None:
        flow(event, ctx)

    return start


def steps_of(kind: str, name: str, steps: Iterable[Any] | Mapping[str, Any]) -> list[FlowStep]:
    """Return what somebody has declared as steps: agents, or step(...), in a list, or by name; raise InvalidAgent."""
    named: Iterable[tuple[Any, Any]] = steps.items() if isinstance(steps, Mapping) else ((None, one) for one in steps)
    found = []
    for own, given in named:
        made: FlowStep = given if isinstance(given, FlowStep) else FlowStep(given)
        agents: list[Any] = [made.agent, *([] if made.undo is None else [made.undo])]
        for agent in agents:
            if not isinstance(agent, Agent):
                raise InvalidAgent(f"{kind} {name!r}: {agent!r} is not an agent; decorate it with @app.agent() first")
        found.append(replace(made, name=own or made.name or made.agent.name))
    return found


def _nodes(what: str, steps: Sequence[FlowStep], *, chained: bool) -> tuple[Node, ...]:
    names = [str(one.name) for one in steps]
    if not 1 <= len(steps) <= MOST:
        raise InvalidAgent(f"{what} has {len(steps)} steps; it may have 1 to {MOST}")
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise InvalidAgent(f"{what}: two steps are called {twice!r}; give one of them another name=")
    after = {name: tuple(one.after) for name, one in zip(names, steps, strict=True)}
    if chained:
        if used := next((name for name in names if after[name]), None):
            raise InvalidAgent(f"{what}: step {used!r} has after=; a saga's steps go one after the other")
        after = {name: (names[number - 1],) if number else () for number, name in enumerate(names)}
    for name, others in after.items():
        for other in others:
            if other not in after:
                raise InvalidAgent(f"{what}: step {name!r} comes after {other!r}; {nearest(other, names)}")
    if circle := circle_in(after):
        raise InvalidAgent(f"{what}: its steps wait for each other: {' -> '.join([*circle, circle[0]])}")
    return tuple(_node(what, one, after) for one in steps)


def _node(what: str, one: FlowStep, after: Mapping[str, tuple[str, ...]]) -> Node:
    name = str(one.name)
    for field, path in (one.input or {}).items():
        parse_path(path, f"{what}: step {name!r}: input {field!r}")
        first, _, rest = path.removeprefix("data.").removeprefix("payload.").partition(".")
        if first == "results" and rest:
            _check_result(what, name, rest.partition(".")[0], after)
    when = parse(one.when)
    return Node(
        name=name,
        agent=one.agent.name,
        after=after[name],
        undo=None if one.undo is None else one.undo.name,
        input=None if one.input is None else dict(one.input),
        when=when.as_data() if when.nodes else None,
        final=one.final,
    )


def _check_result(what: str, name: str, asked: str, after: Mapping[str, tuple[str, ...]]) -> None:
    """Raise InvalidAgent where a step asks for the result of one that is not over when it begins."""
    before: set[str] = set()
    more = [*after[name]]
    while more:
        other = more.pop()
        if other not in before:
            before.add(other)
            more += after[other]
    if asked not in before:
        there = nearest(asked, before) if before else "it is the first one"
        raise InvalidAgent(f"{what}: step {name!r} asks for the result of {asked!r}, which is not before it; {there}")
