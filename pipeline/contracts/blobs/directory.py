"""A directory as a store: one file for each content, for its owner only."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from ...core.errors import BlobUnavailable
from ...core.files import make_directory, refuse_links, sync_directory
from ...core.times import random_bytes
from .store import CHUNK, Readable

#: Where files are as long as they are not whole.
PARTIAL = "partial"
#: Seconds after which nobody is still writing such a file.
ABANDONED = 24 * 3600


class Directory:
    """Content in the files of a directory, which all processes share that publish or handle it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __repr__(self) -> str:
        return f"Directory({str(self._path)!r})"

    def size(self, name: str) -> int | None:
        """Return how many bytes there are under a name; None when there is nothing."""
        with self._explained():
            try:
                return (self._path / name).stat().st_size
            except FileNotFoundError:
                return None

    def write(self, name: str, file: Readable) -> None:
        """Keep all of a file, on disk when this returns."""
        with self._explained():
            target = self._path / name
            for place in (PARTIAL, target.parent.name):
                self._make(place)
            self._remove_abandoned()
            partial = self._path / PARTIAL / random_bytes(16).hex()
            try:
                with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as copy:
                    while chunk := file.read(CHUNK):
                        copy.write(chunk)
                    copy.flush()
                    os.fsync(copy.fileno())
                partial.rename(target)
            except BaseException:
                partial.unlink(missing_ok=True)
                raise
            sync_directory(target.parent)

    @contextlib.contextmanager
    def open(self, name: str) -> Iterator[BinaryIO]:
        """Lend what is under a name; raises FileNotFoundError."""
        with self._explained():
            file = os.fdopen(os.open(self._path / name, os.O_RDONLY | os.O_NOFOLLOW), "rb", buffering=0)
        with file:
            yield file

    def words(self, place: str, prefix: str = "") -> Iterator[str]:
        """Return the words in a place that begin like that."""
        with self._explained():
            try:
                with os.scandir(self._path / place) as entries:
                    yield from (entry.name for entry in entries if entry.name.startswith(prefix))
            except FileNotFoundError:
                return

    def move(self, name: str, to: str) -> None:
        """Give it another name; raises FileNotFoundError."""
        with self._explained():
            source, target = self._path / name, self._path / to
            self._make(target.parent.name)
            source.rename(target)
            sync_directory(target.parent)
            sync_directory(source.parent)

    def remove(self, name: str) -> None:
        """Delete what is under a name; nothing when there is nothing."""
        with self._explained():
            (self._path / name).unlink(missing_ok=True)

    def _make(self, place: str) -> None:
        directory = self._path / place
        if not directory.is_dir():
            make_directory(self._path)
            refuse_links(self._path)
            make_directory(directory)
            sync_directory(self._path)
            sync_directory(self._path.parent)

    def _remove_abandoned(self) -> None:
        """Delete what processes have left that ended while they wrote."""
        with os.scandir(self._path / PARTIAL) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):
                    if entry.stat(follow_symlinks=False).st_mtime < time.time() - ABANDONED:
                        os.unlink(entry.path)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise
        except OSError as exc:
            raise BlobUnavailable(
                f"blob_store: {self._path} cannot be used ({exc}): check its permissions and the space on its disk"
            ) from exc
