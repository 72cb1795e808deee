"""Archives: events that left the ledger, as JSON Lines of CloudEvents.

For each event there are a line `event.recorded` with its row and the archive's format, the event itself as it was
published, and a line `delivery.recorded` with the row of each of its deliveries. A line `archive.ended` comes last: an
archive without it was cut off. The format is the number of the ledger's schema. Older ones are read: what they lack is
what the column's default is, and what they have beyond is left out.
"""

from __future__ import annotations

import contextlib
import gzip
import os
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import IO, Any, NamedTuple

from sqlalchemy import Column, DefaultClause, Table

from ..core.errors import InvalidEvent, LedgerError, PipelineError
from ..core.event import Event
from ..core.ids import derived_id
from ..core.outcome import FINAL
from ..core.times import moment
from ..ledger.database.migrate import HEAD
from ..ledger.database.tables import deliveries, events

#: The rows are those of the ledger's tables; an archive without a format is older than all others.
FORMAT = int(HEAD)
EVENT, DELIVERY, END = "event.recorded", "delivery.recorded", "archive.ended"
#: What an event's row has beside the event itself; the transaction that wrote it means nothing elsewhere.
_NOT_IN_ROW = ("body", "tx")
_LARGEST = 2**63 - 1


class ArchiveError(PipelineError):
    """An archive cannot be written or read; the message names the file, and the line where one is damaged."""


class Entry(NamedTuple):
    """One event with its deliveries, as rows of the ledger's tables.

    Attributes:
        ledger: the id of the ledger that the event comes from.

    """

    event: dict[str, Any]
    deliveries: list[dict[str, Any]]
    ledger: str


def write(path: Path, entries: Iterable[Entry]) -> int:
    """Write an archive that is there as a whole or not at all, on disk when this returns; without entries, none.

    Arguments:
        path: a file that does not exist; with the suffix .gz it is compressed.

    Returns the number of entries. Raises ArchiveError, and what reading the entries raises.

    """
    if path.exists():
        raise _exists(path)
    with _explained(path), tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as directory:
        partial = Path(directory) / path.name
        partial.touch(mode=0o600)
        with partial.open("wb") as file:
            number = _write(file, entries, compressed=_is_compressed(path))
            file.flush()
            os.fsync(file.fileno())
        if number:
            try:
                os.link(partial, path)  # unlike a rename, it never takes the place of another file
            except FileExistsError:
                raise _exists(path) from None
            _sync_directory(path.parent)
    return number


def _write(file: IO[bytes], entries: Iterable[Entry], *, compressed: bool) -> int:
    number = 0
    with contextlib.ExitStack() as stack:
        target: Any = stack.enter_context(gzip.GzipFile(fileobj=file, mode="wb")) if compressed else file
        for entry in entries:
            target.writelines(line + b"\n" for line in _lines(entry))
            number += 1
        target.write(_record(END, f"{number}", None, {"events": number}) + b"\n")
    return number


def _lines(entry: Entry) -> Iterator[bytes]:
    row = entry.event
    data = {name: value for name, value in row.items() if name not in _NOT_IN_ROW}
    data.update(ledger=entry.ledger, deliveries=len(entry.deliveries), format=FORMAT)
    yield _record(EVENT, derived_id(row["id"], EVENT), row, data)
    # Other programs may publish JSON on several lines; between its words a space is as good.
    yield row["body"].replace("\n", " ").replace("\r", " ").encode()
    for delivery in entry.deliveries:
        yield _record(DELIVERY, delivery["id"], row, delivery)


def _record(type: str, id: str, row: dict[str, Any] | None, data: dict[str, Any]) -> bytes:
    about: dict[str, Any] = {}
    if row is not None:
        about = {"time": moment(row["recorded"]), "subject": row["id"], "correlation_id": row["correlation"]}
    return Event(id=id, type=type, source="/ledger", data=data, **about).encode()


def read(path: Path) -> Iterator[Entry]:
    """Read an archive; raises ArchiveError that names the first damaged line, or says that the end is missing."""
    lines = _Lines(path)
    with contextlib.closing(lines):
        number, ended = 0, False
        while (head := lines.next()) is not None:
            with lines.explained():
                ended = head.type == END
                if ended:
                    _check(head.data == {"events": number}, f"data: {head.data}, but {number} events come before")
                else:
                    entry = _entry(head, lines)
            number = 0 if ended else number + 1  # from 0 again, as files may have been joined
            if not ended:
                yield entry
    if not ended:
        raise ArchiveError(f"the archive {path} ends after line {lines.number}, and is incomplete")


def batches(entries: Iterable[Entry], size: int) -> Iterator[list[Entry]]:
    """Return the entries in lists of that many."""
    entries = iter(entries)
    while some := list(islice(entries, size)):
        yield some


def _entry(head: Event, lines: _Lines) -> Entry:
    _check(head.type == EVENT, f"type: {head.type!r} is not {EVENT!r}")
    data = dict(head.data) if isinstance(head.data, dict) else {}
    ledger, number, format = data.pop("ledger", None), data.pop("deliveries", None), data.pop("format", 0)
    _check(isinstance(ledger, str) and isinstance(number, int), "data: ledger or deliveries is missing")
    _check(type(format) is int and format >= 0, f"data.format: {format!r} is no number")
    if format > FORMAT:
        raise ArchiveError(
            f"the archive {lines.path} has format {format}, newer than {FORMAT}, which this version of pipeline knows: "
            "upgrade pipeline; nothing of it was read"
        )
    row = _row(events, data, without=_NOT_IN_ROW, old=format < FORMAT)
    event = lines.need()
    _check((event.id, event.type) == (row["id"], row["type"]), f"id: not the event {row['id']} of the line before")
    row.update(tx=0, body=lines.text)
    mine = []
    for _ in range(number):
        record = lines.need()
        _check(record.type == DELIVERY, f"type: {record.type!r} is not {DELIVERY!r}")
        delivery = _row(deliveries, record.data, old=format < FORMAT)
        _check(delivery["event_id"] == event.id, f"data.event_id: not {event.id}")
        _check(delivery["outcome"] in FINAL, f"data.outcome: {delivery['outcome']!r} is not over")
        mine.append(delivery)
    return Entry(row, mine, ledger)


def _row(table: Table, data: Any, without: tuple[str, ...] = (), *, old: bool = False) -> dict[str, Any]:
    """Return a row that the table takes; raise InvalidEvent that names the wrong column.

    Arguments:
        without: columns that no archive has.
        old: whether the row is of an older format, which may lack columns, or have others.

    """
    columns = _columns(table, without)
    if not isinstance(data, dict) or not (old or data.keys() <= columns.keys()):
        raise InvalidEvent(f"data: not a row of {table.name}")
    row = {name: data.get(name, default if old else None) for name, (_, _, default) in columns.items()}
    for name, value in row.items():
        kind, nullable, _ = columns[name]
        # Not isinstance(): in Python True is a number too.
        fits = type(value) is kind and (not isinstance(value, int) or 0 <= value <= _LARGEST)
        right = nullable if value is None else fits
        if not right:
            raise InvalidEvent(f"data.{name}: {value!r} is no {kind.__name__}, or out of range")
    return row


@lru_cache
def _columns(table: Table, without: tuple[str, ...]) -> dict[str, tuple[type, bool, Any]]:
    """Return the type of each column, whether it may be empty, and what it is where nothing is given."""
    columns = (column for column in table.columns if column.name not in without)
    return {str(each.name): (each.type.python_type, bool(each.nullable), _default(each)) for each in columns}


def _default(column: Column[Any]) -> Any:
    """Return what a column is where nothing is given: its default on the server, as Python has it."""
    if not isinstance(column.server_default, DefaultClause):
        return None
    text = str(column.server_default.arg)
    return text == "true" if column.type.python_type is bool else column.type.python_type(text)


def _check(right: bool, message: str) -> None:
    if not right:
        raise InvalidEvent(message)


class _Lines:
    """The lines of an archive, decoded one by one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.number = 0
        self.text = ""
        with self.explained():
            self._file: Any = gzip.GzipFile(path) if _is_compressed(path) else path.open("rb")

    def next(self) -> Event | None:
        """Return the next line's event, or None at the end."""
        self.number += 1
        with self.explained():
            line = self._file.readline()
            if not line:
                self.number -= 1
                return None
            event = Event.decode(line)
            self.text = line.decode().removesuffix("\n")
            return event

    def need(self) -> Event:
        """Return the next line's event; there has to be one."""
        event = self.next()
        if event is None:
            raise ArchiveError(f"the archive {self.path} ends after line {self.number}, and is incomplete")
        return event

    @contextlib.contextmanager
    def explained(self) -> Iterator[None]:
        """Name the file and the line that an error is about."""
        try:
            yield
        except (InvalidEvent, EOFError, zlib.error, gzip.BadGzipFile) as exc:
            raise ArchiveError(f"the archive {self.path} is damaged in line {self.number}: {exc}") from exc
        except OSError as exc:
            raise ArchiveError(f"the archive {self.path} cannot be read ({exc})") from exc

    def close(self) -> None:
        self._file.close()


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except LedgerError:  # some of them are OSErrors too
        raise
    except OSError as exc:
        raise ArchiveError(f"the archive {path} cannot be written ({exc}); nothing was deleted") from exc


def _exists(path: Path) -> ArchiveError:
    return ArchiveError(f"the archive {path} exists and is not overwritten; name another file")


def _is_compressed(path: Path) -> bool:
    return path.suffix == ".gz"


def _sync_directory(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
