"""Who is alive: each consumer holds one byte of a lock file, and the kernel lets go of it when the process dies.

POSIX record locks fit exactly: a forked child does not inherit them, and `kill -9` releases them at once. Their one
peculiarity is that closing any descriptor of the file drops all locks of the process, hence one descriptor per process.
"""

from __future__ import annotations

import fcntl
import os
import threading
from pathlib import Path

from ...core.files import file_id


class Owners:
    """The bytes of one lock file that this process holds."""

    def __init__(self, path: Path) -> None:
        """Open `path`, creating it when it is missing; raise OSError when that fails."""
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self.file = file_id(path)
        self._held: set[int] = set()
        self._mutex = threading.Lock()

    def hold(self, owner: int) -> None:
        """Mark `owner` as alive for as long as this process lives or until release()."""
        with self._mutex:
            fcntl.lockf(self._fd, fcntl.LOCK_EX, 1, owner)
            self._held.add(owner)

    def release(self, owner: int) -> None:
        """Give up `owner`."""
        with self._mutex:
            self._held.discard(owner)
            fcntl.lockf(self._fd, fcntl.LOCK_UN, 1, owner)

    def close(self) -> None:
        """Close the file."""
        with self._mutex:
            os.close(self._fd)

    def is_alive(self, owner: int) -> bool:
        """Say whether the process that holds `owner` still runs."""
        with self._mutex:
            if owner in self._held:
                return True  # a process never conflicts with its own locks, so asking the kernel would say no
            try:
                fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, owner)
            except OSError:
                return True
            fcntl.lockf(self._fd, fcntl.LOCK_UN, 1, owner)
            return False


_files: dict[tuple[int, str], Owners] = {}
_files_mutex = threading.Lock()


def owners_of(database: Path) -> Owners:
    """Return this process's one Owners for `database`, opened on first use in each process."""
    key = (os.getpid(), str(database))
    path = database.with_name(database.name + ".owners")
    with _files_mutex:
        if key not in _files or _files[key].file != file_id(path):  # the latter when somebody has deleted it
            _files[key] = Owners(path)
        return _files[key]


def forget_owners(database: Path) -> None:
    """Close this process's file of `database`, which nobody here uses any more; with it go the locks that it holds."""
    with _files_mutex:
        found = _files.pop((os.getpid(), str(database)), None)
    if found is not None:
        found.close()
