"""What is to be done now in a flow that follows a graph, and when somebody has to look at it again: pure functions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import orjson

from ...core.event import Event
from ...core.ids import member_id
from ...core.outcome import OPEN
from ...core.times import SECOND
from ...ledger.flows.items import is_undo
from ...ledger.flows.rows import Member, Step, members_of
from .flow import Counts
from .graph import Begin, Close, Graph, Hold, Progress
from .work import Makes, Work

#: When the time of the whole flow is over, among the times of its steps, which have their positions as names.
DEADLINE = "deadline"
Clocks = dict[str, int]


class Begun(NamedTuple):
    """A step that begins, or what undoes one.

    Attributes:
        why: why it is undone.
        members: its deliveries, by position.
        work: the flow as it stood then.

    """

    pos: int
    why: str | None
    members: Mapping[int, Member]
    work: Work


class Plan(NamedTuple):
    """What is to be done now.

    Attributes:
        begun: what begins.
        end: how the flow ends, or why it cannot go on by itself; None when it goes on.
        rows: its rows as they are then.
        work: the flow as it stands then.

    """

    begun: list[Begun]
    end: Close | Hold | None
    rows: dict[int, Step]
    work: Work

    @property
    def counts(self) -> Counts:
        """How far it has come; what undoes its steps is not counted."""
        number = len(self.work.graph.nodes)
        forward = [step for pos, step in self.rows.items() if not is_undo(pos, number)]
        return Counts.of(forward, members_of(number, forward))

    @property
    def need(self) -> int:
        """How many have to have ended before anything may follow: all, where only the items of one step are open."""
        open_now = [step.pos for step in self.rows.values() if step.outcome in OPEN]
        number = len(self.work.graph.nodes)
        if len({pos % number for pos in open_now}) != 1 or open_now[0] < 2 * number:
            return 0
        return self.counts.done + self.counts.failed + len(open_now)


def planned(
    graph: Graph,
    rows: Mapping[int, Step],
    cause: Event | None,
    functions: Mapping[str, Makes],
    id: str,
    given_up: str | None = None,
) -> Plan:
    """Return what is to be done now; what begins and has nothing to do is over at once, and the next one follows it.

    Arguments:
        rows: the flow's deliveries, by position.
        functions: those that make what steps get, by the steps' names.
        id: the flow's.
        given_up: why it is to be undone, whatever its rows say.

    """
    known, begun = dict(rows), list[Begun]()
    while True:
        work = Work(graph, known, cause)
        commands = Progress(graph, work.steps, work.meets, given_up).next()
        end = next((one for one in commands if not isinstance(one, Begin)), None)
        is_over = False
        for one in commands:
            if not isinstance(one, Begin):
                continue
            members = work.members(one.pos, functions)
            if isinstance(members, Hold):
                end = members
                continue
            begun.append(Begun(one.pos, one.why, members, work))
            for pos, member in members.items():
                known[pos] = Step(member_id(id, pos), pos, member.agent, member.outcome, member.result, member.error)
                is_over = is_over or member.outcome not in OPEN
        if not is_over:
            return Plan(begun, end, known, Work(graph, known, cause) if begun else work)


# -- time


def clocks_of(clocks: str | None, due: int | None) -> Clocks:
    """Return when the time of a flow, and of its steps, is over (microseconds), as its row has it."""
    if clocks is not None:
        found: Clocks = orjson.loads(clocks)
        return found
    return {} if due is None else {DEADLINE: due}


def wound(clocks: Clocks, plan: Plan, at: int) -> Clocks:
    """Return the clocks after something has been done: those of steps that have ended go, those that begin have one.

    Arguments:
        at: now (microseconds).

    """
    nodes, steps = plan.work.graph.nodes, plan.work.steps
    if any(is_undo(pos, len(nodes)) for pos in steps):  # what undoes is given all the time that it takes
        return {}
    still = {DEADLINE, *(str(pos) for pos, step in steps.items() if step.outcome in OPEN)}
    kept = {name: due for name, due in clocks.items() if name in still}
    begun = (one.pos for one in plan.begun if one.pos < len(nodes) and steps[one.pos].outcome in OPEN)
    return kept | {str(pos): at + round((nodes[pos].timeout or 0) * SECOND) for pos in begun if nodes[pos].timeout}


def as_row(clocks: Clocks) -> dict[str, int | str | None]:
    """Return clocks as a flow's row has them."""
    kept = orjson.dumps(clocks).decode() if clocks.keys() - {DEADLINE} else None
    return {"due": min(clocks.values(), default=None), "clocks": kept}


def rung(clocks: Clocks, at: int) -> list[str]:
    """Return what the time is over of."""
    return [name for name, due in clocks.items() if due <= at]


def open_places(rows: Mapping[int, Step], number: int, steps: Iterable[int] | None = None) -> set[int]:
    """Return the positions of what is open of some steps, without what undoes them.

    Arguments:
        number: how many steps the flow has.
        steps: their positions; default all.

    """
    wanted = None if steps is None else set(steps)
    places = (pos for pos, step in rows.items() if step.outcome in OPEN and not is_undo(pos, number))
    return {pos for pos in places if wanted is None or pos % number in wanted}
