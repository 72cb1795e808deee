"""What the bus itself has to say: events about deliveries, for whoever wants them."""

from __future__ import annotations

from typing import Any

from .event import Payload

Json = Any
#: How the types of the events below begin.
ANNOUNCEMENTS = "delivery."


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
