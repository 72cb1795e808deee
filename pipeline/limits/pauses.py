"""What is paused, as this process knows it: read from the ledger now and then, and only when somebody has to know."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Protocol

from ..core import forks
from ..core.errors import LedgerError
from ..core.retry import Breaker, pause_for
from ..core.times import SECOND, chance, micros, passed, utc_now
from ..ledger.waiting.wait import PAUSE, Wait

if TYPE_CHECKING:
    from ..ledger.waiting.pauses import Attempts, Pause
    from ..ledger.waiting.pauses import Pauses as Table

#: Seconds for which it is believed which scopes are paused.
FRESH = 0.5
#: Characters of what a provider has said that are kept.
LONGEST_REASON = 300
#: Seconds after the end of a pause at which what waits for it goes on in any case, and looks for itself.
AT_THE_LATEST = 3600.0


class Agent(Protocol):
    """What has to be known of an agent here."""

    name: str
    scopes: tuple[str, ...]
    breaker: Breaker | None


class Pauses:
    """What is paused.

    Attributes:
        agents: those that somebody has paused, when look() was last called.

    """

    def __init__(self, table: Table, attempts: Attempts) -> None:
        self._table = table
        self._attempts = attempts
        self.agents: frozenset[str] = frozenset()
        self._scopes: Mapping[str, Pause] = {}
        #: When the last look was begun (see `passed`).
        self._asked = -math.inf
        self._reading = threading.Lock()
        #: Scopes that are agents' names, which were paused from here: nobody has declared them.
        self.own: set[str] = set()

    def look(self) -> None:
        """Find out which agents somebody has paused."""
        self.agents = self._table.agents()

    # -- scopes

    def holding(self, agent: Agent, delivery: str) -> Pause | None:
        """Return the pause that a delivery has to wait for, if there is one.

        Whether a scope is paused is known for FRESH seconds; before a delivery waits it is read once more.
        """
        names = (*agent.scopes, agent.name)
        if self._first(names, delivery) is None:
            return None
        self._read(0.0)
        return self._first(names, delivery)

    def _first(self, names: tuple[str, ...], delivery: str) -> Pause | None:
        self._read(FRESH)
        found = (self._scopes[name] for name in names if name in self._scopes)
        return next((pause for pause in found if pause.is_on or delivery not in pause.admitted), None)

    def _read(self, fresh: float) -> None:
        """Read what is paused, unless it is known as it was so many seconds ago; who comes meanwhile waits for it."""
        since = passed() - fresh
        if self._asked > since:
            return
        with forks.held_off(), self._reading:
            if self._asked > since:
                return
            at = passed()
            with suppress(LedgerError):  # whoever records something says so
                self._scopes = self._table.scopes()
            self._asked = at

    def limit(
        self, agent: Agent, scope: str, reason: str, retry_after: float | None, longest: float | None = None
    ) -> Pause:
        """Pause a scope because a provider has said that there were too many requests.

        Arguments:
            reason: what it has said.
            retry_after: the seconds that it asks for.
            longest: the seconds of a pause, at most; None for what pauses last at most.

        """
        lasts = partial(pause_for, retry_after, chance=chance(), longest=longest)
        return self._hit(agent, scope, reason, lasts)

    def _hit(self, agent: Agent, scope: str, reason: str, lasts: partial[float]) -> Pause:
        pause = self._table.hit(scope, reason[:LONGEST_REASON], lasts)
        if scope == agent.name:
            self.own.add(scope)
        self._scopes = {**self._scopes, scope: pause}
        return pause

    # -- breakers

    def failed(self, agent: Agent, breaker: Breaker, reason: str) -> None:
        """Count a failed attempt of an agent, and pause the agent when there were too many, or it had just begun again.

        Arguments:
            reason: how this one has failed.

        """
        made, failed = self._attempts.fail(agent.name, breaker.within)
        self._read(0.0)
        before = self._scopes.get(agent.name)
        if before is not None and not before.is_on:
            told = f"it has failed again: {reason}"
        elif breaker.trips(made, failed):
            told = f"{failed} of {made} attempts have failed in {breaker.within:g} s: {reason}"
        else:
            return
        self._hit(agent, agent.name, told, partial(breaker.lasts, chance=chance()))
        self._attempts.forget(agent.name)


def wait_for(pause: Pause) -> Wait:
    """Return what a delivery waits for that a pause holds back."""
    until = pause.until or utc_now()
    when = f"until {until.isoformat(sep=' ', timespec='seconds')}"
    due = micros(until) + round(AT_THE_LATEST * SECOND)
    return Wait(PAUSE, f"waits for {pause.name}, paused {when}: {pause.reason}", due=due, key=pause.name)
