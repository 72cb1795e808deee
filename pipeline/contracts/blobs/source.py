"""Where a blob's content comes from: what somebody publishes, or what a store has kept."""

from __future__ import annotations

import contextlib
import hashlib
import io
from collections.abc import Iterator
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from ...core.errors import BlobAltered, InvalidEvent, PipelineError
from .store import CHUNK, Readable

_TAKES = "a Blob takes bytes, a Path, or a file that was opened for reading bytes"


class Source(Protocol):
    """Content of a known length, which can be read as often as one likes.

    Attributes:
        id: its SHA-256, in hex.
        size: bytes.

    """

    @property
    def id(self) -> str: ...  # noqa: D102
    @property
    def size(self) -> int: ...  # noqa: D102

    def open(self) -> AbstractContextManager[BinaryIO]:
        """Lend it for reading."""


class Shelf(Protocol):
    """Where an app's blobs are kept (see blobs.py)."""

    def check_size(self, size: int) -> None:
        """Raise BlobTooLarge for content with so many bytes that nobody is to load it."""

    def keep(self, source: Given) -> bool:
        """Keep content that is too large to travel in the event, and say whether it is."""

    def renew(self, id: str) -> None:
        """Let content that is kept already stay for another event; raises BlobMissing."""

    def open(self, id: str) -> AbstractContextManager[Readable]:
        """Lend content as it is in the store; raises BlobMissing."""


class Given:
    """Content that somebody publishes: in memory, or in a file that is read when it is needed."""

    def __init__(self, content: bytes | Path | BinaryIO) -> None:
        """Read nothing; raises InvalidEvent for what cannot be read, or not twice."""
        self._content = content
        self._start = 0
        if isinstance(content, (bytes, bytearray, memoryview)):
            self._content = bytes(content)
        elif isinstance(content, Path):
            if not content.is_file():
                raise InvalidEvent(f"blob: there is no file {content}")
        else:
            self._start = _place_in(content)

    def __repr__(self) -> str:
        return f"<{len(self._content):,} bytes>" if isinstance(self._content, bytes) else repr(self._content)

    @cached_property
    def size(self) -> int:
        """Its length, without reading it."""
        if isinstance(self._content, bytes):
            return len(self._content)
        if isinstance(self._content, Path):
            return self._content.stat().st_size
        return self._content.seek(0, io.SEEK_END) - self._start

    @cached_property
    def id(self) -> str:
        """Its SHA-256: it is read through once."""
        digest, left = hashlib.sha256(), self.size
        with self.open() as file:
            while left and (chunk := file.read(min(left, CHUNK))):
                digest.update(chunk)
                left -= len(chunk)
            if left or file.read(1):
                raise self.changed()
        return digest.hexdigest()

    @contextlib.contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """Lend it, at its beginning."""
        if isinstance(self._content, bytes):
            yield io.BytesIO(self._content)
        elif isinstance(self._content, Path):
            with self._content.open("rb") as file:
                yield file
        else:
            self._content.seek(self._start)
            yield self._content

    def changed(self) -> InvalidEvent:
        """Return that the content is not what it was a moment ago."""
        return InvalidEvent(f"blob: {self!r} changed while it was read; publish a file that nobody writes any more")


def _place_in(file: Any) -> int:
    """Return where a file stands; raise InvalidEvent when it is none that can be read twice."""
    try:
        start: int = file.tell()
        if file.read(0) != b"":
            raise InvalidEvent(f"{_TAKES}; this one gives text")
        file.seek(start)
    except (AttributeError, OSError, ValueError) as exc:
        if isinstance(exc, PipelineError):
            raise
        raise InvalidEvent(f"{_TAKES} and can seek, not a {type(file).__name__}: write it to a file first") from exc
    return start


class Kept:
    """Content that an event only names.

    Attributes:
        shelf: where it is; None outside of an app.

    """

    def __init__(self, id: str, size: int, shelf: Shelf | None) -> None:
        self.id = id
        self.size = size
        self.shelf = shelf

    def __repr__(self) -> str:
        return f"{self.id[:12]}..., {self.size:,} bytes"

    @contextlib.contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """Lend what is in the store; raises BlobMissing, BlobUnavailable, and BlobAltered before its last bytes."""
        if self.shelf is None:
            raise PipelineError(
                f"blob {self.id}: no store is known here; validate the payload as "
                "`Report.model_validate(data, context=app.blobs.context)`"
            )
        with self.shelf.open(self.id) as file:
            yield io.BufferedReader(Checked(file, self.id, self.size), CHUNK)


class Checked(io.RawIOBase):
    """What is read, compared with what it should be before the last of it is handed out.

    Attributes:
        altered: the error that was raised, for those who get another one from a library in between.

    """

    altered: BlobAltered | None = None

    def __init__(self, file: Readable, id: str, size: int) -> None:
        super().__init__()
        self._file = file
        self._id = id
        self._size = self._left = size
        self._digest = hashlib.sha256()

    def readable(self) -> bool:
        """Say that it can be read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read on; raises BlobAltered."""
        chunk = self._next(len(buffer))
        buffer[: len(chunk)] = chunk
        return len(chunk)

    def readall(self) -> bytes:
        """Read what is left; raises BlobAltered."""
        return b"".join(iter(lambda: self._next(CHUNK), b""))

    def _next(self, size: int) -> bytes:
        chunk = self._file.read(min(size, self._left)) if self._left else b""
        self._left -= len(chunk)
        self._digest.update(chunk)
        if not chunk and self._left and size:
            raise self._found(f"it ends {self._left:,} bytes early")
        if not self._left and (self._file.read(1) or self._digest.hexdigest() != self._id):
            raise self._found("its SHA-256 is another one")
        return chunk

    def _found(self, why: str) -> BlobAltered:
        self.altered = BlobAltered(
            f"blob {self._id} is not what was published: {why}; put the content back (publishing it again does), "
            "then requeue what has failed"
        )
        return self.altered


class Sent(Checked):
    """The same of what is on its way to a store, from the beginning as often as that has to start again."""

    _file: BinaryIO

    def __init__(self, file: BinaryIO, id: str, size: int) -> None:
        super().__init__(file, id, size)
        self._start = file.tell()

    def seekable(self) -> bool:
        """Say that it can be read again."""
        return True

    def tell(self) -> int:
        """Return how many bytes were read."""
        return self._size - self._left

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go back to the beginning, or to the end, which tells the length."""
        if (offset, whence) not in ((0, io.SEEK_SET), (0, io.SEEK_END)):
            raise io.UnsupportedOperation("seek")
        self._left = 0 if whence else self._size
        self._digest = hashlib.sha256()
        self._file.seek(self._start)
        return self.tell()
