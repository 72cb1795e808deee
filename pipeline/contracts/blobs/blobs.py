"""An app's blobs: which ones are kept, and where.

The store has three places. `kept/ID` is content that events refer to. `unreferenced/ID.TIME` is content that no event
referred to at that time (microseconds); it can still be read, and goes when that is still so a day later. `ledgers/ID`
are the ledgers whose events may refer to something here.

Why nothing is deleted that an event refers to: whoever publishes first sees the content in `kept`, or puts it there,
and appends the event less than a day later. Content leaves `kept` by one move only, under a name that nobody had
before, and what has that name is deleted only after a look at all events that began a day or more after the move. If
the publisher saw it before the move, that look finds the event; if later, the content is in `kept` again.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from ...core.errors import BlobAltered, BlobMissing, BlobTooLarge, BlobUnavailable, ConfigError
from ...core.times import SECOND, now, random_bytes
from .blob import KEY, Blob, is_id
from .directory import Directory
from .source import Given, Sent
from .store import Readable, Store

KEPT, UNREFERENCED, LEDGERS = "kept", "unreferenced", "ledgers"
S3_SCHEME = "s3://"
_ADAPTER: TypeAdapter[Blob] = TypeAdapter(Blob)
#: Microseconds between the first look that finds content unreferenced and the last one.
DAY = 24 * 3600 * SECOND
#: What stands for publishers without a ledger: nobody knows their events.
NO_LEDGER = "none"


class Blobs:
    """Where an app's blobs are kept.

    Attributes:
        store: what keeps them.
        context: for pydantic: `Report.model_validate(data, context=app.blobs.context)` lets a payload's blobs be read.

    """

    def __init__(self, store: Store, threshold: int, largest: int, ledger: Callable[[], str]) -> None:
        """Use nothing before it is needed.

        Arguments:
            threshold: bytes up to which content travels in the event.
            largest: bytes that content may have.
            ledger: returns the id of the ledger that the events are in, or NO_LEDGER.

        """
        self.store = store
        self.context: dict[str, Any] = {KEY: self}
        self._threshold = threshold
        self._largest = largest
        self._ledger = ledger
        self._noted = ""

    def of(self, data: Any) -> Blob:
        """Return the blob that untyped data names: `app.blobs.of(event.data["pdf"])`."""
        blob: Blob = _ADAPTER.validate_python(data, context=self.context)
        return blob

    def find(self, id: str, media_type: str) -> Blob:
        """Return the blob with an id, whatever event names it; raises BlobMissing, or BlobTooLarge.

        Arguments:
            media_type: what the event says that it is; the store does not know.

        """
        for name in self._names(id) if is_id(id) else ():
            if (size := self.store.size(name)) is not None:
                self.check_size(size)
                return self.of({"id": id, "size": size, "media_type": media_type})
        raise _missing(id, self.store)

    def check_size(self, size: int) -> None:
        """Raise BlobTooLarge for content with so many bytes that nobody is to load it."""
        if size > self._largest:
            raise BlobTooLarge(
                f"{size:,} bytes are more than a blob may have, {self._largest:,}; raise PIPELINE_MAX_BLOB_BYTES"
            )

    def keep(self, source: Given) -> bool:
        """Keep content that is too large to travel in the event, and say whether it is; it is on disk then."""
        self.check_size(source.size)
        if source.size <= self._threshold:
            return False
        self._note_ledger()
        name = f"{KEPT}/{source.id}"
        if self.store.size(name) != source.size:  # missing, or cut off
            with source.open() as file, Sent(file, source.id, source.size) as sent:
                try:
                    self.store.write(name, sent)  # nothing is kept of what is altered
                except BlobAltered:
                    raise source.changed() from None
        return True

    def renew(self, id: str) -> None:
        """Let content that is kept already stay for another event; raises BlobMissing."""
        self._note_ledger()
        if self.store.size(f"{KEPT}/{id}") is None and not self._take_back(id):
            raise _missing(id, self.store)

    @contextlib.contextmanager
    def open(self, id: str) -> Iterator[Readable]:
        """Lend content as it is in the store; raises BlobMissing."""
        with contextlib.ExitStack() as stack:
            yield self._opened(id, stack)

    def _opened(self, id: str, stack: contextlib.ExitStack) -> Readable:
        for name in self._names(id):
            with contextlib.suppress(FileNotFoundError):
                return stack.enter_context(self.store.open(name))
        raise _missing(id, self.store)

    def _names(self, id: str) -> Iterator[str]:
        """Yield where content may be: it may be moved and moved back between two looks."""
        yield f"{KEPT}/{id}"
        yield from self._aside(id)
        yield f"{KEPT}/{id}"

    def _aside(self, id: str) -> list[str]:
        return [f"{UNREFERENCED}/{word}" for word in self.store.words(UNREFERENCED, id)]

    def _take_back(self, id: str) -> bool:
        for name in self._aside(id):
            with contextlib.suppress(FileNotFoundError):
                self.store.move(name, f"{KEPT}/{id}")
                return True
        return self.store.size(f"{KEPT}/{id}") is not None  # somebody else was faster

    def probe(self) -> None:
        """Write a few bytes into the store, read them, and delete them; raises BlobUnavailable that says what to do."""
        content = random_bytes(16)
        name = f"{UNREFERENCED}/{content.hex()}.{now()}"  # if this ends in between, a prune deletes it
        self.store.write(name, io.BytesIO(content))
        with self.store.open(name) as file:
            found = file.read(len(content))
        self.store.remove(name)
        if found != content:
            raise BlobUnavailable(f"blob_store: {self.store!r} does not give back what was written: use another store")

    # -- retention

    def check_owner(self) -> None:
        """Raise ConfigError when another ledger's events may refer to what is in the store, too."""
        others = sorted(set(self.store.words(LEDGERS)) - {self._ledger()})
        if others:
            names = ["publishers without a ledger" if one == NO_LEDGER else f"the ledger {one}" for one in others]
            raise ConfigError(
                f"blob_store: events of {' and '.join(names)} may refer to blobs in {self.store!r}, so nothing can be "
                f"pruned: give each ledger a `blob_store` of its own, or remove {LEDGERS}/{others[0]} from it when "
                "nobody needs the blobs of those events any more"
            )

    def prune(self, still_named: Callable[[set[str]], set[str]]) -> int:
        """Delete content to which no event refers, and did not a day ago; return how much of it has gone.

        Arguments:
            still_named: returns those of some ids that are in any event's text, read after it was called.

        Stopped at any point, it can be called again.

        """
        began = now()
        kept = {word for word in self.store.words(KEPT) if is_id(word)}
        aside = {word: word.partition(".")[::2] for word in self.store.words(UNREFERENCED)}
        named = still_named(kept | {id for id, _ in aside.values()})
        gone = 0
        for word, (id, since) in aside.items():
            if id in named:
                with contextlib.suppress(FileNotFoundError):
                    self.store.move(f"{UNREFERENCED}/{word}", f"{KEPT}/{id}")
            elif since.isdecimal() and int(since) <= began - DAY:
                self.store.remove(f"{UNREFERENCED}/{word}")
                gone += 1
        for id in kept - named:
            with contextlib.suppress(FileNotFoundError):
                self.store.move(f"{KEPT}/{id}", f"{UNREFERENCED}/{id}.{now()}")
        return gone

    def _note_ledger(self) -> None:
        """Let the store know whose events refer to what it has."""
        ledger = self._ledger()
        if ledger == self._noted:
            return
        name = f"{LEDGERS}/{ledger}"
        if self.store.size(name) is None:
            self.store.write(name, io.BytesIO())
        self._noted = ledger


def _missing(id: str, store: Store) -> BlobMissing:
    return BlobMissing(
        f"blob {id} is not in {store!r}: put it back (publishing the same content again does), then requeue what has "
        "failed; where it is kept elsewhere, this process has another `blob_store` than the publisher"
    )


def store_of(address: str, directory: Path) -> Store:
    """Return the store that the setting `blob_store` names.

    Arguments:
        address: a directory, or s3://BUCKET/PREFIX; empty for the default.
        directory: the default.

    """
    if not address.startswith(S3_SCHEME):
        return Directory(Path(address).expanduser().absolute() if address else directory)
    from .s3 import S3  # boto3 is heavy, and an extra

    bucket, _, prefix = address.removeprefix(S3_SCHEME).strip("/").partition("/")
    return S3(bucket, prefix)
