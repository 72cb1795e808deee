"""The statements of every delivery, on the driver's own connection: short transactions are mostly SQLAlchemy otherwise.

SQLAlchemy still writes them, pools the connections and knows the databases' errors.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError


class Text(NamedTuple):
    """A statement as the driver takes it: its parameters in order, or by name when `order` is None."""

    sql: str
    order: Sequence[str] | None
    fixed: dict[str, Any]

    def arguments(self, row: Mapping[str, Any]) -> Any:
        """Return the parameters for one row."""
        values = {**self.fixed, **row}
        return values if self.order is None else [values[name] for name in self.order]


class Hot:
    """An open transaction, used as SQLAlchemy's connection is; what execute() returns has fetchone() and rows."""

    def __init__(self, driver: Any, engine: Engine, texts: dict[Any, Text]) -> None:
        """Take the driver's connection, and the statements that were translated before."""
        self._driver = driver
        self._engine = engine
        self._texts = texts

    def execute(self, statement: Any, rows: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None) -> Any:
        """Run a statement that lives as long as the ledger, with one row of parameters or with many."""
        if rows is None or isinstance(rows, Mapping):
            row = rows or {}
            text = self._text(statement, row)
            return self._driver.execute(text.sql, text.arguments(row))
        text = self._text(statement, rows[0])
        if len(rows) == 1:
            return self._driver.execute(text.sql, text.arguments(rows[0]))
        return self._driver.cursor().executemany(text.sql, [text.arguments(row) for row in rows])

    def _text(self, statement: Any, row: Mapping[str, Any]) -> Text:
        key = (statement, *row)
        found = self._texts.get(key)
        if found is None:
            compiled = statement.compile(dialect=self._engine.dialect, column_keys=list(row))
            found = self._texts[key] = Text(compiled.string, compiled.positiontup, compiled.params)
        return found


@contextlib.contextmanager
def transaction(engine: Engine, texts: dict[Any, Text]) -> Iterator[Hot]:
    """Commit what is done inside, or let the pool roll it back; raises DBAPIError as SQLAlchemy's transactions do."""
    with _driver(engine) as driver:
        if engine.dialect.name == "sqlite":
            driver.execute("BEGIN IMMEDIATE")  # psycopg begins by itself
        yield Hot(driver, engine, texts)
        driver.execute("COMMIT")


@contextlib.contextmanager
def alone(engine: Engine, texts: dict[Any, Text]) -> Iterator[Hot]:
    """Let each statement be a transaction of its own: PostgreSQL is waited for once instead of three times."""
    with _driver(engine) as driver:
        if engine.dialect.name == "sqlite":
            yield Hot(driver, engine, texts)
            return
        driver.autocommit = True
        yield Hot(driver, engine, texts)
        driver.autocommit = False


@contextlib.contextmanager
def _driver(engine: Engine) -> Iterator[Any]:
    """Lend the driver's connection, and turn its errors into SQLAlchemy's."""
    dialect: Any = engine.dialect
    errors = dialect.loaded_dbapi.Error
    pooled, driver = None, None
    try:
        pooled = engine.raw_connection()
        driver = pooled.driver_connection
        yield driver
    except errors as exc:
        lost = driver is None or dialect.is_disconnect(exc, driver, None)
        if pooled is not None and (lost or dialect.name != "sqlite"):
            pooled.invalidate()  # it may be left without transactions: see alone()
        if lost:
            engine.dispose()  # the idle connections are as dead as this one
        raise DBAPIError.instance(None, None, exc, errors, connection_invalidated=lost, dialect=dialect) from exc
    except BaseException:
        if pooled is not None:
            pooled.invalidate()  # a time limit, say, has left it in the middle of a statement
        raise
    finally:
        if pooled is not None and pooled.is_valid:
            pooled.close()
