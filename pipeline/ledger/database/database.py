"""The database under the ledger: opened safely, used in short transactions, its errors turned into ones that help."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, ExceptionContext, Insert, Table, create_engine, event
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session

from ...core import forks
from ...core.errors import ConfigError, LedgerError, LedgerUnavailable, to_install, without_passwords
from ...core.files import file_id, make_private, write_ahead
from ...core.times import monotonic
from .address import parse
from .fast import RETRY_INTERVAL, Fast
from .kept import pooled
from .postgresql import engine_to
from .trouble import UNSENDABLE, Trouble, as_sqlalchemys, is_stale, trouble_in

T = TypeVar("T")


class Database:
    """One database, usable from all threads of its process, and in forked children too."""

    def __init__(
        self, url: str, *, timeout: float = 5.0, prepare: Callable[[Database], None] = lambda database: None
    ) -> None:
        """Take the address; nothing is opened before it is used.

        Arguments:
            url: sqlite:///FILE (with ?synchronous=full to survive a power cut) or postgresql://USER:PASSWORD@HOST/NAME.
            timeout: seconds to wait for a database that is locked or away.
            prepare: what is done with a database that was opened, before it is used: its schema is checked.

        Raises ConfigError when the address is wrong or its driver is not installed.

        """
        self.url, options = parse(url)
        self.timeout = timeout
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        self._synchronous = "FULL" if options.get("synchronous") == "full" else "NORMAL"
        self.engine = self._engine()
        event.listen(self.engine, "handle_error", _replace_stale)
        #: Reads that take no write lock.
        self.reader = self.engine.execution_options(reading=True)
        self.fast = Fast(self)
        # SQLite has one writer at a time; within a process a lock hands over faster than SQLite's own waiting.
        self.writer = threading.Lock() if self.is_sqlite else None
        self._prepare_schema = prepare
        #: How often the database was opened: a file may be deleted and made anew.
        self.opened = 0
        self._checked = False
        self.path = Path(str(self.url.database))
        self.file: tuple[int, int] | None = None
        self._checking = threading.Lock()
        forks.watch(self)

    def __str__(self) -> str:
        """Return the address without its password."""
        return without_passwords(self.url.render_as_string(hide_password=True))

    def _engine(self) -> Engine:
        if self.is_sqlite:
            engine = create_engine(
                self.url,
                **pooled(self.timeout),
                connect_args={"timeout": self.timeout, "check_same_thread": False},
            )
            event.listen(engine, "connect", self._prepare)
            event.listen(engine, "begin", _begin)
            return engine
        try:
            return engine_to(self.url, self.timeout)
        except ImportError as exc:
            raise ConfigError(f"ledger_url: {exc}; {to_install('postgres')}") from exc

    def _prepare(self, connection: Any, _: Any) -> None:
        connection.isolation_level = None  # transactions are begun by _begin
        connection.execute(f"PRAGMA synchronous = {self._synchronous}")
        write_ahead(connection, self.timeout)
        # Damaged text is found out where it is decoded, not where it is fetched with a hundred other rows.
        connection.text_factory = partial(str, encoding="utf-8", errors="surrogateescape")

    # -- using it

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Connection]:
        """Write in one transaction; raises LedgerUnavailable, LedgerRefused or another LedgerError (see trouble.py)."""
        self._make_way()
        with self.errors(), forks.held_off(), self._turn(), self.engine.begin() as connection:
            yield connection

    @contextlib.contextmanager
    def reading(self) -> Iterator[Connection]:
        """Read from one snapshot."""
        self._make_way()
        with self.errors(), forks.held_off(), self.reader.begin() as connection:
            yield connection

    @contextlib.contextmanager
    def session(self) -> Iterator[Session]:
        """Lend a session in an open write transaction; the borrower commits, or it is rolled back."""
        self._make_way()
        with forks.Hold(), self._turn(), Session(self.engine, close_resets_only=False) as session:
            with self.errors():
                session.connection()  # begins, and on SQLite takes the write lock
            yield session

    def run(self, work: Callable[[Connection], T]) -> T:
        """Do `work` in a write transaction, and again while the database is away, until `timeout` has passed.

        What `work` writes is keyed by ids, so that doing it twice is doing it once.
        """
        return self._until_timeout(self.transaction, work)

    def read(self, work: Callable[[Connection], T]) -> T:
        """Do `work` in one snapshot, and again as run() does: after a restart every pooled connection is dead."""
        return self._until_timeout(self.reading, work)

    def _until_timeout(self, begin: Callable[[], Any], work: Callable[[Any], T]) -> T:
        deadline = monotonic() + self.timeout
        while True:
            try:
                with begin() as connection:
                    return work(connection)
            except LedgerUnavailable:
                if monotonic() + RETRY_INTERVAL >= deadline:
                    raise
                time.sleep(RETRY_INTERVAL)  # the database may be back by then

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        """Wait until, on SQLite, no other thread of this process writes."""
        writer = self.writer  # a child that is forked inside gets another one
        if writer is None:
            yield
            return
        if not writer.acquire(timeout=self.timeout):
            raise self.locked_here()
        try:
            yield
        finally:
            writer.release()

    def locked_here(self) -> LedgerUnavailable:
        """Return the error of a writer whose turn did not come."""
        return LedgerUnavailable(
            f"the ledger {self} was locked for {self.timeout:g} s by another transaction of this process; "
            "inside ctx.session publish with ctx.publish()"
        )

    def _make_way(self) -> None:
        """Prepare for SQLAlchemy to take a connection: the one that this thread keeps, if there is one."""
        self.check()
        self.fast.keeper.give_back()

    def check(self) -> None:
        """Compare the schema's version with the code's, once; an empty SQLite file gets its tables."""
        if self.is_sqlite and self._checked and file_id(self.path) != self.file:
            # Somebody has deleted it: others would write into another file than this one.
            self.close()
            self._checked = False
        if self._checked:
            return
        with self._checking:
            if not self._checked:
                with self.errors(), forks.held_off(), self._turn():
                    if self.is_sqlite:
                        make_private(self.path)
                    self._prepare_schema(self)
                    self.file = file_id(self.path) if self.is_sqlite else None
                self.opened += 1
                self._checked = True

    def is_locked_by(self, connection: Connection) -> bool:
        """Say whether a connection is in a transaction on this very file of SQLite."""
        if not self.is_sqlite or connection.dialect.name != "sqlite":
            return False
        driver: Any = connection.connection.driver_connection
        # Not as long as it has only read, or created tables without asking for a transaction.
        if not getattr(driver, "in_transaction", False):
            return False
        files = [row[2] for row in connection.exec_driver_sql("PRAGMA database_list") if row[1] == "main"]
        return bool(files[0]) and self.path.exists() and self.path.samefile(files[0])

    def close(self) -> None:
        """Close all idle connections; the next use opens new ones."""
        self.fast.keeper.close()

    def insert(self, table: Table) -> Any:
        """Return the dialect's INSERT, which knows ON CONFLICT."""
        make: Callable[[Table], Insert] = sqlite.insert if self.is_sqlite else postgresql.insert
        return make(table)

    @contextlib.contextmanager
    def errors(self) -> Iterator[None]:
        """Turn the database's errors into what they mean: LedgerUnavailable, LedgerRefused or another LedgerError."""
        try:
            yield
        except (DBAPIError, PoolTimeout, *UNSENDABLE) as exc:
            raise self.explained(exc) from exc
        except self.engine.dialect.loaded_dbapi.Error as exc:  # of rows that were fetched from the driver
            raise self.explained(as_sqlalchemys(exc, self.engine.dialect, lost=is_stale(exc))) from exc
        except OSError as exc:
            if isinstance(exc, LedgerUnavailable):
                raise
            raise LedgerError(f"the ledger {self} cannot be opened ({exc}): check its directory's permissions") from exc

    def explained(self, exc: Exception) -> LedgerError:
        """Return what an error of the database or of its driver means for those who use the ledger."""
        if isinstance(exc, PoolTimeout):
            return LedgerUnavailable(f"no connection to the ledger {self} was free for {self.timeout:g} s")
        if isinstance(exc, DBAPIError):
            return trouble_in(exc).explained(self, exc.orig, self.timeout)
        return Trouble.REFUSED.explained(self, exc, self.timeout)

    # -- forks

    def before_fork(self) -> None:
        """Close SQLite's files."""
        if self.is_sqlite:
            self.close()

    def after_fork(self, *, child: bool) -> None:
        """Leave the parent's connections alone, and the locks of its threads."""
        if child:
            self.writer = threading.Lock() if self.is_sqlite else None
            self._checking = threading.Lock()
            self.fast.keeper.leave_to_parent()


def _begin(connection: Connection) -> None:
    # IMMEDIATE: a transaction that reads first and writes later could not be granted the lock without starting over.
    reading = connection.get_execution_options().get("reading")
    try:
        # By the driver's own connection: SQLAlchemy's way to it takes a third of a short transaction's time.
        driver: Any = connection.connection.driver_connection
        driver.execute("BEGIN" if reading else "BEGIN IMMEDIATE")
    except sqlite3.Error as exc:
        raise OperationalError("BEGIN", None, exc) from exc


def _replace_stale(context: ExceptionContext) -> None:
    """Let go of all connections where one is of no more use."""
    if is_stale(context.original_exception):
        context.is_disconnect = True
