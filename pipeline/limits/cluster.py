"""The limits over all workers, for those who look at them and change them: `app.limits`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..core.errors import InvalidAgent
from ..core.limits.limit import Rule

if TYPE_CHECKING:
    from ..ledger.ledger import Ledger
    from ..ledger.limits.rules import Stated


class Limits:
    """The limits that an app's agents declare, and all others that the ledger knows."""

    def __init__(self, ledger: Ledger, declared: Mapping[str, Rule]) -> None:
        self._rules = ledger.limits.rules
        self._declared = declared

    def list(self) -> Sequence[Stated]:
        """Return all limits by name, with what is in force, what runs and what waits."""
        self._rules.declare(self._declared)
        return self._rules.all()

    def set(self, name: str, **changes: Any) -> Rule:
        """Change a limit until clear() takes that back, in force everywhere within a second; return what is in force.

        Arguments:
            name: as the limit or its agent is called.
            changes: `rate` (such as "10/m"), `burst`, `concurrent`; None for no such limit. What is not given stays.

        Raises UnknownEvent that names the nearest limit, and InvalidAgent for what contradicts itself.

        """
        if not changes:
            raise InvalidAgent(f"limits.set({name!r}) changes nothing: give rate=, burst= or concurrent=")
        self._rules.declare(self._declared)
        return self._rules.change(name, changes)

    def clear(self, name: str) -> Rule:
        """Let a limit be again what its agents declare, and return that; errors as in set()."""
        self._rules.declare(self._declared)
        return self._rules.change(name, None)
