"""The turns of a delivery: which lines it stands in, by what its event says, and how it takes them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from ...agents.agent import Agent
from ...agents.filters.paths import text_at
from ...agents.strand import current, within
from ...core.errors import InvalidEvent
from ...core.event import Event
from ...core.limits.limit import SLOT, Turn, order_of, reason_for
from ...core.routing import reaches
from ...core.times import SECOND, micros, now, pause
from ...ledger.waiting.wait import Wait

if TYPE_CHECKING:
    from ...bus import Bus
    from ...ledger.facts import Delivery

#: Seconds after which a member of a canvas, which cannot be parked, asks again for its turn.
ASK_AGAIN = 1.0
#: Seconds after which what is written just now has its place in the log.
SETTLES = 0.2


def turns_of(agent: Agent, event: Event, *, is_replayed: bool = False) -> tuple[Turn, ...]:
    """Return what a delivery needs; one whose event lacks a key that it has to have has None for it.

    Arguments:
        is_replayed: a replay is out of order, and is not held up by what came after it.

    """
    said, age = event.attributes(), micros(event.time)
    found = []
    for name, limit in agent.counted.items():
        key = value_of(limit.key, said)
        if key is None and limit.missing == "shared":
            key = ""
        share = value_of(limit.fair_by, said) or ""
        found.append(Turn(name, key, share, agent.rules[name], event.priority, age))
    if agent.order is not None and not is_replayed:
        key = value_of(agent.order.key, said) or ""
        found.append(Turn(order_of(agent.name), key, skips=agent.order.on_dead == "skip"))
    return tuple(found)


class Take(NamedTuple):
    """What came of taking turns.

    Attributes:
        seconds: until they begin.
        wait: what the delivery has to wait for; None when it need not.
        instead: why it is not handled at all, if it is not.

    """

    seconds: float = 0.0
    wait: Wait | None = None
    instead: str | None = None


def take(bus: Bus, delivery: Delivery) -> Take:
    """Take all turns of a delivery, or say what becomes of it.

    Raises InvalidEvent for an event without a key that its limit needs.
    """
    agent = bus.agents[delivery.agent]
    turns = list(delivery.turns)
    for turn, limit in zip(turns, agent.counted.values(), strict=False):
        if turn.key is None:
            raise InvalidEvent(
                f"the limit {turn.limit} of agent {agent.name!r} counts by {limit.key}, which the event does not have; "
                "publish it with that, or declare the limit with missing='shared'"
            )
    limits = bus.ledger.limits
    if turns and turns[-1].ordered:
        place = limits.orders.place(agent.name, delivery.event.key, partial(_in_order, agent))
        if place is None:
            reason = "waits for older events to be written"
            return Take(wait=Wait(SLOT, reason, due=now() + round(SETTLES * SECOND)))
        turns[-1] = turns[-1]._replace(first=place[0], second=place[1])
    if agent.singleton is not None and not (delivery.asked or delivery.in_canvas):
        seconds, line, instead = limits.singles.take(delivery, turns, agent.singleton.when)
    else:  # for which somebody waits: it is neither left out, nor does it stop another one
        (seconds, line), instead = limits.lines.take(delivery.id, turns), None
    return Take(seconds, None if line is None else Wait(SLOT, reason_for(line), key=line), instead)


def rest(seconds: float) -> None:
    """Wait for a turn that is about to begin."""
    if seconds <= 0:
        return
    if current() is None:
        pause(seconds)
    else:
        within(asyncio.sleep(seconds), None)


def _in_order(agent: Agent, event: Event) -> Turn | None:
    """Return the turn that an agent's delivery of an event has in its order; None where there is no such delivery."""
    if not reaches(agent.name, agent.patterns, event.type, event.targets):
        return None
    if agent.filter is not None and not event.targets and agent.filter.test(event.attributes()) is not True:
        return None
    return turns_of(agent, event)[-1]


def value_of(path: str | None, said: Mapping[str, Any]) -> str | None:
    """Return what an event says at a path, as a text; None for nothing, and "" without a path."""
    return "" if path is None else text_at(path, said)
