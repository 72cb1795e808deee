"""What starting a flow writes: its row, its definition, and a delivery for each of its steps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import Any, NamedTuple

import orjson

from ...core.ids import derived_id, member_id
from ...core.outcome import Outcome
from ...core.times import now
from ..database.rows import MEMBER, Write

#: What a flow may be, those first that go on: on its way, undoing what it has done, or waiting for somebody who helps.
STATUSES = ("active", "compensating", "stuck", "completed", "failed", "compensated", "cancelled")
ACTIVE, COMPENSATING, STUCK, COMPLETED, FAILED, COMPENSATED, CANCELLED = STATUSES


#: The kind of flows that are started with those who take part in them.
COLLABORATION = "collaboration"
#: Of flows that have not ended.
GOING = frozenset((ACTIVE, COMPENSATING, STUCK))
#: What a step has come to.
WELL = (Outcome.SUCCEEDED.value, Outcome.FILTERED.value)
BADLY = (Outcome.DEAD.value, Outcome.DROPPED.value, Outcome.CANCELLED.value)


class Step(NamedTuple):
    """A step of a flow, as its delivery's row says it.

    Attributes:
        result: what its handler has returned, as JSON.
        ended: when it has (microseconds).

    """

    id: str
    pos: int
    agent: str
    outcome: Outcome
    result: str | None
    error: str | None
    ended: int | None = None


def members_of(number: int, steps: Iterable[Step]) -> int:
    """Return how many deliveries a flow consists of, as far as that is known: a step may have one for each item.

    Arguments:
        number: how many steps it has.

    """
    items = [step.pos % number for step in steps if step.pos >= 2 * number]
    return number + len(items) - len(set(items))


class Going(NamedTuple):
    """What a flow's row says of how far it has come, when a step has been counted.

    Attributes:
        due, clocks: when somebody has to look at it, as Start has them.

    """

    id: str
    event_id: str
    status: str
    reason: str | None
    definition: str
    members: int
    done: int
    failed: int
    need: int
    due: int | None
    clocks: str | None


class FlowView(NamedTuple):
    """A flow as a handler that is a step of it sees it.

    Attributes:
        kind: what it is, such as "saga".
        original: the data of the event that it works on.
        results: what its steps have come to by then, by their names.

    """

    id: str
    name: str
    kind: str
    original: Any
    results: dict[str, Any]


class Member(NamedTuple):
    """A step of a flow.

    Attributes:
        agent: whose delivery it is.
        body: the event as this step gets it; None for the flow's own one.
        outcome: what it is from the beginning: one that could not begin, or has nothing to do, has ended.
        result, error: what that has come to.

    """

    agent: str
    body: bytes | None = None
    outcome: Outcome = Outcome.QUEUED
    result: str | None = None
    error: str | None = None

    def row(self, flow: str, event_id: str, pos: int) -> dict[str, Any]:
        """Return its delivery's row; the next sweep sends what is queued."""
        row = {"id": member_id(flow, pos), "event_id": event_id, "agent": self.agent, "flow": flow, "pos": pos}
        row |= {"body": self.body and self.body.decode(), "outcome": self.outcome.value, "due": 0}
        if self.outcome is not Outcome.QUEUED:
            at = now()
            row |= {"due": None, "started": at, "ended": at, "result": self.result, "error": self.error}
        return row


class Start(NamedTuple):
    """A flow that starts.

    Attributes:
        id: that of the delivery that starts it.
        kind: what it is, such as "join".
        event_id: the event that it works on.
        definition: what it follows, as JSON.
        members: the steps that begin with it, by position where those are not the first ones.
        due: when somebody has to look at it in any case (microseconds).
        clocks: when the time of the whole, and of its steps, is over, as JSON; None where that is all `due` says.
        number: how many steps it has; None for as many as begin with it.
        need: how many have to have ended before anything may follow: until then nobody looks.
        step: the delivery of another flow that it is the step of.
        origin: the first of those that it is started instead of, as they had ended badly.
        keyed: whether others may start it at the same time, as there is one for each business key.

    """

    id: str
    name: str
    kind: str
    event_id: str
    correlation: str
    definition: bytes
    members: Sequence[Member] | Mapping[int, Member]
    due: int | None = None
    number: int | None = None
    need: int = 0
    clocks: str | None = None
    step: str | None = None
    origin: str | None = None
    keyed: bool = False

    def rows(self) -> list[Write]:
        """Return what is written for it; the next sweep sends its deliveries."""
        digest = blake2b(self.definition, digest_size=16).hexdigest()
        flow = {name: getattr(self, name) for name in ("id", "name", "kind", "event_id", "correlation", "due")}
        flow |= {"definition": digest, "status": ACTIVE, "started": now(), "need": self.need, "clocks": self.clocks}
        flow |= {"step": self.step, "origin": self.origin}
        flow["members"] = len(self.members) if self.number is None else self.number
        members = [member.row(self.id, self.event_id, pos) for pos, member in self._by_position()]
        return [
            Write("definition", {"id": digest, "body": self.definition.decode()}),
            Write("flow", flow),
            *(self._member(member) for member in sorted(members, key=_shape)),
        ]

    def _member(self, row: dict[str, Any]) -> Write:
        if not self.keyed:
            return Write("member", row)
        return Write("keyed", {**dict.fromkeys(MEMBER), **row, "starter": self.step or ""})

    def _by_position(self) -> Iterable[tuple[int, Member]]:
        return self.members.items() if isinstance(self.members, Mapping) else enumerate(self.members)


def by_flow(steps: Mapping[int, str], some: Iterable[int]) -> dict[str, list[int]]:
    """Return some steps by their flow, in the order of the flows' ids: in which all lock them."""
    found: dict[str, list[int]] = {}
    for place in some:
        found.setdefault(steps[place], []).append(place)
    return dict(sorted(found.items()))


def instead_of(id: str) -> str:
    """Return the id of the flow that is started instead of one which has ended badly."""
    return derived_id(id, "again")


def as_json(data: object) -> bytes:
    """Return JSON data as bytes, the same for the same data."""
    return orjson.dumps(data, option=orjson.OPT_SORT_KEYS)


def _shape(row: dict[str, object]) -> tuple[int, str]:
    """Put those with the same columns together, in the order of their ids: one statement has them."""
    return len(row), str(row["id"])
