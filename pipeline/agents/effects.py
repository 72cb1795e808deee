"""Effects: what a delivery leaves behind, written in one transaction with its outcome."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

from ..core.event import Event

if TYPE_CHECKING:
    from ..ledger.database.rows import Write


class Later(NamedTuple):
    """An event that is published when it is due."""

    event: Event
    due: datetime


@dataclass(frozen=True, slots=True)
class Effects:
    """What a delivery leaves behind when it has succeeded.

    Attributes:
        events: published now.
        later: published when they are due.
        rows: written into the ledger: of joins, and of whatever else is built on deliveries.

    """

    events: tuple[Event, ...] = ()
    later: tuple[Later, ...] = ()
    rows: tuple[Write, ...] = ()


NOTHING = Effects()
