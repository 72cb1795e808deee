"""What an app offers to those who hold agents back for a while."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..bus import Bus
    from ..operations.pauses import Pauses


class Pausing:
    """The pausing side of a Pipeline; everything here raises LedgerOff when there is no ledger."""

    bus: Bus

    @property
    def pauses(self) -> Pauses:
        """What is paused: list the pauses, clear that of a scope."""
        from ..operations.pauses import Pauses

        return Pauses(self.bus)

    def pause(self, agent: str, *, reason: str = "") -> bool:
        """Let all workers leave an agent's queue alone, within a second; what they have got before, they finish.

        Its events wait in its queue until resume(), whatever is restarted meanwhile. Returns whether it was not paused
        before; where it was, it has the new reason.

        Arguments:
            agent: its name or did.
            reason: for those who see it in `pipeline agents`.

        Raises InvalidAgent when nobody knows the agent.

        """
        return self.pauses.pause(agent, reason)

    def resume(self, agent: str) -> bool:
        """Let all workers consume an agent's queue again, within a second; say whether it was paused.

        Raises InvalidAgent when nobody knows the agent.
        """
        return self.pauses.resume(agent)
