"""Files that are for their owner only, and what tells one from another of the same name."""

from __future__ import annotations

import logging
import os
import sqlite3
import stat
import time
from functools import cache
from pathlib import Path

from .observe import Log
from .times import monotonic

logger = Log(logging.getLogger(__name__))

#: Bytes that SQLite's write-ahead log keeps on disk once what was in it is in the file.
WAL_LIMIT = 16 * 1024 * 1024


def write_ahead(connection: sqlite3.Connection, patience: float) -> None:
    """Let a SQLite file be written through a log beside it; raise sqlite3.OperationalError when it cannot be.

    SQLite waits for no other process that is just changing the same new file's mode, whatever its timeout: so we do.

    Arguments:
        patience: seconds.

    """
    deadline = monotonic() + patience
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            break
        except sqlite3.OperationalError as exc:
            if exc.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or monotonic() > deadline:
                raise
            time.sleep(0.005)
    connection.execute("PRAGMA wal_autocheckpoint = 4000")
    connection.execute(f"PRAGMA journal_size_limit = {WAL_LIMIT}")


def make_private(path: Path) -> None:
    """Create a database's file, for its owner only, and its directory, where they are missing.

    Logs a warning when others may write into the directory; raises PermissionError when the file or the directory is a
    link that others may have put there, or change: what is written would go to where they say.

    """
    make_directory(path.parent)
    if _is_open_to_others(path.parent):
        _complain_of(path.parent)
    refuse_links(path)
    if not path.exists():
        # Nobody in this process has it open yet, so closing it drops no lock.
        not_through = 0 if path.is_symlink() else os.O_NOFOLLOW  # a link that somebody puts there now
        os.close(os.open(path, os.O_CREAT | os.O_RDWR | not_through, 0o600))


@cache  # once: a broker, a ledger and results may all be in it
def _complain_of(directory: Path) -> None:
    logger.warning("others may write into %s, and so change what is kept there: chmod go-w it", directory)


def refuse_links(path: Path) -> None:
    """Raise PermissionError when a file or its directory is a link that others may have put there, or change."""
    for each in (path, path.parent):
        if each.is_symlink() and (_is_open_to_others(each.parent) or each.lstat().st_uid not in (0, os.geteuid())):
            raise PermissionError(
                f"{each} is a link that others may have put there: name the place itself that it leads to"
            )


def _is_open_to_others(directory: Path) -> bool:
    """Say whether others may write into a directory; the group that is only its owner's does not count."""
    status = directory.stat()
    of_group = status.st_mode & stat.S_IWGRP and status.st_gid != os.getegid()
    return bool(status.st_mode & stat.S_IWOTH or of_group)


def make_directory(path: Path) -> None:
    """Create a directory, for its owner only, and those around it, where they are missing."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)


def sync_directory(directory: Path) -> None:
    """Let what was created or renamed in a directory survive a power cut; raises OSError."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def file_id(path: Path) -> tuple[int, int] | None:
    """Return what tells a file from another one of the same name; None when there is none."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino
