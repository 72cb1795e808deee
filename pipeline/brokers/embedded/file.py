"""One SQLite file: opened safely, used in short transactions, its errors turned into ones that say what to do."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...core import forks
from ...core.errors import EmbeddedBrokerBusy, EmbeddedBrokerError
from ...core.files import file_id, make_private, write_ahead
from ...core.times import monotonic

#: Seconds that a writer waits for the others before it gives up.
BUSY_TIMEOUT = 30.0


class File:
    """One connection, usable from all threads of its process; no open connection ever crosses a fork."""

    def __init__(self, path: Path, schema: str, format: int, *, synchronous: str = "normal") -> None:
        """Open or create the file.

        Arguments:
            path: the file; its directory is created.
            schema: statements that create what is missing.
            format: the version of the schema; a file with a higher one is refused.
            synchronous: "normal" survives a killed process, "full" a power cut too.

        Raises EmbeddedBrokerError when the file is no usable database.

        """
        self.path = path
        self.pid = os.getpid()
        self.mutex = threading.RLock()
        #: How often the file was opened: what was known of a connection is not true of the next one.
        self.opened = 0
        self._schema = schema
        self._format = format
        self._kind = zlib.crc32(schema.encode()) & 0x7FFFFFFF
        self._synchronous = "FULL" if synchronous == "full" else "NORMAL"
        self._db: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None
        self._patience = BUSY_TIMEOUT
        with forks.held_off(), self.errors():
            make_private(path)
            self._connection()
            forks.watch(self)

    def _connection(self) -> sqlite3.Connection:
        if self._db is None:
            db = sqlite3.connect(self.path, timeout=self._patience, isolation_level=None, check_same_thread=False)
            try:
                self._prepare(db)
            except BaseException:
                db.close()
                raise
            self._db, self._file = db, file_id(self.path)
            self.opened += 1
        elif file_id(self.path) != self._file:
            # Others would write into another file than this one, which nobody finds any more.
            self.close()
            raise EmbeddedBrokerBusy(f"{self.path} was deleted or replaced while it was in use; connecting anew")
        return self._db

    def _prepare(self, db: sqlite3.Connection) -> None:
        (kind,), (format,) = (db.execute(f"PRAGMA {name}").fetchone() for name in ("application_id", "user_version"))
        if kind not in (0, self._kind):
            raise EmbeddedBrokerError(f"{self.path} is in use for something else: broker and results need a file each")
        if format > self._format:
            raise EmbeddedBrokerError(f"{self.path} was written by a newer version ({format}, known {self._format})")
        db.execute(f"PRAGMA synchronous = {self._synchronous}")
        write_ahead(db, self._patience)
        if format < self._format:
            db.executescript(
                f"BEGIN IMMEDIATE; {self._schema} PRAGMA application_id = {self._kind}; "
                f"PRAGMA user_version = {self._format}; COMMIT;"
            )

    def be_patient(self, seconds: float) -> None:
        """Change how long this connection waits for the file's lock."""
        if not 0.9 * seconds <= self._patience <= 1.1 * seconds:  # asking SQLite takes longer than what it would gain
            self.read(f"PRAGMA busy_timeout = {max(1, int(seconds * 1000))}")
            self._patience = seconds

    @contextlib.contextmanager
    def errors(self) -> Iterator[None]:
        """Turn SQLite's errors into EmbeddedBrokerError, or EmbeddedBrokerBusy where trying again may help."""
        began = monotonic()
        try:
            yield
        except sqlite3.OperationalError as exc:
            text = str(exc)
            if "locked" in text or "busy" in text:
                raise EmbeddedBrokerBusy(
                    f"{self.path} was locked for {monotonic() - began:.3g} s by another process"
                ) from exc
            if "full" in text or "disk I/O" in text:
                raise EmbeddedBrokerBusy(f"{self.path} cannot grow ({exc}): free space on its disk") from exc
            raise EmbeddedBrokerError(f"{self.path} cannot be used ({exc}): check its directory's permissions") from exc
        except sqlite3.DatabaseError as exc:
            raise EmbeddedBrokerError(
                f"{self.path} is damaged ({exc}): stop the workers, move the file away and start again"
            ) from exc
        except EmbeddedBrokerError:
            raise
        except OSError as exc:
            raise EmbeddedBrokerError(f"{self.path} cannot be opened: {exc}") from exc

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Write in one transaction, which takes the file's write lock at once."""
        with self.mutex, self.errors():
            db = self._connection()
            try:
                # Inside the try: a signal's exception may surface right after the lock was taken.
                db.execute("BEGIN IMMEDIATE")
                yield db
                db.execute("COMMIT")
            except BaseException:
                # After a full disk SQLite has rolled back by itself; a second ROLLBACK would hide the cause.
                if db.in_transaction:
                    db.execute("ROLLBACK")
                raise

    def read(self, query: str, row: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        """Return all rows of a query."""
        with self.mutex, self.errors():
            return self._connection().execute(query, row).fetchall()

    def close(self) -> None:
        """Close the file; using the database again opens it again."""
        with self.mutex:
            if self._db is not None:
                self._db.close()
                self._db = None

    def __del__(self) -> None:
        # Celery drops a result backend without closing it, and Python complains of each open database that it finds.
        if getattr(self, "_db", None) is not None:
            self.close()

    def before_fork(self) -> None:
        """Close the file, and let no other thread open it."""
        self.mutex.acquire()
        self.close()

    def after_fork(self, *, child: bool) -> None:
        """Let it be opened again."""
        self.mutex.release()
