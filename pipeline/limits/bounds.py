"""Whether too much waits for an agent, as this process knows it: read now and then, by those who have to know."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

from ..core.errors import LedgerError
from ..core.retry import REJECT, SHED_NEW, SHED_OLDEST, Bound
from ..core.times import passed, utc_now

if TYPE_CHECKING:
    from ..core.event import Event
    from ..ledger.waiting.bounds import Bounds as Table
    from ..ledger.waiting.bounds import Full

#: Seconds for which it is believed who has too much waiting.
FRESH = 0.5


class Bounds:
    """Who has too much waiting; without a ledger nobody knows that, and only the age of events counts."""

    def __init__(self, table: Table | None) -> None:
        self._table = table
        self._full: Mapping[str, Full] = {}
        self._asked = 0.0

    def too_much(self, agent: str, bound: Bound, event: Event, has_begun: Callable[[], bool]) -> str | None:
        """Return why an event is not to be handled by an agent; None when it is.

        Arguments:
            has_begun: says whether its handler was called before; only asked about what would be too much.

        """
        age = (utc_now() - event.time).total_seconds()
        if bound.max_age is not None and age > bound.max_age:
            if has_begun():
                return None
            return f"max_age: it is {age:.0f} s old, and {agent} handles none that is older than {bound.max_age:g} s"
        if self._table is None or bound.overflow not in (SHED_OLDEST, SHED_NEW):
            return None
        full = self._read().get(agent)
        if full is None or (bound.overflow == SHED_NEW and event.time < full.since):
            return None
        with suppress(LedgerError):  # then it is handled
            if not has_begun() and (bound.overflow == SHED_NEW or self._table.shed(agent)):
                return f"{bound.overflow}: more than {bound.max_waiting:,} events wait for {agent}"
        return None

    # -- for publishers, whose way is no longer for it: they look when they have published

    @property
    def may_reject(self) -> bool:
        """Whether an agent was seen to refuse events, when somebody looked last."""
        return any(full.policy == REJECT for full in self._full.values())

    def rejecting(self) -> list[str]:
        """Return the agents that refuse events now."""
        return [agent for agent, full in self._read().items() if full.policy == REJECT]

    @property
    def is_fresh(self) -> bool:
        """Whether somebody has looked a moment ago."""
        return self._table is None or passed() - self._asked < FRESH

    def look(self) -> None:
        """Look who has too much waiting, unless somebody has a moment ago."""
        if not self.is_fresh:
            self._read()

    def _read(self) -> Mapping[str, Full]:
        if self._table is not None and not self.is_fresh:
            self._asked = passed()
            with suppress(LedgerError):
                self._full = self._table.full()
        return self._full
