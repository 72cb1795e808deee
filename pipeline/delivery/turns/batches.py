"""The batch of a delivery: which events its handler is called with besides its own, or what it waits for until then."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from ...agents.payloads import payload_of
from ...contracts.newer import NewerMajor
from ...core.errors import InvalidEvent, line_of, traceback_of
from ...core.event import Event
from ...core.limits.batch import batch_of, reason_to_gather
from ...core.times import SECOND, now
from ...ledger.aside import Bad
from ...ledger.waiting.wait import GATHERS, Wait
from .turns import value_of

if TYPE_CHECKING:
    from ...agents.agent import Agent
    from ...agents.context import Context
    from ...bus import Bus


class Member(NamedTuple):
    """An event of a batch, and what the handler gets of it."""

    event: Event
    payload: Any


def others_in_batch(bus: Bus, agent: Agent, context: Context) -> Wait | list[Member]:
    """Return what comes to the handler with a delivery's own event, or what that waits for.

    What cannot be validated is dead, alone; what only a newer worker reads waits for that.
    """
    batches = bus.ledger.waiting.batches
    members = batches.members(context.delivery_id)
    if members is None:
        return _gathers(agent, context.event)
    found = []
    for id, record in members:
        if isinstance(record, Bad):
            batches.expel(context.delivery_id, id, error=record.reason)
            continue
        event = record.event
        try:
            payload = event if agent.wants_event else payload_of(agent, event, bus.types, bus.blobs.context)
        except NewerMajor:
            batches.release(context.delivery_id, id)
        except InvalidEvent as exc:
            batches.expel(context.delivery_id, id, error=line_of(exc), traceback=traceback_of(exc))
        else:
            found.append(Member(event, payload))
    return found


def _gathers(agent: Agent, event: Event) -> Wait:
    batch = agent.batch
    assert batch is not None
    key = value_of(batch.key, event.attributes()) or ""
    due = now() + round(batch.seconds * SECOND)
    return Wait(GATHERS, reason_to_gather(batch.most, key), due=due, key=batch_of(agent.name, key), most=batch.most)
