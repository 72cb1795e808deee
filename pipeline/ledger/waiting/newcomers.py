"""Events of newer major versions, which wait for a newer worker: that they do is told once for all workers."""

from __future__ import annotations

from sqlalchemy import Connection, update

from ...core.times import SECOND, now
from ..database.database import Database
from ..database.waiting import newcomers


class Newcomers:
    """The table of agents and types of which events wait for a worker that reads them, once somebody was told."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def is_new(self, agent: str, type: str, over: float) -> bool:
        """Say whether nobody was told that an agent's events of a type wait, or none has since; now somebody is.

        Arguments:
            over: seconds without a look at any of them after which none waits any more.

        """
        at = now()
        this = {"agent": agent, "type": type, "seen": at}
        past = newcomers.c.seen < at - round(over * SECOND)
        new = self._database.insert(newcomers).on_conflict_do_update(
            index_elements=["agent", "type"], set_={"seen": at}, where=past
        )
        again = update(newcomers).where(newcomers.c.agent == agent, newcomers.c.type == type).values(seen=at)

        def work(connection: Connection) -> bool:
            if connection.execute(new.returning(newcomers.c.agent), this).first() is not None:
                return True
            connection.execute(again)
            return False

        return self._database.run(work)
