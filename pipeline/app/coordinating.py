"""The verbs that declare what combines agents."""

from __future__ import annotations

import sys
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from ..agents.agent import Agent
from ..agents.declare import Subscription, declare
from ..agents.filters import Where
from ..core.errors import LedgerOff
from ..core.event import Payload
from ..core.ids import place_of_call
from ..families import SagaCompensate, SagaStep

if TYPE_CHECKING:
    from ..agents.context import Context
    from ..bus import Bus
    from ..coordination.flows.collaborations import Collaborations, Participant
    from ..coordination.flows.instances import Instances
    from ..coordination.flows.join import Expect, OnFailure
    from ..coordination.flows.saga import FlowStep
    from ..ledger.flows.flows import Flows


class Coordinating:
    """Declares joins, sagas and workflows."""

    bus: Bus

    def saga(
        self,
        name: str,
        *,
        on: Subscription | Iterable[Subscription],
        steps: Iterable[Agent | FlowStep],
        emits: str | type[Payload] | None = None,
        fails: str | None = None,
        key: str | None = None,
        deadline: float | timedelta | str | None = None,
    ) -> Agent:
        """Do steps one after the other for each event; when one fails, undo those that were done, the last one first.

        Arguments:
            name: the saga's name; it is an agent like any other, with a queue of its own.
            steps: agents, or step(agent, undo=...), in their order.
            emits: the type of the event that follows when all are done, with data `{"original": ..., "results": {step:
                result}}`; default NAME.completed.
            fails: the type of the event that follows when it was undone or has failed, with `status`, `error` and
                `compensated` besides; default NAME.failed.
            key: a path into the event, such as "data.order_id": one saga for each of its values, however many events.
            deadline: seconds, a timedelta or a text such as "1h", after which it is given up and undone.

        Raises InvalidAgent, InvalidEvent or InvalidFilter that says what is wrong, and LedgerOff without a ledger.

        """
        return self._flow("saga", name, on, steps, emits, fails, key, deadline)

    def workflow(
        self,
        name: str,
        *,
        on: Subscription | Iterable[Subscription],
        steps: Mapping[str, Agent | FlowStep],
        emits: str | type[Payload] | None = None,
        fails: str | None = None,
        key: str | None = None,
        deadline: float | timedelta | str | None = None,
    ) -> Agent:
        """Do steps for each event as a graph: each when those that it comes after are over, and its condition is met.

        Arguments:
            steps: by name, agents or step(agent, after=..., when=...); those that come after none begin at once.

        The other arguments, and the errors, are those of saga().

        """
        return self._flow("workflow", name, on, steps, emits, fails, key, deadline)

    def _flow(
        self,
        kind: str,
        name: str,
        on: Subscription | Iterable[Subscription],
        steps: Any,
        emits: str | type[Payload] | None,
        fails: str | None,
        key: str | None,
        deadline: Any,
    ) -> Agent:
        from ..coordination.flows.saga import Starter, steps_of

        bus = self.bus
        if not bus.has_ledger:
            raise LedgerOff(f"{kind} {name!r} needs a ledger, which knows how far it has come; ledger_url is empty")
        done = emits if emits is not None else f"{name}.completed"
        type_ = done if isinstance(done, str) else done.event_type
        failed = fails or f"{name}.failed"

        source = f"{bus.source}/agent/{name}"
        about: Any = {"source": source, "key": key, "deadline": deadline, "flows": self._opened}
        flow = Starter(kind, name, steps_of(kind, name, steps), emits=type_, fails=failed, **about)
        agent = declare(flow, on=on, name=name)
        agent.members = flow.agents
        told: tuple[type[Payload], ...] = (SagaStep, SagaCompensate) if kind == "saga" else ()
        agent.emits = (done, failed, *told)
        agent.declared = place_of_call(sys._getframe(2), agent.members, type_, failed)
        if not isinstance(done, str):
            bus.types.note(done)
        return self._add(agent)

    def collaborate(
        self,
        pattern: str,
        participants: Iterable[Participant],
        payload: Any = None,
        *,
        deadline: float | timedelta | str | None = None,
        correlation_id: str | None = None,
        context: Context | None = None,
    ) -> str:
        """Let agents that are chosen now work together, and return the collaboration's id (docs/collaborations.md).

        Arguments:
            pattern: "request-response", "publish-subscribe", "choreography", "saga" or "workflow".
            participants: agents or their names; in a saga or workflow also mappings, such as {"agent": "reserve",
                "undo": "release"} or {"agent": "write", "after": ["search"]}.
            payload: the data that each of them gets.
            deadline: seconds, a timedelta or a text such as "1h", after which it ends in any case.
            correlation_id: joins it to other events; default a new one.
            context: that of the handler which starts it: then it starts when the handler has succeeded.

        Raises InvalidCollaboration that says what is wrong, before anything is written; LedgerOff without a ledger; and
        what publish() raises.

        """
        about: Any = {"deadline": deadline, "correlation_id": correlation_id, "context": context}
        return self.collaborations.start(pattern, participants, payload, **about)

    @property
    def collaborations(self) -> Collaborations:
        """Collaborations that were started: list them, get one; raises LedgerOff without a ledger."""
        from ..coordination.flows.collaborations import Collaborations

        return Collaborations(self.bus)

    def _opened(self) -> Flows:
        """Return the ledger's flows: the ledger is opened when it is first used."""
        return self.bus.ledger.waiting.flows

    @property
    def flows(self) -> Instances:
        """Joins, sagas and workflows that were started: list them, show one; raises LedgerOff without a ledger."""
        from ..coordination.flows.instances import Instances
        from ..operations.dead_letters import DeadLetters

        return Instances(self.bus, DeadLetters(self.bus))

    @abstractmethod
    def _add(self, agent: Agent[Any, Any]) -> Agent[Any, Any]:
        """Add an agent that is declared."""

    def join(
        self,
        name: str,
        *,
        on: Subscription | Iterable[Subscription],
        agents: Iterable[Agent],
        emits: str | type[Payload],
        fails: str | None = None,
        deadline: float | timedelta | str | None = None,
        quorum: int | None = None,
        first: bool = False,
        until: Where = None,
        expect: Expect | None = None,
        each: str | None = None,
        on_failure: OnFailure = "fail",
        cancel_rest: bool = True,
    ) -> Agent:
        """Let several agents work on each event, and publish one event with their results when enough are done.

        Arguments:
            name: the join's name; it is an agent like any other, with a queue of its own.
            agents: the members; what they return is their result.
            emits: the type of the event that follows, with data `{"original": ..., "completed_by": ..., "results":
                {agent: result}, "errors": {agent: text}, "missing": [agent]}`.
            fails: the type of the event when the join has failed, with the same data, and `error` instead of
                `completed_by`; default `emits` with its last word replaced by `failed`.
            deadline: seconds, a timedelta or a text such as "10m", after which it ends with what is there.
            quorum: how many members have to succeed; default all.
            first: whether one is enough.
            until: a filter on the results so far, such as `{"results.score.value": {"$gte": 0.8}}`: what matches it is
                enough.
            expect: a function of the event that returns those of the agents, or their names, that are its members.
            each: a path to a list in the event, such as "data.items": its one agent gets each item as an event's data,
                and `results` is a list in their order.
            on_failure: when a member is dead: "fail", or "collect": go on without it, and tell what failed.
            cancel_rest: whether members that are not needed any more do not begin, and those that run are stopped;
                without that, they run to their end, which is `late`.

        Raises InvalidAgent, InvalidEvent or InvalidFilter that says what is wrong, and LedgerOff for all options from
        `deadline` on without a ledger: the join is then Celery's chord (docs/joins.md).

        """
        from ..coordination.flows.join import Durable, Options, chord_starter, failed_type

        bus, members = self.bus, list(agents)
        type_ = emits if isinstance(emits, str) else emits.event_type
        options = Options(
            deadline=deadline,
            quorum=quorum,
            first=first,
            until=until,
            expect=expect,
            each=each,
            on_failure=on_failure,
            cancel_rest=cancel_rest,
        )
        if bus.has_ledger:
            start: Any = Durable(name, members, type_, fails, f"{bus.source}/agent/{name}", options, self._opened)
        else:
            start = chord_starter(bus.celery, name, members, type_, fails, options)
        agent = declare(start, on=on, name=name)
        agent.members = tuple(member.name for member in members)
        agent.emits = (emits, fails or failed_type(type_))
        agent.declared = place_of_call(sys._getframe(1), agent.members, type_, fails)
        if not isinstance(emits, str):
            bus.types.note(emits)
        return self._add(agent)
