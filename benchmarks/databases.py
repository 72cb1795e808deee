"""The databases under the measured ledgers: files, and a PostgreSQL server of the benchmark's own."""

from __future__ import annotations

import contextlib
import sqlite3
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path

from pipeline.ledger.database.migrate import upgrade
from pipeline.ledger.ledger import Ledger
from tests.servers import PostgreSQL, ServerMissingError

SQLITE, POSTGRESQL = "SQLite", "PostgreSQL"


class Database(ABC):
    """Where ledgers are made.

    Attributes:
        version: of the program, for the table of what was measured on.

    """

    name: str
    version: str

    @abstractmethod
    def url(self) -> contextlib.AbstractContextManager[str]:
        """Lend the address of an empty database."""

    @contextlib.contextmanager
    def address(self) -> Iterator[str]:
        """Lend the address of an empty ledger."""
        with self.opened() as ledger:
            yield ledger.database.url.render_as_string(hide_password=False)

    @contextlib.contextmanager
    def opened(self) -> Iterator[Ledger]:
        """Lend an empty ledger."""
        with self.url() as url:
            ledger = Ledger(url, timeout=60.0)
            upgrade(ledger.database)
            try:
                yield ledger
            finally:
                ledger.close()


class Off(Database):
    """No ledger at all."""

    name = "off"
    version = ""

    @contextlib.contextmanager
    def url(self) -> Iterator[str]:
        yield ""

    @contextlib.contextmanager
    def address(self) -> Iterator[str]:
        """Lend the address that means none."""
        yield ""


class SQLite(Database):
    """A file for each ledger."""

    name = SQLITE
    version = f"SQLite {sqlite3.sqlite_version}, WAL, synchronous=NORMAL"

    @contextlib.contextmanager
    def url(self) -> Iterator[str]:
        with tempfile.TemporaryDirectory(prefix="bench-ledger-") as directory:
            yield f"sqlite:///{Path(directory, 'ledger.db')}"


class Postgres(Database):
    """A database of one server for each ledger."""

    name = POSTGRESQL

    def __init__(self, server: PostgreSQL) -> None:
        self._server = server
        self.version = _version(server)

    @contextlib.contextmanager
    def url(self) -> Iterator[str]:
        url = self._server.database()
        try:
            yield url
        finally:
            self._server.drop(url)


@contextlib.contextmanager
def databases() -> Iterator[tuple[list[Database], dict[str, str]]]:
    """Start PostgreSQL, and stop it in the end; return what there is, and why the rest is not."""
    server = PostgreSQL()
    try:
        found: list[Database] = [SQLite()]
        skipped = {}
        try:
            server.start()
            found.append(Postgres(server))
        except (ServerMissingError, AssertionError) as exc:
            skipped["PostgreSQL, as a ledger"] = str(exc)
        yield found, skipped
    finally:
        server.stop()


def _version(server: PostgreSQL) -> str:
    import psycopg

    with psycopg.connect(server.url.replace("+psycopg", "")) as connection:
        rows = connection.execute("SELECT setting FROM pg_settings WHERE name = 'server_version'").fetchone()
    return f"PostgreSQL {rows[0].split()[0] if rows else ''}, every commit synced, shared_buffers=16MB"
