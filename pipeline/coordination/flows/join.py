"""Joins: several agents work on one event, and one event follows when enough of them are done.

With a ledger a join is a flow, whose steps are its members' deliveries; without one it is a chord of Celery's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from celery import chord, group

from ...agents.agent import Agent
from ...agents.context import Context
from ...agents.filters import Where, parse
from ...agents.filters.paths import parse_path
from ...brokers.topology import EMIT_FAILED_TASK, EMIT_TASK
from ...core.errors import InvalidAgent, InvalidEvent, LedgerOff, nearest
from ...core.event import Event
from ...core.ids import caused_id, delivery_id, derived_id
from ...core.times import SECOND, now, time_limit
from ...core.topics import check_type
from ...ledger.flows.rows import Member, Start, as_json
from ..graphs.flow import ALL, Definition
from .inner import as_step

if TYPE_CHECKING:
    from celery import Celery

    from ...ledger.flows.flows import Flows

#: Which members of a join an event has: their agents, or the names of those.
Expect = Callable[[Event], Iterable["Agent | str"]]
#: What becomes of a join when a member is dead: it fails, or goes on without it.
OnFailure = Literal["fail", "collect"]
#: Members that a join may have.
MOST = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What is said of a join beside its members, as app.join() takes it."""

    deadline: float | timedelta | str | None = None
    quorum: int | None = None
    first: bool = False
    until: Where = None
    expect: Expect | None = None
    each: str | None = None
    on_failure: OnFailure = "fail"
    cancel_rest: bool = True

    @property
    def needs_ledger(self) -> bool:
        """Whether anything is said that Celery's chord does not know."""
        return self != Options()


def failed_type(emits: str) -> str:
    """Return the type of the event that follows when a join has failed, where nobody says another."""
    return ".".join([*emits.split(".")[:-1], "failed"])


# -- with a ledger


class Durable:
    """The handler of the agent that starts a join as a flow.

    Arguments:
        members: the agents that are joined; with `each` one.
        emits, fails: the types of the events that follow.
        source: the CloudEvents source of both.
        flows: opens the ledger's flows.

    Raises InvalidAgent, InvalidEvent or InvalidFilter when the declaration is wrong.

    """

    def __init__(
        self,
        name: str,
        members: Iterable[Agent],
        emits: str,
        fails: str | None,
        source: str,
        options: Options,
        flows: Callable[[], Flows],
    ) -> None:
        self._name, self._options, self._flows = name, options, flows
        members = list(members)
        _check(name, options, None if options.each is not None or options.expect else len(members))
        self._each = None if options.each is None else parse_path(options.each, f"join {name!r}: each")
        self._members = _members(name, members, alone=options.each is not None)
        limit = options.deadline
        self._deadline = None if limit is None else time_limit(limit, f"join {name!r}: deadline", InvalidAgent)
        until = parse(options.until)
        self._definition = Definition(
            name=name,
            emits=check_type(emits),
            fails=check_type(fails or failed_type(emits)),
            source=source,
            each=options.each is not None,
            quorum=1 if options.first else options.quorum,
            first=options.first,
            until=until.as_data() if until.nodes else None,
            collect=options.on_failure == "collect",
            cancel_rest=options.cancel_rest,
        )
        self._as_json = as_json(self._definition.as_data())

    def __call__(self, event: Event, ctx: Context) -> Any:
        """Write down the flow and its steps, together with the success of the delivery that starts it."""
        if ctx.in_flow:
            return as_step(self._flows, ctx, ctx.delivery_id, partial(self._start, event, ctx))
        self._start(event, ctx, ctx.delivery_id)
        return None

    def _start(self, event: Event, ctx: Context, id: str, origin: str | None = None) -> Any:
        """Return the results where there is nobody to be waited for."""
        members = self._of(event)
        self._check_number(len(members))
        if not members:
            results: Any = [] if self._definition.each else {}
            about = {"completed_by": ALL, "results": results, "errors": {}, "missing": []}
            ctx.publish(self._definition.emits, {"original": event.data, **about})
            return results
        due = None if self._deadline is None else now() + round(self._deadline * SECOND)
        need = 0 if self._definition.until is not None else self._definition.quorum or len(members)
        said = (self._name, "join", event.key, event.correlation_id, self._as_json)
        start = Start(id, *said, members, due, need=need, step=ctx.delivery_id if ctx.in_flow else None, origin=origin)
        for row in start.rows():
            ctx.write(row)
        return None

    def _of(self, event: Event) -> list[Member]:
        """Return the members that an event has; raise InvalidEvent that says why there is no telling."""
        if self._each is not None:
            items = self._each.getter()(event.attributes())
            if not isinstance(items, list):
                there = ", ".join(self._each.around(event.attributes())) or "no fields"
                raise InvalidEvent(
                    f"join {self._name!r}: each={self._options.each!r} is no list in {event.type} {event.id}; "
                    f"there is {there}"
                )
            (agent,) = self._members.values()
            return [Member(agent.name, event.evolve(data=item).encode()) for item in items]
        if self._options.expect is None:
            return [Member(name) for name in self._members]
        return [Member(self._named(one)) for one in self._options.expect(event)]

    def _named(self, expected: Agent | str) -> str:
        name = expected.name if isinstance(expected, Agent) else expected
        if name not in self._members:
            raise InvalidEvent(
                f"join {self._name!r}: expect= names {name!r}, which is none of its agents; "
                f"{nearest(str(name), self._members)}"
            )
        return name

    def _check_number(self, number: int) -> None:
        quorum = self._definition.quorum
        if number > MOST:
            raise InvalidEvent(f"join {self._name!r} would have {number:,} members, and {MOST:,} is the most")
        if quorum is not None and number < quorum:
            raise InvalidEvent(f"join {self._name!r} has {number} member(s) for this event, and quorum={quorum}")


def _check(name: str, options: Options, members: int | None) -> None:
    """Raise InvalidAgent for options that contradict each other.

    Arguments:
        members: how many there are, where that is known.

    """
    quorum = options.quorum
    if options.each is not None and options.expect is not None:
        raise InvalidAgent(f"join {name!r}: each= makes a member of each item, and expect= chooses agents: give one")
    if options.first and quorum is not None:
        raise InvalidAgent(f"join {name!r}: first=True is quorum=1; give one of them")
    if quorum is not None and (isinstance(quorum, bool) or not isinstance(quorum, int) or quorum < 1):
        raise InvalidAgent(f"join {name!r}: quorum={quorum!r} is no number of members from 1 on")
    if quorum is not None and members is not None and quorum > members:
        raise InvalidAgent(f"join {name!r}: quorum={quorum} is more than its {members} members")
    if options.on_failure not in ("fail", "collect"):
        raise InvalidAgent(f"join {name!r}: on_failure={options.on_failure!r} is neither 'fail' nor 'collect'")


def _members(name: str, agents: Iterable[Agent], *, alone: bool = False) -> Mapping[str, Agent]:
    """Return the agents that are joined, by name; raise InvalidAgent when they are none that can be.

    Arguments:
        alone: whether it has to be one, of which there is a step for each item.

    """
    members = list(agents)
    for agent in members:
        if not isinstance(agent, Agent):
            raise InvalidAgent(f"join {name!r}: {agent!r} is not an agent; decorate it with @app.agent() first")
    if len({agent.name for agent in members}) != len(members):
        raise InvalidAgent(f"join {name!r}: an agent is named twice")
    if alone and len(members) != 1:
        raise InvalidAgent(f"join {name!r} has {len(members)} agents; with each= one agent gets each item")
    if not alone and len(members) < 2:
        raise InvalidAgent(
            f"join {name!r} has {len(members)} agent(s); one agent needs no join, subscribe it with on=..., or let it "
            "have each item of a list with each=..."
        )
    return {agent.name: agent for agent in members}


# -- without one


def chord_starter(
    celery: Celery, name: str, agents: Iterable[Agent], emits: str, fails: str | None, options: Options
) -> Callable[[Event, Context], None]:
    """Return the handler of the agent that starts a join as a chord of Celery's.

    Raises InvalidAgent or InvalidEvent when the declaration is wrong, LedgerOff for what a chord does not know.
    """
    if options.needs_ledger:
        raise LedgerOff(
            f"join {name!r}: without a ledger it is Celery's chord, which knows neither deadline= nor quorum=, first=, "
            "until=, expect=, each=, on_failure= or cancel_rest=; the setting ledger_url is empty"
        )
    members = list(_members(name, agents).values())
    done, failed = check_type(emits), check_type(fails or failed_type(emits))
    names = [agent.name for agent in members]

    def start(event: Event, ctx: Context) -> None:
        cause = {**event.__json__(), "correlationid": event.correlation_id}
        tasks = celery.tasks
        body = tasks[EMIT_TASK].s(event_type=done, cause=cause, names=names)
        body.link_error(tasks[EMIT_FAILED_TASK].s(event_type=failed, cause=cause))
        # All ids follow from the event's: a join that is started twice is still one join.
        header = group(
            [agent.s(event).set(task_id=delivery_id(event.key, agent.name)) for agent in members],
            app=celery,
            task_id=derived_id(ctx.delivery_id, "members"),
        )
        chord(header, body, app=celery).apply_async(task_id=caused_id(ctx.delivery_id, 0))

    return start
