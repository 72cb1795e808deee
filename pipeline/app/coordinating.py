"""The verbs that declare what combines agents."""

from __future__ import annotations

import sys
from abc import abstractmethod
from collections.abc import Iterable
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from ..agents.agent import Agent
from ..agents.declare import Subscription, declare
from ..agents.filters import Where
from ..core.event import Payload
from ..core.ids import place_of_call

if TYPE_CHECKING:
    from ..bus import Bus
    from ..coordination.instances import Instances
    from ..coordination.join import Expect, OnFailure


class Coordinating:
    """Declares joins."""

    bus: Bus

    @property
    def flows(self) -> Instances:
        """The joins that were started: list them, show one; raises LedgerOff when there is no ledger."""
        from ..coordination.instances import Instances

        return Instances(self.bus)

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
        from ..coordination.join import Options, chord_starter, failed_type, flow_starter

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
            start = flow_starter(name, members, type_, fails, f"{bus.source}/agent/{name}", options)
        else:
            start = chord_starter(bus.celery, name, members, type_, fails, options)
        agent = declare(start, on=on, name=name)
        agent.members = tuple(member.name for member in members)
        agent.emits = (emits, fails or failed_type(type_))
        agent.declared = place_of_call(sys._getframe(1), agent.members, type_, fails)
        if not isinstance(emits, str):
            bus.types.note(emits)
        return self._add(agent)
