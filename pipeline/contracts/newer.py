"""Events of a newer major version than this worker's: they wait for a newer worker, and somebody says so."""

from __future__ import annotations

import logging
from collections.abc import Callable

from ..core.errors import InvalidEvent
from ..core.event import Event
from ..core.observe import Log
from ..core.times import monotonic
from .versions import Version

logger = Log(logging.getLogger(__name__))

#: Seconds between two looks whether a newer worker is there: a quarter of what the event has waited, between these.
SHORTEST, LONGEST = 30.0, 300.0
#: Seconds after which somebody is told, and after which the event is a dead letter.
ALERT, DEAD = 600.0, 86_400.0
#: Seconds without a look at any of an agent's events of a type, after which it is told anew that they wait.
OVER = 4 * LONGEST
#: Agents and types that are remembered as told without a ledger.
REMEMBERED = 500


class NewerMajor(InvalidEvent):
    """An event is of a newer major version than the class that is to read it."""

    def __init__(self, event: Event, agent: str, version: Version, reads: Version) -> None:
        super().__init__(
            f"{event.type} for agent {agent!r}: its version is {version}, this worker's class is {reads}; a worker "
            f"whose class is {version.major}.x reads it"
        )
        self.event, self.agent, self.version, self.reads = event, agent, version, reads

    @property
    def reason(self) -> str:
        """What the event waits for."""
        return f"waits for a worker that reads version {self.version.major}.x; this one reads {self.reads}"


def pause(newer: NewerMajor, waited: float, is_new: Callable[[str, str], bool]) -> float:
    """Return how many seconds an event waits before it is looked at again; tell it once when one has waited for long.

    Arguments:
        waited: seconds since this delivery was first put off: an event may be old when it comes here (a replay, a long
            queue), and still its agent is given time to be deployed.
        is_new: says of an agent and a type whether nobody was told yet that such events wait.

    Raises InvalidEvent when it has waited for a day.

    """
    event, major = newer.event, newer.version.major
    if waited >= DEAD:
        raise InvalidEvent(
            f"{newer}, and none has come within {DEAD / 3600:g} h: deploy the agent with a class of version {major}.x, "
            "then requeue it (`pipeline dead requeue`)"
        ) from newer
    if waited >= ALERT and is_new(newer.agent, event.type):
        logger.error(
            "agent %s: %s %s waits for %d minutes: its version is %s, and this worker reads %s; deploy a worker whose "
            "class is of version %d.x: what has waited for %g h is a dead letter",
            newer.agent, event.type, event.key, waited / 60, newer.version, newer.reads, major, DEAD / 3600,
        )  # fmt: skip
    return min(max(waited / 4, SHORTEST), LONGEST)


class Told:
    """Remembers for one process, where there is no ledger, that somebody was told which agents' events wait."""

    def __init__(self) -> None:
        self._seen: dict[tuple[str, str], float] = {}

    def is_new(self, agent: str, type: str) -> bool:
        """Say whether nobody was told that an agent's events of a type wait, or none has waited since; now it is."""
        at, about = monotonic(), (agent, type)
        if len(self._seen) >= REMEMBERED and about not in self._seen:
            self._seen.clear()
        before = self._seen.get(about)
        self._seen[about] = at
        return before is None or before < at - OVER
