"""What starting a flow writes: its row, its definition, and a delivery for each of its steps."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import NamedTuple

import orjson

from ...core.ids import member_id
from ...core.outcome import Outcome
from ...core.times import now
from ..database.rows import Write

STATUSES = ACTIVE, COMPLETED, FAILED, CANCELLED = "active", "completed", "failed", "cancelled"


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
        due: when it ends in any case (microseconds).

    """

    id: str
    name: str
    kind: str
    event_id: str
    correlation: str
    definition: bytes
    members: Sequence[Member]
    due: int | None = None

    def rows(self) -> list[Write]:
        """Return what is written for it; the next sweep sends its deliveries."""
        digest = blake2b(self.definition, digest_size=16).hexdigest()
        flow = {name: getattr(self, name) for name in ("id", "name", "kind", "event_id", "correlation", "due")}
        flow |= {"definition": digest, "status": ACTIVE, "members": len(self.members), "started": now()}
        about = {"event_id": self.event_id, "outcome": Outcome.QUEUED.value, "due": 0, "flow": self.id}
        members = [
            {"id": member_id(self.id, pos), "agent": agent, "pos": pos, "body": body and body.decode(), **about}
            for pos, (agent, body) in enumerate(self.members)
        ]
        return [
            Write("definition", {"id": digest, "body": self.definition.decode()}),
            Write("flow", flow),
            *(Write("member", member) for member in sorted(members, key=_id)),
        ]


def as_json(data: object) -> bytes:
    """Return JSON data as bytes, the same for the same data."""
    return orjson.dumps(data, option=orjson.OPT_SORT_KEYS)


def _id(row: dict[str, object]) -> str:
    return str(row["id"])
