"""Sagas, whose steps are undone when a later one fails, and workflows, whose steps follow each other as a graph."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import orjson

from ...agents.agent import Agent
from ...agents.context import Context
from ...agents.filters import Where, parse
from ...agents.filters.paths import parse_path, text_at
from ...agents.strand import aside
from ...core.errors import InvalidAgent, InvalidEvent, nearest
from ...core.event import Event
from ...core.ids import derived_id
from ...core.times import SECOND, now, time_limit
from ...core.topics import check_type
from ...ledger.flows.rows import Start, as_json
from ..graphs.graph import Graph, Node, circle_in
from ..graphs.plan import DEADLINE, Plan, as_row, planned, wound
from ..graphs.work import Makes
from .inner import as_step
from .join import OnFailure

if TYPE_CHECKING:
    from ...ledger.flows.flows import Flows

#: Steps that a saga or a workflow may have.
MOST = 500


#: What a step gets: by field a path, or a function that makes it.
Input = Mapping[str, str] | Makes


@dataclass(frozen=True, slots=True)
class FlowStep:
    """A step as step() takes it."""

    agent: Agent
    undo: Agent | None = None
    input: Input | None = None
    after: Sequence[str] = ()
    when: Where = None
    final: bool = False
    name: str | None = None
    each: str | None = None
    on_failure: OnFailure = "fail"
    timeout: float | timedelta | str | None = None


def step(
    agent: Agent,
    *,
    undo: Agent | None = None,
    input: Input | None = None,
    after: str | Iterable[str] = (),
    when: Where = None,
    final: bool = False,
    name: str | None = None,
    each: str | None = None,
    on_failure: OnFailure = "fail",
    timeout: float | timedelta | str | None = None,
) -> FlowStep:
    """Return a step of a saga or a workflow.

    Arguments:
        agent: what does it; what it returns is the step's result. The agent that a join, a saga or a workflow is does
            it with all of its own steps, whose results are the step's result.
        undo: the agent that undoes it, when a later step fails; it gets the step's result as its data.
        input: what the step gets as its data: by field a path, into the event's data ("data.total"), or into what
            steps before it came to ("results.reserve.id"); or a function of the event and of those results, which
            returns it. Default the event's data.
        after: the steps of a workflow that have to be over before it, by name; a saga's go one after the other.
        when: a filter on the event's data and on `results`: where it does not match, the step is left out.
        final: whether nothing is undone any more once it is done: what fails later waits for somebody who helps.
        name: default the agent's.
        each: a path to a list, as those of `input`: the step is done for each of its items, which are its data, side by
            side, and its result is the list of theirs, in the same order.
        on_failure: what an item that fails does with `each`: "fail", or "collect": `null` stands for its result.
        timeout: seconds, a timedelta or a text such as "10m", from when the step begins: what is not done then has
            failed, whatever it comes to later.

    """
    names = (after,) if isinstance(after, str) else tuple(after)
    return FlowStep(agent, undo, input, names, when, final, name, each, on_failure, timeout)


class Starter:
    """The handler of the agent that starts a saga or a workflow.

    Arguments:
        kind: "saga" or "workflow".
        steps: in the order in which they are named.
        key: a path to what there is one of for each value.
        flows: opens the ledger's flows.

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
        flows: Callable[[], Flows],
    ) -> None:
        what = f"{kind} {name!r}"
        self._what, self._key, self._flows = what, key, flows
        if key is not None:
            parse_path(key, f"{what}: key")
        self._deadline = None if deadline is None else time_limit(deadline, f"{what}: deadline", InvalidAgent)
        nodes = nodes_of(what, steps, chained=kind == "saga")
        self.agents = tuple(dict.fromkeys(name for node in nodes for name in (node.agent, node.undo) if name))
        emits, fails = check_type(emits), check_type(fails)
        self.functions = {str(one.name): one.input for one in steps if callable(one.input)}
        self.graph = Graph(kind=kind, name=name, emits=emits, fails=fails, source=source, nodes=nodes)
        self._as_json = as_json(self.graph.as_data())

    def __call__(self, event: Event, ctx: Context) -> Any:
        """Write down the flow and the steps that begin, together with the success of the delivery that starts it."""
        id = self._id(event, ctx)
        if ctx.in_flow:
            return as_step(self._flows, ctx, id, partial(self._start, event, ctx))
        if self._key is not None and aside(lambda: self._flows().is_there(id)):
            return None
        return self._start(event, ctx, id)

    def _id(self, event: Event, ctx: Context) -> str:
        """Return the id of the flow: that of the delivery which starts it, or one for each business key."""
        if self._key is None:
            return ctx.delivery_id
        value = text_at(self._key, event.attributes())
        if value is None:
            raise InvalidEvent(f"{self._what}: key={self._key!r} is missing in {event.type} {event.id}")
        return derived_id(derived_id("flow", self.graph.name), value)

    def _start(self, event: Event, ctx: Context, id: str, origin: str | None = None) -> None:
        plan = planned(self.graph, {}, event, self.functions, id)
        if not plan.begun:
            raise InvalidEvent(f"{self._what}: no step is wanted for {event.type} {event.id}, by their conditions")
        about = (self.graph.name, self.graph.kind, event.key, event.correlation_id, self._as_json)
        start, step = start_of(id, about, plan, self._deadline), ctx.delivery_id if ctx.in_flow else None
        for row in start._replace(step=step, origin=origin, keyed=self._key is not None).rows():
            ctx.write(row)
        for begun in plan.begun if self.graph.kind == "saga" else ():
            ctx.publish(begun.work.announced(id, begun.pos, None, begun.members.get(begun.pos))[0])


def start_of(id: str, about: tuple[str, str, str, str, bytes], plan: Plan, deadline: float | None) -> Start:
    """Return what is written when a flow starts.

    Arguments:
        about: its name, its kind, its event's id and correlation, and its definition.
        deadline: seconds after which it is given up.

    """
    at = now()
    clocks = {} if deadline is None else {DEADLINE: at + round(deadline * SECOND)}
    times: dict[str, Any] = as_row(wound(clocks, plan, at))
    if plan.end is not None:  # nothing is left to be done: the next sweep ends it
        times = {"due": at, "clocks": orjson.dumps(clocks).decode()}
    members = {pos: member for begun in plan.begun for pos, member in begun.members.items()}
    return Start(id, *about, members, number=plan.counts.members, need=plan.need, **times)


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


def nodes_of(what: str, steps: Sequence[FlowStep], *, chained: bool) -> tuple[Node, ...]:
    """Return steps as they are kept with a flow; raise InvalidAgent or InvalidFilter that says what is wrong.

    Arguments:
        chained: whether they go one after the other.

    """
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
    is_function = callable(one.input)
    paths = {} if one.input is None or callable(one.input) else dict(one.input)
    if one.each is not None and one.input is not None:
        raise InvalidAgent(f"{what}: step {name!r} has each=, whose items are what it gets, and input=: give one")
    if one.on_failure not in ("fail", "collect") or (one.on_failure == "collect" and one.each is None):
        raise InvalidAgent(f"{what}: step {name!r}: on_failure= is 'fail', or 'collect' beside each=")
    for field, path in {**paths, **({} if one.each is None else {"each": one.each})}.items():
        parse_path(path, f"{what}: step {name!r}: {'each' if one.each else f'input {field!r}'}")
        first, _, rest = path.removeprefix("data.").removeprefix("payload.").partition(".")
        if first == "results" and rest:
            _check_result(what, name, rest.partition(".")[0], after)
    when = parse(one.when)
    limit = one.timeout
    timeout = None if limit is None else time_limit(limit, f"{what}: step {name!r}: timeout", InvalidAgent)
    return Node(
        name=name,
        agent=one.agent.name,
        after=after[name],
        undo=None if one.undo is None else one.undo.name,
        input=None if one.input is None or is_function else paths,
        when=when.as_data() if when.nodes else None,
        final=one.final,
        computed=is_function,
        each=one.each,
        collect=one.on_failure == "collect",
        timeout=timeout,
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
