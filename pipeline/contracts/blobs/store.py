"""What keeps content: files or objects with names such as `kept/ID`, written whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Protocol

#: Bytes that are in memory at once when content is copied, hashed or streamed.
CHUNK = 256 * 1024


class Readable(Protocol):
    """What content is read from."""

    def read(self, size: int, /) -> bytes:
        """Return at most so many of the next bytes; none at the end."""


class Store(Protocol):
    """A place for content; whoever uses it knows what the names mean.

    All of it raises BlobUnavailable when the place cannot be used, with what to do; names are PLACE/WORD.
    """

    def size(self, name: str) -> int | None:
        """Return how many bytes there are under a name; None when there is nothing."""

    def write(self, name: str, file: Readable) -> None:
        """Keep all of a file that can seek; what is there under the name is replaced.

        When this returns it survives a power cut; when it is stopped, nothing is there under the name, or all of it.
        """

    def open(self, name: str) -> AbstractContextManager[Readable]:
        """Lend what is under a name; raises FileNotFoundError."""

    def words(self, place: str, prefix: str = "") -> Iterator[str]:
        """Return the words in a place that begin like that, in any order."""

    def move(self, name: str, to: str) -> None:
        """Give it another name; raises FileNotFoundError.

        When this is stopped, it may be there under both names, never under none.
        """

    def remove(self, name: str) -> None:
        """Delete what is under a name; nothing when there is nothing."""
