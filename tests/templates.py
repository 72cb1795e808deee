"""Ledgers that are copies of a migrated one: the migrations take longer than most of the tests that need a ledger."""

from __future__ import annotations

import shutil
from contextlib import closing
from pathlib import Path

from pipeline.ledger.database.database import Database
from pipeline.ledger.database.migrate import upgrade
from tests.servers import PostgreSQL


class Templates:
    """The migrated ledgers of a session, each made when it is first wanted."""

    def __init__(self, directory: Path) -> None:
        self._file = directory / "ledger.db"
        self._databases: dict[PostgreSQL, str] = {}

    def copy_to(self, file: Path) -> None:
        """Make a ledger in a file."""
        if not self._file.exists():
            migrate(f"sqlite:///{self._file}")
        file.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(self._file, file)

    def database(self, server: PostgreSQL) -> str:
        """Make a ledger on a server and return its address."""
        if server not in self._databases:
            migrate(found := server.database())
            self._databases[server] = found
        return server.database(like=self._databases[server])


def migrate(url: str) -> None:
    """Make the tables in an empty database."""
    database = Database(url)
    with closing(database):
        upgrade(database)
