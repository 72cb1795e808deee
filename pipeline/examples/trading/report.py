"""What the trading demonstration showed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Overtaking:
    """What became of the urgent alert.

    Attributes:
        waiting: ticks that waited when it was published.
        begun_before: events that the trader had got by then, and has begun before it.
        overtaken: events that were published before it, and begun after it.
        closed: how many pieces of each symbol its orders have sold, or bought back.

    """

    waiting: int
    begun_before: int
    overtaken: int
    closed: Mapping[str, int]


@dataclass(frozen=True)
class Halt:
    """What happened while the market was halted.

    Attributes:
        finished: events that the worker had got before, and has finished.
        handled: events that the trader has begun from then on until the market went on.
        waiting: ticks that waited when it went on.
        reason: what `pipeline agents` said.

    """

    finished: int
    handled: int
    waiting: int
    reason: str


@dataclass(frozen=True)
class Report:
    """What the demonstration showed.

    Attributes:
        session: the id of all that happened.
        deliveries: for each agent, and each type of event, how many deliveries ended how.
        updates_ahead: order updates (priority 3) that have overtaken ticks (priority 5).
        evaluated: ticks whose volume was unusual.
        requested, filled: orders.
        positions: what the desk owns by its book.
        by_ledger: the same by the events in the ledger.
        lost: deliveries that have not ended well; twice: those that were handled more than once.

    """

    directory: Path
    config: Path
    seconds: float
    seed: int
    session: str
    deliveries: Mapping[str, Mapping[str, Mapping[str, int]]]
    overtaking: Overtaking
    updates_ahead: int
    halt: Halt
    most_at_once: int
    evaluated: int
    requested: int
    filled: int
    positions: Mapping[str, int]
    by_ledger: Mapping[str, int]
    lost: Sequence[str]
    twice: Sequence[str]

    def as_data(self) -> dict[str, Any]:
        """Return the report as JSON data."""
        places = {"directory": str(self.directory), "config": str(self.config), "seconds": round(self.seconds, 3)}
        return {**asdict(self), **places}
