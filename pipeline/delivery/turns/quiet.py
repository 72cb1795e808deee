"""What a delivery of an agent with a debounce waits for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...core.errors import InvalidEvent
from ...core.limits.single import BEFORE_ALL, DEBOUNCE, QUIET, Debounce
from ...core.times import SECOND
from ...ledger.waiting.wait import Wait
from .turns import value_of

if TYPE_CHECKING:
    from ...agents.agent import Agent
    from ...bus import Bus
    from ...core.event import Event
    from ...ledger.facts import Run
    from ...ledger.waiting.wait import Parking


def quiet_for(agent: Agent, debounce: Debounce, event: Event) -> Wait:
    """Return the wait; raise InvalidEvent for an event without a key that it needs."""
    key = value_of(debounce.key, event.attributes())
    if key is None and debounce.missing == "error":
        raise InvalidEvent(
            f"the debounce of agent {agent.name!r} goes by {debounce.key}, which the event does not have; publish it "
            "with that, or declare it with missing='shared'"
        )
    of = f" for {key!r}" if key else ""
    reason = f"waits for a quiet time of {debounce.quiet_time / SECOND:g} s{of}"
    return Wait(QUIET, reason, DEBOUNCE, BEFORE_ALL, key=f"{agent.name}#{DEBOUNCE}:{key or ''}")


def hold(bus: Bus, parking: Parking, run: Run) -> int:
    """Let a delivery wait, or give way to one that does; return until when, at the latest (microseconds).

    Arguments:
        run: what runs the transaction.

    """
    debounce = bus.agents[parking.delivery.agent].debounce
    assert debounce is not None
    return bus.ledger.waiting.series.park(parking, debounce, run)
