"""Who of those in a limit's line is next."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, String, and_, bindparam, exists, func, select, update

from ...core.limits.limit import limit_in
from ..database.leases import is_run
from ..database.tables import deliveries
from ..database.waiting import HAS_WAITING, pauses, shares, turns
from ..waiting.pauses import AGENT
from .states import CALLED, WAITING

if TYPE_CHECKING:
    from ...core.limits.limit import Rule

#: What one turn costs a share of weight 1.
COST = 1_000_000
#: Of a turn: that somebody has paused its agent.
OF_PAUSED = exists(
    select(pauses.c.name)
    .join(deliveries, deliveries.c.agent == pauses.c.name)
    .where(deliveries.c.id == turns.c.delivery, pauses.c.kind == AGENT)
    .correlate(turns)
)
_AGENT = func.coalesce(deliveries.c.agent, "")
_OLDEST = (
    select(turns.c.delivery, _AGENT.label("agent"))
    .outerjoin(deliveries, deliveries.c.id == turns.c.delivery)
    .where(~OF_PAUSED)
    .order_by(turns.c.first, turns.c.second, turns.c.delivery)
    .limit(1)
)
_IS_RUN = select(is_run(bindparam("agent", type_=String)))


def pick(connection: Connection, line: str, passed: int, rule: Rule, number: int, at: int) -> tuple[list[str], int]:
    """Choose who is next: of the share that has spent least the most urgent one, and of those the oldest.

    Those of agents that are paused, or that nobody runs, stay where they are: they would keep slots that others could
    use.

    Start-time fair queueing (Goyal, Vin, Cheng, 1996) with turns of one size: like deficit round robin, but one
    number for each share is enough: `passed` is what those have spent that are next.
    """
    picked: list[str] = []
    staying: list[str] = []
    agents = {limit_in(line).partition("#")[0]: True}  # of a limit of its own it keeps nobody back but itself
    of_line = shares.c.line == line
    by_spent = select(shares).where(of_line, HAS_WAITING).order_by(shares.c.spent, shares.c.share).limit(1)
    while len(picked) < number:
        share = connection.execute(by_spent.where(shares.c.share.not_in(staying))).first()
        if share is None:
            break
        waiting = and_(turns.c.line == line, turns.c.state == WAITING, turns.c.share == share.share)
        found = _oldest(connection, waiting, agents)
        this = and_(of_line, shares.c.share == share.share)
        if found is None:
            if connection.execute(select(turns.c.delivery).where(waiting).limit(1)).first() is None:
                connection.execute(update(shares).where(this).values(waiting=0))
            staying.append(share.share)
            continue
        passed = max(passed, share.spent)
        spent = share.spent + round(COST / rule.weight(share.share))
        connection.execute(update(shares).where(this).values(spent=spent, waiting=shares.c.waiting - 1))
        connection.execute(
            update(turns).where(turns.c.delivery == found, turns.c.line == line).values(state=CALLED, since=at)
        )
        picked.append(found)
    return picked, passed


def _oldest(connection: Connection, waiting: Any, agents: dict[str, bool]) -> str | None:
    """Return the first of those that wait whose agent may have its turn; None where there is none.

    Arguments:
        agents: gets whether somebody runs each that was met.

    """
    oldest = _OLDEST.where(waiting)
    while True:
        away = [name for name, runs in agents.items() if not runs]
        row = connection.execute(oldest.where(_AGENT.not_in(away)) if away else oldest).first()
        if row is None:
            return None
        if row.agent not in agents:
            agents[row.agent] = not row.agent or bool(connection.execute(_IS_RUN, {"agent": row.agent}).scalar())
        if agents[row.agent]:
            return str(row.delivery)
