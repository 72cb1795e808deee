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

from sqlalchemy import URL, Connection, Engine, Insert, Table, create_engine, event, make_url
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, DBAPIError, OperationalError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session

from ...core import forks
from ...core.errors import ConfigError, LedgerError, LedgerUnavailable
from ...core.files import file_id, make_private
from . import fast
from .fast import Hot, Text

T = TypeVar("T")

#: Seconds between two attempts to reach a database that is locked or away.
RETRY_INTERVAL = 0.1
_DRIVERS = {"sqlite": "sqlite", "postgresql": "postgresql+psycopg", "postgres": "postgresql+psycopg"}
_FULL = ("full", "disk i/o", "no space left")


class Database:
    """One database, usable from all threads of its process, and in forked children too."""

    def __init__(self, url: str, *, timeout: float = 5.0) -> None:
        """Take the address; nothing is opened before it is used.

        Arguments:
            url: sqlite:///FILE (with ?synchronous=full to survive a power cut) or postgresql://USER:PASSWORD@HOST/NAME.
            timeout: seconds to wait for a database that is locked or away.

        Raises ConfigError when the address is wrong or its driver is not installed.

        """
        self.url, options = _parse(url)
        self.timeout = timeout
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        self._synchronous = "FULL" if options.get("synchronous") == "full" else "NORMAL"
        self.engine = self._engine()
        #: Reads that take no write lock.
        self.reader = self.engine.execution_options(reading=True)
        self._texts: dict[Any, Text] = {}
        # SQLite has one writer at a time; within a process a lock hands over faster than SQLite's own waiting.
        self._writer = threading.Lock()
        #: How often the database was opened: a file may be deleted and made anew.
        self.opened = 0
        self._checked = False
        self._path = Path(str(self.url.database))
        self._file: tuple[int, int] | None = None
        self._checking = threading.Lock()
        forks.watch(self)

    def __str__(self) -> str:
        """Return the address without its password."""
        return self.url.render_as_string(hide_password=True)

    def _engine(self) -> Engine:
        if self.is_sqlite:
            engine = create_engine(
                self.url,
                pool_timeout=self.timeout,
                connect_args={"timeout": self.timeout, "check_same_thread": False},
            )
            event.listen(engine, "connect", self._prepare)
            event.listen(engine, "begin", _begin)
            return engine
        milliseconds = int(self.timeout * 1000)
        options = f"-c lock_timeout={milliseconds} -c idle_in_transaction_session_timeout=0"
        own = self.url.query.get("options", "")
        bounds = {
            "connect_timeout": max(2, int(self.timeout)),
            # Without these a database behind a network that is gone would hold the caller for a quarter of an hour.
            "tcp_user_timeout": milliseconds,
            "keepalives_idle": max(1, int(self.timeout)),
            "keepalives_interval": 1,
        }
        try:
            return create_engine(
                self.url,
                pool_size=10,
                max_overflow=20,
                pool_timeout=self.timeout,
                connect_args={**bounds, "options": f"{own} {options}" if own else options},
            )
        except ImportError as exc:
            raise ConfigError(f"ledger_url: {exc}; pip install 'pipeline[postgres]'") from exc

    def _prepare(self, connection: Any, _: Any) -> None:
        connection.isolation_level = None  # transactions are begun by _begin
        connection.execute(f"PRAGMA synchronous = {self._synchronous}")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA wal_autocheckpoint = 4000")

    # -- using it

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Connection]:
        """Write in one transaction; raises LedgerUnavailable or LedgerError when the database does not take it."""
        self.check()
        with self.errors(), self._turn(), self.engine.begin() as connection:
            yield connection

    @contextlib.contextmanager
    def reading(self) -> Iterator[Connection]:
        """Read from one snapshot."""
        self.check()
        with self.errors(), forks.held_off(), self.reader.begin() as connection:
            yield connection

    @contextlib.contextmanager
    def session(self) -> Iterator[Session]:
        """Lend a session in an open write transaction; the borrower commits, or it is rolled back."""
        self.check()
        with self._turn(), Session(self.engine) as session:
            with self.errors():
                session.connection()  # begins, and on SQLite takes the write lock
            yield session

    @contextlib.contextmanager
    def _hot(self, begin: Callable[..., contextlib.AbstractContextManager[Hot]]) -> Iterator[Hot]:
        self.check()
        with self.errors(), self._turn(), begin(self.engine, self._texts) as connection:
            yield connection

    def run(self, work: Callable[[Connection], T]) -> T:
        """Do `work` in a write transaction, and again while the database is away, until `timeout` has passed.

        What `work` writes is keyed by ids, so that doing it twice is doing it once.
        """
        return self._until_timeout(self.transaction, work)

    def run_hot(self, work: Callable[[Hot], T], *, alone: bool = False) -> T:
        """Do the same with nothing but the statements of every delivery, which live as long as the ledger.

        Arguments:
            alone: each statement is a transaction of its own; what it returns has to be fetched.

        """
        return self._until_timeout(partial(self._hot, fast.alone if alone else fast.transaction), work)

    def read(self, work: Callable[[Connection], T]) -> T:
        """Do `work` in one snapshot, and again as run() does: after a restart every pooled connection is dead."""
        return self._until_timeout(self.reading, work)

    def _until_timeout(self, begin: Callable[[], Any], work: Callable[[Any], T]) -> T:
        deadline = time.monotonic() + self.timeout
        while True:
            try:
                with begin() as connection:
                    return work(connection)
            except LedgerUnavailable:
                if time.monotonic() + RETRY_INTERVAL >= deadline:
                    raise
                time.sleep(RETRY_INTERVAL)  # the database may be back by then

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        """Wait until no fork happens and, on SQLite, until no other thread of this process writes."""
        with forks.held_off():
            if not self.is_sqlite:
                yield
                return
            writer = self._writer  # a child that is forked inside gets another one
            if not writer.acquire(timeout=self.timeout):
                raise LedgerUnavailable(
                    f"the ledger {self} was locked for {self.timeout:g} s by another transaction of this process; "
                    "inside ctx.session publish with ctx.publish()"
                )
            try:
                yield
            finally:
                writer.release()

    def check(self) -> None:
        """Compare the schema's version with the code's, once; an empty SQLite file gets its tables."""
        if self.is_sqlite and self._checked and file_id(self._path) != self._file:
            # Somebody has deleted it: others would write into another file than this one.
            self.engine.dispose()
            self._checked = False
        if self._checked:
            return
        from .migrate import prepare

        with self._checking:
            if not self._checked:
                with self.errors(), self._turn():
                    if self.is_sqlite:
                        make_private(self._path)
                    prepare(self)
                    self._file = file_id(self._path) if self.is_sqlite else None
                self.opened += 1
                self._checked = True

    def close(self) -> None:
        """Close all idle connections; the next use opens new ones."""
        self.engine.dispose()

    def insert(self, table: Table) -> Any:
        """Return the dialect's INSERT, which knows ON CONFLICT."""
        make: Callable[[Table], Insert] = sqlite.insert if self.is_sqlite else postgresql.insert
        return make(table)

    @contextlib.contextmanager
    def errors(self) -> Iterator[None]:
        """Turn the database's errors into LedgerUnavailable where trying again may help, else into LedgerError."""
        try:
            yield
        except PoolTimeout as exc:
            raise LedgerUnavailable(f"no connection to the ledger {self} was free for {self.timeout:g} s") from exc
        except DBAPIError as exc:
            raise self._explained(exc) from exc
        except OSError as exc:
            if isinstance(exc, LedgerUnavailable):
                raise
            raise LedgerError(f"the ledger {self} cannot be opened ({exc}): check its directory's permissions") from exc

    def _explained(self, exc: DBAPIError) -> LedgerError:
        cause = " ".join(str(exc.orig).split())
        text = cause.lower()
        if "locked" in text or "busy" in text or "lock timeout" in text:
            return LedgerUnavailable(f"the ledger {self} was locked for {self.timeout:g} s by another process")
        if any(word in text for word in _FULL):
            return LedgerUnavailable(f"the ledger {self} cannot grow ({cause}): free space on its disk")
        if "no such table" in text or ("relation" in text and "does not exist" in text):
            return LedgerError(f"the ledger {self} has no tables ({cause}): run `pipeline ledger upgrade`")
        return self._sqlites(exc, cause) if self.is_sqlite else self._postgresqls(exc, cause)

    def _sqlites(self, exc: DBAPIError, cause: str) -> LedgerError:
        if isinstance(exc, OperationalError):
            return LedgerError(f"the ledger {self} cannot be used ({cause}): check its directory's permissions")
        return LedgerError(f"the ledger {self} is damaged or no ledger ({cause}): restore it, or move it away")

    def _postgresqls(self, exc: DBAPIError, cause: str) -> LedgerError:
        if isinstance(exc, ProgrammingError) or not (exc.connection_invalidated or isinstance(exc, OperationalError)):
            return LedgerError(f"the ledger {self} refused a statement ({cause})")
        return LedgerUnavailable(
            f"the ledger {self} cannot be reached ({cause}); start it or set PIPELINE_LEDGER_URL, "
            "and run `pipeline doctor` to see what is wrong"
        )

    # -- forks

    def before_fork(self) -> None:
        """Close SQLite's files."""
        if self.is_sqlite:
            self.engine.dispose()

    def after_fork(self, *, child: bool) -> None:
        """Leave the parent's connections alone, and the locks of its threads."""
        if child:
            self._writer = threading.Lock()
            self._checking = threading.Lock()
            self.engine.dispose(close=False)


def _parse(url: str) -> tuple[URL, dict[str, Any]]:
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError) as exc:  # ValueError: a port that is no number
        raise ConfigError("ledger_url is no database address; use sqlite:///FILE or postgresql://HOST/NAME") from exc
    backend = parsed.get_backend_name()
    if backend not in _DRIVERS:
        raise ConfigError(f"ledger_url: the ledger does not work on {backend!r}; use sqlite:///FILE or postgresql://")
    if "@" in (parsed.host or ""):  # and what is before it would be shown as part of the host
        raise ConfigError("ledger_url: write an @ in the user's name or password as %40")
    found = parsed.set(drivername=_DRIVERS[backend])
    if backend != "sqlite":
        return found, {}
    if not parsed.database or parsed.database == ":memory:":
        raise ConfigError("ledger_url: the ledger is shared by processes and needs a file; use sqlite:///FILE")
    return found.set(query={}), _sqlite_options(dict(parsed.query))


def _sqlite_options(options: dict[str, Any]) -> dict[str, Any]:
    for name, value in options.items():
        if name != "synchronous" or value not in ("normal", "full"):
            raise ConfigError(f"ledger_url: there is no {name}={value}; SQLite takes synchronous=normal or =full")
    return options


def _begin(connection: Connection) -> None:
    # IMMEDIATE: a transaction that reads first and writes later could not be granted the lock without starting over.
    reading = connection.get_execution_options().get("reading")
    try:
        # By the driver's own connection: SQLAlchemy's way to it takes a third of a short transaction's time.
        driver: Any = connection.connection.driver_connection
        driver.execute("BEGIN" if reading else "BEGIN IMMEDIATE")
    except sqlite3.Error as exc:
        raise OperationalError("BEGIN", None, exc) from exc
