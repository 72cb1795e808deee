"""Pausing and resuming agents, and looking after the pauses that providers have asked for."""

from __future__ import annotations

import builtins
from typing import TYPE_CHECKING

from ..core.errors import InvalidAgent, InvalidSelection, nearest
from ..ledger.waiting.pauses import AGENT, SCOPE, Pause

if TYPE_CHECKING:
    from ..bus import Bus


class Pauses:
    """The pauses of an app's ledger."""

    def __init__(self, bus: Bus) -> None:
        """Take what the app's rooms share; raises LedgerOff when there is no ledger."""
        self._bus = bus
        self._table = bus.ledger.waiting.pauses

    def pause(self, agent: str, reason: str = "") -> bool:
        """Pause an agent; say whether it was not paused before. Raises InvalidAgent when nobody knows it."""
        return self._table.pause(self._known(agent), reason)

    def resume(self, agent: str) -> bool:
        """Let an agent go on; say whether it was paused. Raises InvalidAgent when nobody knows it."""
        return self._table.end(AGENT, agent) or self._table.end(AGENT, self._known(agent))

    def list(self) -> builtins.list[Pause]:
        """Return all pauses, the oldest first: of agents by somebody, and of scopes."""
        return self._table.all()

    def clear(self, scope: str) -> None:
        """End the pause of a scope: what waits for it goes on at once. Raises InvalidSelection when it has none.

        Of an agent with too much waiting nothing is shed or refused any more, until a worker sees that it still has.
        """
        # Either is ended, whatever the other was.
        if not any([self._table.end(SCOPE, scope), self._bus.ledger.waiting.bounds.end(scope)]):
            hint = nearest(scope, self._table.scopes())
            raise InvalidSelection(f"no scope {scope!r} is paused; {hint}")

    def _known(self, name: str) -> str:
        agents = self._bus.agents
        if name in agents:
            return agents[name].name
        known = self._bus.ledger.subscribers.all()
        if name not in known:
            raise InvalidAgent(f"no agent is called {name!r}; {nearest(name, {*known, *(a.name for a in agents)})}")
        return name
