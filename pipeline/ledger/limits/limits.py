"""The parts of the ledger that count over all workers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .calling import Calling
from .lines import Lines
from .order import Orders
from .rules import Rules
from .singles import Singles

if TYPE_CHECKING:
    from ..database.database import Database
    from ..deliveries import Deliveries


class Limits:
    """What is counted over all workers.

    Attributes:
        rules: what limits say.
        lines: who has a turn, and who waits for one.
        calling: what is done about lines from time to time.
        orders: the order of events by key.
        singles: what runs one at a time.

    """

    def __init__(self, database: Database, deliveries: Deliveries) -> None:
        self.rules = Rules(database)
        self.lines = Lines(database, deliveries, self.rules)
        self.calling = Calling(database, deliveries, self.lines)
        self.orders = Orders(database, self.lines)
        self.singles = Singles(database, deliveries, self.lines)
