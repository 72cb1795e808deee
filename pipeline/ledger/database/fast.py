"""The transactions of every delivery, on the driver's own connection: short ones are mostly SQLAlchemy otherwise.

SQLAlchemy still writes the statements, pools the connections and knows the databases' errors.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple, Protocol, TypeVar

from sqlalchemy import Connection, Engine, PoolProxiedConnection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from ...core.errors import LedgerError, LedgerRefused, LedgerUnavailable, PipelineError
from ...core.forks import OWN
from ...core.times import monotonic
from .kept import Keeper, Lent
from .postgresql import bounds, shares_sessions
from .trouble import UNSENDABLE, as_sqlalchemys, is_lost

T = TypeVar("T")
Row = Mapping[str, Any]
#: A statement that lives as long as the ledger, and the row or rows of parameters that it is run with.
Statement = tuple[Any, Row | Sequence[Row]]
#: The same with one row.
Single = tuple[Any, Row]

#: What is done in the transaction in which rows were there already.
Fewer = Callable[[Any], None]

#: Seconds between two attempts to reach a database that is locked or away.
RETRY_INTERVAL = 0.1
#: Seconds for which a file is taken for the one that was opened, by those who have it open.
LOOK = 0.1


class Prepared(NamedTuple):
    """A statement as the driver takes it: its parameters in order, or by name when `order` is None."""

    sql: str
    order: Sequence[str] | None
    fixed: dict[str, Any]

    def arguments(self, row: Row) -> Any:
        """Return the parameters for one row."""
        values = {**self.fixed, **row}
        return values if self.order is None else [values[name] for name in self.order]


class Hot:
    """An open transaction, used as SQLAlchemy's connection is; what execute() returns has fetchone() and rows."""

    def __init__(self, driver: Any, engine: Engine, prepared: dict[Any, Prepared]) -> None:
        self._driver = driver
        self._engine = engine
        self._prepared = prepared

    def execute(self, statement: Any, rows: Row | Sequence[Row] | None = None) -> Any:
        """Run a statement that lives as long as the ledger, with one row of parameters or with many."""
        if rows is None or isinstance(rows, Mapping):
            row = rows or {}
            prepared = self._translated(statement, row)
            return self._driver.execute(prepared.sql, prepared.arguments(row))
        prepared = self._translated(statement, rows[0])
        if len(rows) == 1:
            return self._driver.execute(prepared.sql, prepared.arguments(rows[0]))
        cursor = self._driver.cursor()
        cursor.executemany(prepared.sql, [prepared.arguments(row) for row in rows])
        return cursor

    def answers(self, statements: Sequence[Single]) -> list[Any]:
        """Run what differs only in its parameters; return the first row of each answer, or None."""
        statement, rows = statements[0][0], [row for _, row in statements]
        prepared = self._translated(statement, rows[0])
        arguments = [prepared.arguments(row) for row in rows]
        if self._engine.dialect.name == "sqlite":
            return [self._driver.execute(prepared.sql, each).fetchone() for each in arguments]
        cursor = self._driver.cursor()
        cursor.executemany(prepared.sql, arguments, returning=True)  # all are under way before one is answered
        found = [cursor.fetchone()]
        while cursor.nextset():
            found.append(cursor.fetchone())
        return found

    def _translated(self, statement: Any, row: Row) -> Prepared:
        key = (statement, *row)
        prepared = self._prepared.get(key)
        if prepared is None:
            compiled = statement.compile(dialect=self._engine.dialect, column_keys=list(row))
            prepared = self._prepared[key] = Prepared(compiled.string, compiled.positiontup, compiled.params)
        return prepared


class UndoneError(PipelineError):
    """What was begun in a transaction is not to be done after all."""


class Opened(Protocol):
    """What is used of the database.

    Attributes:
        timeout: seconds to wait for it.
        opened: how often it was opened.
        file: the device and inode of SQLite's file when it was opened.
        writer: held, on SQLite, by the thread of this process that writes.

    """

    timeout: float
    opened: int
    is_sqlite: bool
    engine: Engine
    path: Path
    file: tuple[int, int] | None
    writer: Lock | None

    def check(self) -> None:
        """Open it, if it is not open, and see to its schema."""

    def locked_here(self) -> LedgerUnavailable:
        """Return the error of a writer whose turn did not come."""

    def explained(self, exc: Exception) -> LedgerError:
        """Return what an error of the driver means."""


class Fast:
    """Runs nothing but the statements of every delivery, which live as long as the ledger."""

    def __init__(self, database: Opened) -> None:
        self._database = database
        self.keeper = Keeper(database.engine)
        self._prepared: dict[Any, Prepared] = {}
        self._good_until = 0.0

    def one(self, statement: Statement) -> Any:
        """Run one statement in a transaction of its own and return the first row of its answer, or None."""
        return self.run(lambda connection: connection.execute(*statement).fetchone(), alone=True)

    def rows(self, statement: Statement) -> list[Any]:
        """Run one statement that only reads and return all rows of its answer."""
        return self.run(lambda connection: list(connection.execute(*statement).fetchall()), alone=True)

    def look(self, statement: Statement) -> Any:
        """Run one statement that only reads, as one() does, but once: who waits longer has other things to do."""
        return self._once(lambda connection: connection.execute(*statement).fetchone(), alone=True)

    def on(self, connection: Connection) -> Any:
        """Return what runs such statements in somebody's transaction; what they return has to be fetched."""
        if connection.dialect is not self._database.engine.dialect:
            return connection  # of a database that may have another driver
        if not connection.in_transaction():
            connection.begin()  # as SQLAlchemy would with the first statement
        hot = Hot(connection.connection.driver_connection, self._database.engine, self._prepared)
        return Lent(connection, hot.execute, self.keeper.close)

    def all(self, statements: Sequence[Statement], fewer: Fewer | None = None) -> None:
        """Run several statements in one transaction, as run_all() does."""
        self.run(lambda connection: run_all(connection, statements, fewer))

    def each(self, statements: Sequence[Single]) -> list[Any]:
        """Run what differs only in its parameters in one transaction; return the first row of each answer, or None."""
        return self.run(lambda connection: connection.answers(statements))

    def last(self, others: Sequence[Statement], last: Statement, fewer: Fewer | None = None) -> Any:
        """Run several statements in one transaction and return the first row of the last one's answer, or None."""

        def work(connection: Hot) -> Any:
            run_all(connection, others, fewer)
            return connection.execute(*last).fetchone()

        return self.run(work)

    def all_if(self, first: Statement, others: Sequence[Statement], before: Statement | None = None) -> bool:
        """Run several statements in one transaction if the first one's answer has a row; say whether it had.

        Arguments:
            before: another one, whose answer has to have a row, too; else nothing is done.

        """

        def work(connection: Hot) -> bool:
            if before is not None and connection.execute(*before).fetchone() is None:
                return False
            if connection.execute(*first).fetchone() is None:
                if before is not None:
                    raise UndoneError
                return False
            run_all(connection, others)
            return True

        try:
            return self.run(work, alone=before is None and not others)
        except UndoneError:
            return False

    def run(self, work: Callable[[Hot], T], *, alone: bool = False) -> T:
        """Do `work` in a write transaction, and again while the database is away, until its timeout has passed.

        What `work` writes is keyed by ids, so that doing it twice is doing it once.

        Arguments:
            alone: each statement is a transaction of its own; what it returns has to be fetched.

        """
        deadline = monotonic() + self._database.timeout
        while True:
            try:
                return self._once(work, alone)
            except LedgerUnavailable:
                if monotonic() + RETRY_INTERVAL >= deadline:
                    raise
                time.sleep(RETRY_INTERVAL)  # the database may be back by then

    def _once(self, work: Callable[[Hot], T], alone: bool) -> T:
        database = self._database
        # Whoever opens a file has to know which one.
        if not self.is_checked(lately=bool(self.keeper.own.place.kept)):
            database.check()
        with OWN.lock:
            writer = database.writer  # a child that is forked inside gets another one
            if writer is not None and not writer.acquire(timeout=database.timeout):
                raise database.locked_here()
            try:
                with self._driver() as driver:
                    return self._transact(driver, work, alone)
            except (DBAPIError, PoolTimeout, *UNSENDABLE) as exc:
                raise database.explained(exc) from exc
            finally:
                if writer is not None:
                    writer.release()

    def is_checked(self, *, lately: bool = False) -> bool:
        """Say whether the database is open, and its file still the one that was opened.

        Arguments:
            lately: whether it is enough that it was so at most LOOK seconds ago.

        """
        file = self._database.file
        if file is None:
            return self._database.opened > 0 and not self._database.is_sqlite
        if lately and monotonic() < self._good_until:
            return True
        try:
            status = os.stat(self._database.path)
        except OSError:
            return False
        if (status.st_dev, status.st_ino) != file:
            return False
        self._good_until = monotonic() + LOOK
        return True

    @contextlib.contextmanager
    def _driver(self) -> Iterator[Any]:
        """Lend the driver's connection, and turn its errors into SQLAlchemy's."""
        engine, keeper = self._database.engine, self.keeper
        dialect: Any = engine.dialect
        errors = dialect.loaded_dbapi.Error
        driver, place = None, keeper.own.place
        pooled: PoolProxiedConnection | None = None
        try:
            number, pooled = place.kept.pop()
        except IndexError:
            number = keeper.number
        try:
            if pooled is not None and number != keeper.number:
                pooled.invalidate()
                number, pooled = keeper.number, None
            if pooled is None:
                pooled = engine.raw_connection()
            driver = pooled.driver_connection
            yield driver
            if number == keeper.number and place.is_open and not place.kept:
                good, pooled = (number, pooled), None
                place.kept.append(good)
        except errors as exc:
            lost = is_lost(exc, dialect, driver)
            if pooled is not None and (lost or dialect.name != "sqlite"):
                pooled.invalidate()  # it may be left without transactions: see _transact()
            if lost:
                keeper.close()  # the idle connections are as dead as this one
            raise as_sqlalchemys(exc, dialect, lost=lost) from exc
        except PipelineError:  # raised by ourselves between two statements: the pool rolls it back
            raise
        except BaseException:
            if pooled is not None:
                pooled.invalidate()  # a time limit, say, has left it in the middle of a statement
            raise
        finally:
            if pooled is not None and pooled.is_valid:
                pooled.close()

    def _transact(self, driver: Any, work: Callable[[Hot], T], alone: bool) -> T:
        """Commit what is done, or let the pool roll it back."""
        connection = Hot(driver, self._database.engine, self._prepared)
        if self._database.is_sqlite:
            if alone:
                return work(connection)
            driver.execute("BEGIN IMMEDIATE")  # psycopg begins by itself
        elif shares_sessions(driver):
            driver.execute(bounds(self._database.timeout))
        elif alone:  # PostgreSQL is waited for once instead of three times
            driver.autocommit = True
            result = work(connection)
            driver.autocommit = False
            return result
        result = work(connection)
        driver.execute("COMMIT")
        return result


def run_all(connection: Any, statements: Sequence[Statement], fewer: Fewer | None = None) -> None:
    """Run such statements in somebody's own transaction, whether that is SQLAlchemy's or one of these.

    Arguments:
        fewer: called when the first one writes fewer rows than it is given: some are there already.

    """
    for statement, rows in statements:
        answer = connection.execute(statement, rows)
        if fewer is not None:
            if answer.rowcount < len(rows):
                fewer(connection)
            fewer = None


# -- groups: what is done with many at once is done with each alone where the database takes one of them ill

Found = TypeVar("Found")

#: What a driver raises for a value that it or the database does not take, however often it is asked.
CONTENT = (LedgerRefused, ValueError, TypeError, OverflowError)


def together(ids: Mapping[int, str], run: Callable[[Sequence[int]], Sequence[Any]]) -> dict[int, Any]:
    """Return what comes of running places of a group at once, or nothing when the database refuses one of them.

    Arguments:
        ids: of what is in each place. All groups run in their order: one waits for another, and not each for both.

    """
    if len(ids) < 2:
        return {}
    places = sorted(ids, key=ids.__getitem__)
    try:
        return dict(zip(places, run(places), strict=True))
    except CONTENT:
        return {}


def completed(found: Mapping[int, Found], number: int, alone: Callable[[int], Found]) -> list[Found | Exception]:
    """Return what was found for each place of a group, and for the others what `alone` returns or raises.

    A ledger that is away is not asked again: the others would wait as long for the same answer.

    Arguments:
        number: of the places.

    """
    every: list[Found | Exception] = []
    away: LedgerUnavailable | None = None
    for place in range(number):
        if place in found:
            every.append(found[place])
        elif away is not None:
            every.append(away)
        else:
            try:
                every.append(alone(place))
            except Exception as exc:
                away = exc if isinstance(exc, LedgerUnavailable) else None
                every.append(exc)
    return every
