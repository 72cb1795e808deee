"""One SQLite file: opened safely, used in short transactions, its errors turned into ones that say what to do."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import EmbeddedBrokerBusy, EmbeddedBrokerError

#: Seconds that a writer waits for the others before it gives up.
BUSY_TIMEOUT = 30.0


class Database:
    """One connection, usable from all threads of the process that opened it."""

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
        with self.errors():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, timeout=BUSY_TIMEOUT, isolation_level=None, check_same_thread=False)
            self._prepare(schema, format, synchronous)

    def _prepare(self, schema: str, format: int, synchronous: str) -> None:
        found = self._db.execute("PRAGMA user_version").fetchone()[0]
        if found > format:
            raise EmbeddedBrokerError(f"{self.path} was written by a newer version (format {found}, known {format})")
        self._db.execute(f"PRAGMA synchronous = {'FULL' if synchronous == 'full' else 'NORMAL'}")
        self._db.execute("PRAGMA wal_autocheckpoint = 4000")
        if found < format:
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.executescript(f"BEGIN IMMEDIATE; {schema} PRAGMA user_version = {format}; COMMIT;")

    @contextlib.contextmanager
    def errors(self) -> Iterator[None]:
        """Turn SQLite's errors into EmbeddedBrokerError, or EmbeddedBrokerBusy where trying again may help."""
        try:
            yield
        except sqlite3.OperationalError as exc:
            text = str(exc)
            if "locked" in text or "busy" in text:
                raise EmbeddedBrokerBusy(f"{self.path} was locked for {BUSY_TIMEOUT:g} s by another process") from exc
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
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                # After a full disk SQLite has rolled back by itself; a second ROLLBACK would hide the cause.
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    def read(self, query: str, row: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        """Return all rows of a query."""
        with self.mutex, self.errors():
            return self._db.execute(query, row).fetchall()

    def close(self) -> None:
        """Close the file, unless the connection came with a fork."""
        if os.getpid() == self.pid:
            self._db.close()
        else:
            # A forked child that closes its parent's connection could drop the parent's file locks.
            _inherited.append(self)


#: Connections that came with a fork; keeping them here keeps the garbage collector from closing them.
_inherited: list[Database] = []
