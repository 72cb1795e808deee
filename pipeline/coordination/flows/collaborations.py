"""Starting collaborations, and looking at them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import orjson
from sqlalchemy import Row

from ...agents.agent import Agent
from ...agents.payloads import answer_of
from ...core.errors import InvalidAgent, InvalidCollaboration, InvalidEvent, InvalidFilter, UnknownFlow, nearest
from ...core.event import Event, Payload, new_event
from ...core.ids import caused_id, derived_id, new_id
from ...core.times import SECOND, as_json_time, moment, now, time_limit
from ...families import ChoreographyStart, CollaborationComplete, CollaborationRequest
from ...ledger.flows.rows import (
    ACTIVE,
    CANCELLED,
    COLLABORATION,
    COMPENSATED,
    COMPENSATING,
    COMPLETED,
    FAILED,
    STUCK,
    Member,
    Start,
    Step,
    as_json,
)
from ..graphs.flow import Definition
from ..graphs.graph import Graph
from ..graphs.plan import DEADLINE, planned
from ..graphs.work import Work
from .choreography import watch
from .collaboration import CHOREOGRAPHY, PUBLISH, SAGA, WORKFLOW, of_payload, pattern_of
from .inner import definition_in, results_of
from .saga import FlowStep, nodes_of, start_of

if TYPE_CHECKING:
    from ...agents.context import Context
    from ...bus import Bus
    from ...ledger.database.rows import Write

#: Who takes part: an agent, its name, or what is said of it: {"agent": "reserve", "undo": "release"}.
Participant = str | Agent | Mapping[str, Any]
#: What may be said of one beside its name, by the patterns that know it.
OPTIONS = {
    SAGA: ("undo", "input", "when", "final", "timeout"),
    WORKFLOW: ("undo", "input", "when", "final", "timeout", "after"),
}
#: What some of those have to be: a step takes a function, too, and believes the others.
_SHAPES: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "input": (
        lambda said: said is None or (isinstance(said, Mapping) and _are_texts([*said, *said.values()])),
        "give a path for each field, such as {'id': 'data.id'}",
    ),
    "final": (lambda said: isinstance(said, bool), "give true or false"),
    "after": (
        lambda said: isinstance(said, (str, list, tuple)) and _are_texts(said),
        "give the name of one who takes part, or a list of names",
    ),
}
#: Participants that one may have.
MOST = 500
_DONE = CollaborationComplete.event_type
#: What a collaboration may be.
STATES = ("active", COMPLETED, FAILED, COMPENSATED)
#: What the statuses of flows are as those of collaborations.
_STATUSES = {ACTIVE: "active", COMPENSATING: "active", STUCK: "active", CANCELLED: FAILED}


@dataclass(frozen=True)
class Collaboration:
    """A collaboration as it stands.

    Attributes:
        pattern: which of the five it is.
        participants: the names of those who take part.
        status: active, completed, failed or compensated.
        start, end: when it began and ended.
        results: what each has come to, by name.
        errors: why each has failed, by name; what is nobody's is under "collaboration".

    """

    id: str
    pattern: str
    participants: tuple[str, ...]
    status: str
    start: datetime
    end: datetime | None
    results: dict[str, Any]
    errors: dict[str, str]

    def as_data(self) -> dict[str, Any]:
        """Return it as JSON data."""
        about = {"id": self.id, "pattern": self.pattern, "participants": list(self.participants)}
        times = {"start": as_json_time(self.start), "end": as_json_time(self.end)}
        return {**about, "status": self.status, **times, "results": self.results, "errors": self.errors}


class Collaborations:
    """The collaborations of an app's ledger."""

    def __init__(self, bus: Bus) -> None:
        """Take what the app's rooms share; raises LedgerOff when there is no ledger."""
        self._bus = bus
        self._flows = bus.ledger.waiting.flows

    # -- starting one

    def start(
        self,
        pattern: str,
        participants: Iterable[Participant],
        payload: Any = None,
        *,
        deadline: float | timedelta | str | None = None,
        correlation_id: str | None = None,
        context: Context | None = None,
    ) -> str:
        """Start one, and return its id; arguments and errors are those of Pipeline.collaborate()."""
        pattern = pattern_of(pattern)
        steps = self._steps(pattern, participants)
        names = tuple(str(step.name) for step in steps)
        data = answer_of("payload", payload, self._bus.blobs.context)
        seconds = _seconds(deadline)
        id = new_id() if context is None else derived_id(context.delivery_id, f"collaboration/{context.place}")
        told = CollaborationRequest(collaboration_id=id, pattern=pattern, participants=names, payload=data)
        request = self._said(told, context, correlation_id=correlation_id)
        said = [request]
        about: dict[str, Any] = {
            "name": pattern,
            "source": f"{self._bus.source}/{COLLABORATION}",
            "participants": names,
        }
        if pattern in (SAGA, WORKFLOW):
            rows, begins = self._graph(id, request, about, steps, seconds)
            said += [self._said(one, context, cause=request) for one in begins]
        else:
            watched = None
            if pattern == CHOREOGRAPHY:
                begin = ChoreographyStart(collaboration_id=id, participants=names, payload=data)
                said.append(self._said(begin, context, cause=request, targets=names))
                watched = said[1].key
            watching = Definition(emits=_DONE, fails=_DONE, watched=watched, **about)
            rows = self._side_by_side(id, request, watching, seconds)
        if context is None:
            self._bus.outbox.publish(said, rows=rows)
            return id
        for row in rows:
            context.write(row)
        return id

    def _said(
        self,
        told: Payload,
        context: Context | None,
        *,
        cause: Event | None = None,
        targets: tuple[str, ...] = (),
        correlation_id: str | None = None,
    ) -> Event:
        if context is not None:
            return context.publish(told, targets=targets)
        more = {"cause": cause} if cause is not None else {"correlation_id": correlation_id}
        return new_event(told, source=self._bus.source, targets=targets, **more)

    def _graph(
        self, id: str, request: Event, about: Mapping[str, Any], steps: Sequence[FlowStep], deadline: float | None
    ) -> tuple[list[Write], list[Payload]]:
        """Return what is written for what has an order, and what tells that its first step begins."""
        pattern = about["name"]
        try:
            nodes = nodes_of(COLLABORATION, steps, chained=pattern == SAGA)
        except (InvalidAgent, InvalidEvent, InvalidFilter) as exc:
            raise InvalidCollaboration(str(exc)) from None
        graph = Graph(kind=pattern, nodes=nodes, emits=_DONE, fails=_DONE, **about)
        plan = planned(graph, {}, of_payload(request, graph), {}, id)
        if not plan.begun:
            raise InvalidCollaboration("no step is wanted for this payload, by their conditions")
        begins = [one.work.announced(id, one.pos, None, one.members.get(one.pos))[0] for one in plan.begun]
        body = as_json(graph.as_data())
        told = (pattern, COLLABORATION, request.key, request.correlation_id, body)
        return start_of(id, told, plan, deadline).rows(), begins if pattern == SAGA else []

    def _side_by_side(self, id: str, request: Event, definition: Definition, deadline: float | None) -> list[Write]:
        """Return what is written for what has no order: all get the payload, or a tree is watched."""
        definition = replace(definition, collect=definition.name == PUBLISH)
        at = now()
        due = None if deadline is None else at + round(deadline * SECOND)
        about = (definition.name, COLLABORATION, request.key, request.correlation_id, as_json(definition.as_data()))
        if definition.watched is not None:
            clocks = orjson.dumps({} if due is None else {DEADLINE: due}).decode()
            return Start(id, *about, (), at, number=0, clocks=clocks).rows()
        body = request.evolve(data=request.data["payload"]).encode()
        members = [Member(name, body) for name in definition.participants]
        return Start(id, *about, members, due, need=len(members)).rows()

    def _steps(self, pattern: str, participants: Iterable[Participant]) -> list[FlowStep]:
        """Return those who take part as steps; raise InvalidCollaboration for what they cannot be."""
        if isinstance(participants, (str, Mapping, Agent)):
            raise InvalidCollaboration("participants: give a list of agents, or of their names")
        known = {agent.name for agent in self._bus.agents} | self._bus.ledger.subscribers.known(fresh=True).keys()
        steps = [self._step(pattern, one, known) for one in participants]
        names = [str(step.name) for step in steps]
        if not 1 <= len(steps) <= MOST:
            raise InvalidCollaboration(f"participants: there are {len(steps)}, and there may be 1 to {MOST}")
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise InvalidCollaboration(f"participants: {twice!r} is named twice")
        return steps

    def _step(self, pattern: str, given: Participant, known: Iterable[str]) -> FlowStep:
        said: dict[str, Any] = dict(given) if isinstance(given, Mapping) else {"agent": given}
        options = OPTIONS.get(pattern, ())
        if unknown := next((name for name in said if name not in ("agent", *options)), None):
            raise InvalidCollaboration(
                f"participants: a {pattern} knows no {unknown!r}; {nearest(str(unknown), ('agent', *options))}"
            )
        for option, (is_one, told) in _SHAPES.items():
            if option in said and not is_one(said[option]):
                raise InvalidCollaboration(f"participants: {option}={said[option]!r}: {told}")
        agent = self._agent(said.pop("agent", None), known)
        if "undo" in said:
            said["undo"] = self._agent(said["undo"], known)
        if isinstance(after := said.get("after"), str):
            said["after"] = [after]
        return FlowStep(agent, name=agent.name, **said)

    def _agent(self, given: Any, known: Iterable[str]) -> Agent:
        name = given.name if isinstance(given, Agent) else given
        if not isinstance(name, str) or name not in known:
            raise InvalidCollaboration(f"participants: there is no agent {name!r}; {nearest(str(name), known)}")
        agents = self._bus.agents
        return agents[name] if name in agents else Agent(name, _elsewhere)

    # -- looking

    def get(self, id: str) -> Collaboration:
        """Return a collaboration; raise UnknownFlow where there is none with that id."""
        row, body, steps = self._flows.show(id)
        if row.kind != COLLABORATION:
            raise UnknownFlow(f"{id} is a {row.kind}, and no collaboration; see it with `pipeline flows show`")
        return self._of(row, definition_in(body), steps)

    def list(self, *, pattern: str | None = None, status: str | None = None, limit: int = 100) -> list[Collaboration]:
        """Return collaborations, the newest first.

        Arguments:
            pattern: only those of this pattern.
            status: only those that are active, completed, failed or compensated.
            limit: how many at most.

        Raises InvalidCollaboration for a pattern or a status that there is none of.

        """
        name = None if pattern is None else pattern_of(pattern)
        statuses = None
        if status is not None:
            if status not in STATES:
                raise InvalidCollaboration(f"status: no collaboration is {status!r}; {nearest(status, STATES)}")
            statuses = [status, *(own for own, seen in _STATUSES.items() if seen == status)]
        rows = self._flows.recent(name=name, statuses=statuses, kind=COLLABORATION, limit=limit)
        return [self.get(row.id) for row in rows]

    def _of(self, row: Row[Any], definition: Definition | Graph, steps: Sequence[Step]) -> Collaboration:
        results, errors = self._come_to(row, definition, steps)
        return Collaboration(
            id=row.id,
            pattern=row.name,
            participants=tuple(definition.participants),
            status=_STATUSES.get(row.status, row.status),
            start=moment(row.started),
            end=None if row.ended is None else moment(row.ended),
            results=results,
            errors=errors,
        )

    def _come_to(
        self, row: Row[Any], definition: Definition | Graph, steps: Sequence[Step]
    ) -> tuple[dict[str, Any], dict[str, str]]:
        """Return results and errors: as its end has told them, else as they are by now."""
        if row.ended is not None and (told := self._told(row.id)) is not None:
            return told["results"], told["errors"]
        if isinstance(definition, Graph):
            work = Work(definition, {step.pos: step for step in steps}, None)
            return work.results, work.errors
        if definition.watched is not None:
            seen = watch(self._bus.ledger, definition)
            return seen.results, seen.errors
        found = results_of(definition, steps)
        return found["results"], found["errors"]

    def _told(self, id: str) -> dict[str, Any] | None:
        event_id = caused_id(derived_id(id, "flow"), 0, self._bus.ledger.secret)
        event = self._bus.ledger.waiting.arrivals.event(event_id)
        return None if event is None or not isinstance(event.data, dict) else event.data


def _elsewhere(_: Any) -> None:
    """Stand for the handler of an agent that another process declares."""


def _are_texts(said: Iterable[Any]) -> bool:
    return all(isinstance(one, str) for one in said)


def _seconds(deadline: float | timedelta | str | None) -> float | None:
    return None if deadline is None else time_limit(deadline, "deadline", InvalidCollaboration)
