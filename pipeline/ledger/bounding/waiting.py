"""The parts of the ledger that carry everything that waits."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ..flows.flows import Flows
from ..waiting.approvals import Approvals
from ..waiting.arrivals import Arrivals
from ..waiting.batches import Batches
from ..waiting.bounds import Bounds
from ..waiting.newcomers import Newcomers
from ..waiting.pauses import Attempts, Pauses
from ..waiting.series import Series
from ..waiting.steps import Steps
from ..waiting.waits import Waits
from .budgets import Budgets
from .trees import Trees

if TYPE_CHECKING:
    from ..database.database import Database
    from ..database.statements import Statements
    from ..deliveries import Deliveries
    from ..due import Due
    from ..subscribers import Subscribers
    from ..timers import Timers


class Waiting:
    """What waits.

    Attributes:
        steps: what deliveries have done, and do not do again.
        waits: what parked deliveries wait for.
        arrivals: the events among that.
        series: the quiet times among that.
        approvals: the decisions among that.
        newcomers: events of versions that no worker reads yet.
        budgets: what may be spent, and was.
        trees: what was stopped, and does not run any more.
        pauses: agents and scopes that are paused.
        batches: deliveries that are handled together.
        flows: deliveries that belong together, and what follows from them.
        bounds: agents that have more waiting than they may.
        attempts: how those of agents with a breaker went.

    """

    def __init__(
        self,
        database: Database,
        statements: Statements,
        deliveries: Deliveries,
        timers: Timers,
        due: Due,
        subscribers: Subscribers,
        append: Callable[..., object],
        secret: Callable[[], bytes],
    ) -> None:
        self.steps = Steps(database)
        self.waits = Waits(database, deliveries, self.steps, timers, append)
        self.arrivals = Arrivals(database, deliveries, self.waits)
        self.series = Series(database, deliveries, self.waits)
        self.approvals = Approvals(database, self.waits, append, secret)
        self.batches = Batches(database, deliveries, self.waits, self.steps, due.announce)
        self.newcomers = Newcomers(database)
        self.flows = Flows(database, deliveries, self.waits)
        self.trees = Trees(database, deliveries, subscribers, append, self.approvals, self.flows)
        self.budgets = Budgets(database, self.waits, append)
        self.pauses = Pauses(database, self.waits)
        self.bounds = Bounds(database, append)
        self.attempts = Attempts(database, statements)
