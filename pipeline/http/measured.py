"""How a ledger stands, in numbers that only those read who watch it all the time: each is cheap however large it is."""

from __future__ import annotations

from typing import NamedTuple

from sqlalchemy import and_, func, select

from ..core.times import SECOND, now
from ..ledger.bounding.budget import TREE, day_of
from ..ledger.database.database import Database
from ..ledger.database.tables import ACTIVE, events, flows, outbox, timers
from ..ledger.database.waiting import approvals, budgets
from ..ledger.waiting.approval import PENDING

UNITS = ("tokens", "cost", "events")


class Measured(NamedTuple):
    """What lies in a ledger.

    Attributes:
        unsent_age: seconds since the time of the oldest event in the outbox; 0 without one.
        timers_due: timers whose time has come, and which no worker has taken yet.
        approvals: actions that wait for somebody's decision.
        flows: those that have not ended, by name and status.
        spent: of budgets, by name and unit; of those for a day today's.

    """

    unsent_age: float
    timers_due: int
    approvals: int
    flows: list[tuple[tuple[str, ...], float]]
    spent: list[tuple[tuple[str, ...], float]]


def measured(database: Database) -> Measured:
    """Read them."""
    at = now()
    oldest = select(func.min(events.c.time)).join(outbox, outbox.c.event_id == events.c.id)
    due = select(func.count()).select_from(timers).where(timers.c.due <= at)
    undecided = select(func.count()).select_from(approvals).where(approvals.c.status == PENDING)
    going = select(flows.c.name, flows.c.status, func.count()).where(ACTIVE).group_by(flows.c.name, flows.c.status)
    sums = [func.sum(budgets.c[unit]) for unit in UNITS]
    # Those of trees have a row for each correlation, and end with it.
    declared = and_(budgets.c.name != TREE, budgets.c.period.in_(("", day_of(at))))
    used = select(budgets.c.name, *sums).where(declared).group_by(budgets.c.name)
    with database.reading() as connection:
        since = connection.execute(oldest).scalar()
        return Measured(
            unsent_age=0.0 if since is None else max(0.0, (at - since) / SECOND),
            timers_due=int(connection.execute(due).scalar() or 0),
            approvals=int(connection.execute(undecided).scalar() or 0),
            flows=[((name, status), float(number)) for name, status, number in connection.execute(going)],
            spent=[
                ((name, unit), float(value) / (1_000_000 if unit == "cost" else 1))
                for name, *values in connection.execute(used)
                for unit, value in zip(UNITS, values, strict=True)
            ],
        )
