"""The schema's version: checked when a ledger is opened, brought up to date by one command."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection, func, inspect, select, text

from ...core import forks
from ...core.errors import LedgerError
from ...core.ids import new_id
from ...core.times import random_bytes
from . import tables
from .database import Database

_MIGRATIONS = Path(__file__).parent / "migrations"
#: The newest migration: the number that its file's name begins with.
HEAD = max(path.name.partition("_")[0] for path in (_MIGRATIONS / "versions").glob("[0-9]*_*.py"))
VERSION_TABLE = "pipeline_version"
#: Bytes of the secret that signs the bus's own messages.
SECRET_BYTES = 32
#: A number of our own: on PostgreSQL only one process migrates at a time; the others wait for so many seconds.
_LOCK, PATIENCE = 7_316_200_101, 300
#: And in one process only one thread does, also where two threads open two ledgers.
_one_at_a_time = threading.Lock()


def prepare(database: Database) -> None:
    """Refuse a schema that this code does not know; create the tables of an empty SQLite file.

    Raises LedgerError that says what to do.
    """
    with database.reader.begin() as connection:  # the caller may hold the write lock with a connection of his own
        schema = version(connection)
    if schema is None and database.is_sqlite:
        with database.engine.begin() as connection:
            _upgrade(connection)
    elif schema != HEAD:
        raise LedgerError(_mismatch(database, schema))


def prepare_in(connection: Connection) -> bool:
    """Create the tables of an empty SQLite ledger in a transaction of its user; say whether they are there."""
    schema = version(connection)
    if schema is None:
        _upgrade(connection)
    return schema in (None, HEAD)


def _mismatch(database: Database, schema: str | None) -> str:
    if schema is None:
        return f"the ledger {database} has no tables yet: run `pipeline ledger upgrade`"
    if schema > HEAD:
        return (
            f"the ledger {database} has schema {schema}, newer than {HEAD}, which this version of pipeline knows: "
            "upgrade pipeline; the ledger was left as it is"
        )
    return f"the ledger {database} has schema {schema}, older than {HEAD}: run `pipeline ledger upgrade`"


def version(connection: Connection) -> str | None:
    """Return the schema's version, or None when there are no tables."""
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    return connection.execute(text(f"SELECT max(version_num) FROM {VERSION_TABLE}")).scalar()


def upgrade(database: Database) -> tuple[str | None, str]:
    """Apply all missing migrations in one transaction; return the version before and after.

    Raises LedgerError when the schema is newer than this code.
    """
    with database.errors(), database.engine.begin() as connection:
        schema = version(connection)
        if schema is not None and schema > HEAD:
            raise LedgerError(_mismatch(database, schema))
        _upgrade(connection)
        return schema, HEAD


@contextmanager
def _alembic() -> Iterator[None]:
    """Let one thread at a time use Alembic, whose context is a global one, and keep its steps out of users' logs."""
    logger = logging.getLogger("alembic")
    with forks.held_off(), _one_at_a_time:
        level = logger.level
        logger.setLevel(logging.WARNING)
        try:
            yield
        finally:
            logger.setLevel(level)


def _upgrade(connection: Connection) -> None:
    if connection.dialect.name == "postgresql":
        connection.execute(select(func.set_config("lock_timeout", f"{PATIENCE}s", True)))
        connection.execute(select(func.pg_advisory_xact_lock(_LOCK)))
    if version(connection) == HEAD:  # another process has been faster
        return
    with _alembic():  # importing it is a step that it reports, too
        from alembic import command
        from alembic.config import Config

        config = Config()
        config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
    known = connection.execute(select(tables.meta.c.name)).scalars().all()
    # What signs messages is never shown, and is not in any archive: whoever reads the ledger may sign.
    for name, make in (("id", new_id), ("secret", lambda: random_bytes(SECRET_BYTES).hex())):
        if name not in known:
            connection.execute(tables.meta.insert().values(name=name, value=make()))
