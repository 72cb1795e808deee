"""Which workers live: each says so every few seconds, and when it ends."""

from __future__ import annotations

from sqlalchemy import Connection, delete

from ..core.times import SECOND, now
from .database.database import Database
from .database.tables import workers

#: Seconds after which a worker that has not been seen is forgotten.
FORGOTTEN_AFTER = 86400


class Workers:
    """The workers' table."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def heartbeat(self, worker: str) -> None:
        """Note that a worker lives."""
        insert = self._database.insert(workers)
        statement = insert.on_conflict_do_update(index_elements=["id"], set_={"seen": insert.excluded.seen})

        def work(connection: Connection) -> None:
            connection.execute(statement, {"id": worker, "seen": now()})
            connection.execute(delete(workers).where(workers.c.seen < now() - FORGOTTEN_AFTER * SECOND))

        self._database.run(work)

    def leave(self, worker: str) -> None:
        """Note that a worker has ended."""
        self._database.run(lambda connection: connection.execute(delete(workers).where(workers.c.id == worker)))
