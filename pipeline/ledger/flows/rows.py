"""What starting a flow writes: its row, its definition, and a delivery for each of its steps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import Any, NamedTuple

import orjson

from ...core.ids import member_id
from ...core.outcome import Outcome
from ...core.times import now
from ..database.rows import Write

#: What a flow may be, those first that go on: on its way, undoing what it has done, or waiting for somebody who helps.
STATUSES = ("active", "compensating", "stuck", "completed", "failed", "compensated", "cancelled")
ACTIVE, COMPENSATING, STUCK, COMPLETED, FAILED, COMPENSATED, CANCELLED = STATUSES


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

    """

    agent: str
    body: bytes | None = None


class Start(NamedTuple):
    """A flow that starts.

    Attributes:
        id: that of the delivery that starts it.
        kind: what it is, such as "join".
        event_id: the event that it works on.
        definition: what it follows, as JSON.
        members: the steps that begin with it, by position where those are not the first ones.
        due: when it ends in any case (microseconds).
        number: how many steps it has; None for as many as begin with it.
        need: how many have to have ended before anything may follow: until then nobody looks.

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

    def rows(self) -> list[Write]:
        """Return what is written for it; the next sweep sends its deliveries."""
        digest = blake2b(self.definition, digest_size=16).hexdigest()
        flow = {name: getattr(self, name) for name in ("id", "name", "kind", "event_id", "correlation", "due")}
        flow |= {"definition": digest, "status": ACTIVE, "started": now()}
        flow["need"] = self.need
        flow["members"] = len(self.members) if self.number is None else self.number
        about = {"event_id": self.event_id, "outcome": Outcome.QUEUED.value, "due": 0, "flow": self.id}
        members = [
            {"id": member_id(self.id, pos), "agent": agent, "pos": pos, "body": body and body.decode(), **about}
            for pos, (agent, body) in self._by_position()
        ]
        return [
            Write("definition", {"id": digest, "body": self.definition.decode()}),
            Write("flow", flow),
            *(Write("member", member) for member in sorted(members, key=_id)),
        ]

    def _by_position(self) -> Iterable[tuple[int, Member]]:
        return self.members.items() if isinstance(self.members, Mapping) else enumerate(self.members)


def as_json(data: object) -> bytes:
    """Return JSON data as bytes, the same for the same data."""
    return orjson.dumps(data, option=orjson.OPT_SORT_KEYS)


def _id(row: dict[str, object]) -> str:
    return str(row["id"])
