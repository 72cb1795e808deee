"""What the bus itself has to say: events about deliveries and about approvals, for whoever wants them."""

from __future__ import annotations

from typing import Any

from pydantic import AwareDatetime

from .event import Payload

Json = Any
#: How the types of the events below begin, and of others that the bus publishes (see families.py).
ANNOUNCEMENTS = (
    *("delivery.", "tree.cancelled", "budget.exceeded", "agent.backpressure"),
    *("saga.step", "saga.compensate", "collaboration.request", "collaboration.complete"),
    *("agent.online", "agent.offline", "agent.heartbeat", "agent.suspected_failure", "agent.recovered"),
    "agent.response",
)


class DeliveryDead(Payload, type="delivery.dead"):
    """An agent could not handle an event, which is set aside as its dead letter."""

    delivery_id: str
    event_id: str
    original_type: str
    agent: str
    error: str
    attempts: int


def announces(event_type: str, replay: str | None) -> bool:
    """Say whether the death of a delivery is announced: not that of an announcement, and nobody asks in a replay."""
    return event_type != DeliveryDead.event_type and replay is None


class DeliveryRequeued(Payload, type="delivery.requeued"):
    """Somebody gave a dead letter back to its agent; data before and after, where it was edited."""

    delivery_id: str
    event_id: str
    original_type: str
    agent: str
    by: str = ""
    edited: bool = False
    before: Json = None
    after: Json = None


class DeliveryDropped(Payload, type="delivery.dropped"):
    """Somebody decided that a dead letter is not to be handled."""

    delivery_id: str
    event_id: str
    original_type: str
    agent: str
    by: str = ""


class DeliveryErased(Payload, type="delivery.erased"):
    """Somebody has blanked the data of events: what was chosen, and how many of each there were."""

    subject: str | None = None
    correlation: str | None = None
    by: str = ""
    events: int
    deliveries: int
    delayed: int


class TreeCancelled(Payload, type="tree.cancelled"):
    """Somebody has stopped a tree of work: how many deliveries had not begun, ran, and had ended before."""

    tree: str
    by: str = ""
    reason: str = ""
    stopped: int
    running: int
    done: int


class BudgetExceeded(Payload, type="budget.exceeded"):
    """A budget has no more room for what an agent wanted to spend; told once, until there is room again."""

    budget: str
    key: str
    unit: str
    limit: int
    used: int
    wanted: int
    agent: str
    delivery_id: str


class ActionProposed(Payload, type="action.proposed"):
    """An agent wants to do something that somebody has to approve first, by a deadline if there is one.

    Attributes:
        action_id: the approval's id; the first proposal with an id counts.
        agent_id: who wants to do it, and is not to approve it.
        params: the arguments that it is to be done with.
        message: the question, for people.
        response_schema: the JSON Schema of the arguments, which edited ones have to match.
        n_of: how many different people have to approve.
        who: names and groups of those who may decide; none for everybody.

    """

    action_id: str
    agent_id: str
    action: str
    params: dict[str, Json] = {}
    deadline: AwareDatetime | None = None
    message: str | None = None
    response_schema: Json = None
    n_of: int = 1
    who: tuple[str, ...] = ()


class ActionApproved(Payload, type="action.approved"):
    """A proposed action may be done, with these arguments."""

    action_id: str
    by: str
    agent_id: str | None = None
    action: str | None = None
    reason: str | None = None
    params: dict[str, Json] = {}


class ActionVetoed(Payload, type="action.vetoed"):
    """A proposed action must not be done: somebody has said so, or nobody has decided in time."""

    action_id: str
    by: str
    agent_id: str | None = None
    action: str | None = None
    reason: str | None = None
    expired: bool = False


class ActionEscalated(Payload, type="action.escalated"):
    """Half of the time is over in which a proposed action can be approved, and nobody has decided."""

    action_id: str
    agent_id: str
    action: str
    deadline: AwareDatetime


#: What an approval goes by, whether or not an agent listens to it.
APPROVALS = frozenset(cls.event_type for cls in (ActionProposed, ActionApproved, ActionVetoed, ActionEscalated))
