"""Strays: events that a worker takes from an agent's queue although its own version of the agent does not want them.

Old and new workers share a queue while a new version is rolled out, and bindings stay for a while when a pattern goes.
So a stray is kept for a version that wants it, with growing pauses; what nobody wants ends, and somebody says so.
The same is done with what this version's filter keeps back, and the filter of another one that runs does not.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING

from ..agents.wanting import wants_read
from ..core.routing import wants
from ..core.times import chance, micros, monotonic, now
from ..ledger.facts import Delivery
from .steps import Filtered, Paused

if TYPE_CHECKING:
    from ..bus import Bus

#: Seconds that a stray waits before a worker takes it again: a quarter of its age, but no more and no less than these.
SHORTEST, LONGEST = 0.5, 30.0
#: How often it is handed on without a ledger, where nobody knows who else runs, and for how many seconds at most.
MOST, LONGEST_UNKNOWN = 20, 2.0
#: Seconds for which a line about the same thing is not written again, and things that are remembered for that.
QUIET, REMEMBERED = 60.0, 500

WAITS = "waits for a worker whose version of the agent listens to {}"
ELSEWHERE = "waits for a worker whose version of the agent wants it by its filter"
NOBODY = "no version of the agent that runs listens to {}"


def kept(delivery: Delivery, reason: str = WAITS) -> Paused:
    """Return how long a stray waits for a worker that wants it, when there is one."""
    age = (now() - micros(delivery.event.time)) / 1e6
    return Paused(_about(min(max(age / 4, SHORTEST), LONGEST)), reason.format(delivery.event.type))


def at_first() -> Paused:
    """Return how long an event waits that this version's filter keeps back and another one's does not."""
    return Paused(_about(SHORTEST), ELSEWHERE)


def handed_on(delivery: Delivery) -> Paused | None:
    """Return how long a stray waits when nobody knows who wants it; None when it was handed on often enough."""
    if delivery.handed >= MOST:
        return None
    # Two strays that came back in turns would go to the same two workers each time: RabbitMQ deals out in turns, too.
    pause = (0.05 + 0.95 * chance()) * min(SHORTEST * 1.2**delivery.handed, LONGEST_UNKNOWN)
    return Paused(pause, WAITS.format(delivery.event.type))


def ended(delivery: Delivery) -> Filtered:
    """Return the end of a stray that nobody wants."""
    return Filtered(NOBODY.format(delivery.event.type))


def answered(bus: Bus, delivery: Delivery) -> Paused | Filtered | None:
    """Say what becomes of a stray where the ledger knows who runs; None for one that somebody has asked for."""
    if bus.ledger.subscribers.is_wanted(delivery.agent, delivery.event.type):
        return kept(delivery)
    return None if delivery.asked or delivery.resumed else ended(delivery)


def refused(bus: Bus, delivery: Delivery, filtered: Filtered) -> Paused | Filtered:
    """Say what becomes of an event that this version's filter keeps back: another one that runs may want it."""
    event, own = delivery.event, bus.agents[delivery.agent].reads.get(delivery.event.type)
    running = bus.ledger.subscribers.versions([delivery.agent])
    for version in (versions[delivery.agent] for versions in running if delivery.agent in versions):
        if wants(version.patterns, event.type) and wants_read(version.filters, event, bus.types, own):
            return kept(delivery, ELSEWHERE)
    return filtered


def _about(seconds: float) -> float:
    return seconds * (0.5 + 0.5 * chance())


class Told:
    """Remembers what was said, so that it is a line now and then and no flood."""

    def __init__(self) -> None:
        self._until: dict[Hashable, float] = {}

    def is_new(self, *about: Hashable) -> bool:
        """Say whether nothing was said about this in the last QUIET seconds; now it is."""
        at = monotonic()
        if self._until.get(about, 0.0) > at:
            return False
        if len(self._until) >= REMEMBERED:
            self._until.clear()
        self._until[about] = at + QUIET
        return True
