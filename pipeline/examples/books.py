"""Books that examples keep beside the bus: a file of SQLite in which several processes write, one at a time."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

#: Seconds to wait for the file.
PATIENCE = 30.0


@contextmanager
def writing(path: Path, tables: str) -> Iterator[sqlite3.Connection]:
    """Open a file for one transaction; where that raises, nothing has happened.

    Arguments:
        tables: the statements that make its tables where they are missing.

    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    file = sqlite3.connect(path, timeout=PATIENCE, isolation_level=None)
    try:
        file.executescript(tables)
        file.execute("BEGIN IMMEDIATE")
        yield file
        file.execute("COMMIT")
    finally:
        file.close()
