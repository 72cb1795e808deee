"""Agents that have more waiting than they may: since when, what becomes of that, and how many are still to be shed."""

from __future__ import annotations

from collections.abc import Callable, Collection
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import Connection, and_, delete, select, update

from ...core.times import moment, now
from ..database.waiting import pauses
from ..workers import listening

if TYPE_CHECKING:
    from ...core.event import Encoded
    from ..database.database import Database

#: The kind of these rows among the pauses.
FULL = "full"


class Full(NamedTuple):
    """An agent with too much waiting.

    Attributes:
        policy: what becomes of it.
        since: when it was first seen to be too much.
        shed: how many deliveries were given up since.

    """

    policy: str
    since: datetime
    shed: int


class Bounds:
    """The rows of agents with too much waiting, in the pauses' table."""

    def __init__(self, database: Database, append: Callable[..., object]) -> None:
        self._database = database
        self._append = append

    def begin(self, agent: str, policy: str, reason: str, excess: int, announced: Encoded) -> bool:
        """Note that an agent has too much waiting, and publish that; say whether it was not known before.

        Arguments:
            excess: how many may be shed.

        """
        insert = self._database.insert(pauses).on_conflict_do_nothing().returning(pauses.c.name)
        row = {"kind": FULL, "name": agent, "policy": policy, "reason": reason, "since": now(), "width": excess}

        def work(connection: Connection) -> bool:
            is_new = connection.execute(insert, row).first() is not None
            if is_new:
                self._append([announced], due_in=0, connection=connection)
            return is_new

        return self._database.run(work)

    def allow(self, agent: str, policy: str, excess: int) -> bool:
        """Say how many more may be shed now; return whether the agent is known to have too much waiting.

        Arguments:
            policy: what becomes of it by now: a new version of the agent may say something else.

        """
        more = update(pauses).where(_is(agent)).values(policy=policy, width=pauses.c.ended + excess)
        return bool(self._database.run(lambda connection: connection.execute(more).rowcount))

    def end(self, agent: str) -> bool:
        """Note that it is no longer too much; say whether it was."""
        return bool(self._database.run(lambda own: own.execute(delete(pauses).where(_is(agent))).rowcount))

    def end_gone(self, full: Collection[str]) -> list[str]:
        """Note the same for those of some agents that nobody runs, nor has until a moment ago; return them."""

        def work(connection: Connection) -> list[str]:
            gone = sorted(set(full).difference(*listening(connection)))
            connection.execute(delete(pauses).where(pauses.c.kind == FULL, pauses.c.name.in_(gone)))
            return gone

        return self._database.run(work) if full else []

    def shed(self, agent: str) -> bool:
        """Take one of those that may be shed; say whether there was one left."""
        mine = and_(_is(agent), pauses.c.ended < pauses.c.width)
        one = update(pauses).where(mine).values(ended=pauses.c.ended + 1).returning(pauses.c.name)
        return self._database.run(lambda connection: connection.execute(one).first() is not None)

    def full(self) -> dict[str, Full]:
        """Return the agents that have too much waiting."""
        query = select(pauses).where(pauses.c.kind == FULL)
        rows = self._database.read(lambda connection: connection.execute(query).all())
        return {row.name: Full(row.policy, moment(row.since), row.ended) for row in rows}


def _is(agent: str) -> Any:
    return and_(pauses.c.kind == FULL, pauses.c.name == agent)
