"""What a handler publishes on its way back to where it waited: it has to be what it has published there before."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from ...core.errors import InvalidStep
from ..strand import aside

if TYPE_CHECKING:
    from ...core.event import Event
    from ...ledger.ledger import Ledger


def check_same(ledger: Ledger | None, event: Event) -> None:
    """Raise InvalidStep when an earlier run has emitted another event at this place: this one would be lost."""
    assert ledger is not None
    before = aside(partial(ledger.waiting.arrivals.event, event.id))
    if before is not None and before.type != event.type:
        raise InvalidStep(
            f"ctx.publish(): before it has waited, the handler published {before.type} here, and now {event.type}: "
            "what it publishes has to be the same each time until it is back where it waited; publish after the wait, "
            "or let a step say which way it goes"
        )
