"""Archives: events that left the ledger, as JSON Lines of CloudEvents.

For each event there are a line `event.recorded` with its row and the archive's format, the event itself as it was
published, and a line `delivery.recorded` with the row of each of its deliveries. A line `archive.ended` comes last: an
archive without it was cut off. The format is the number of the ledger's schema. Older ones are read: what they lack is
what the column's default is, and what they have beyond is left out.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import IO, Any, NamedTuple

from sqlalchemy import Column, DefaultClause, Table

from ...core.errors import InvalidEvent, LedgerError, PipelineError
from ...core.event import Event
from ...core.files import sync_directory
from ...core.ids import derived_id, foreign_id
from ...core.outcome import FINAL
from ...core.times import moment
from ...ledger.database.migrate import HEAD
from ...ledger.database.tables import deliveries, events

#: The rows are those of the ledger's tables; an archive without a format is older than all others.
FORMAT = int(HEAD)
EVENT, DELIVERY, END = "event.recorded", "delivery.recorded", "archive.ended"
#: What an event's row has beside the event itself; the transaction that wrote it means nothing elsewhere.
_NOT_IN_ROW = ("body", "tx")
_LARGEST = 2**63 - 1
#: Sequence numbers that leave room for those of new events, which come behind: a database has none after its largest.
HIGHEST_SEQ = 2**53
#: Bytes of a line; a compressed file of a few kilobytes may hold one of any length.
LONGEST_LINE = 64 * 1024 * 1024


class ArchiveError(PipelineError):
    """An archive cannot be written or read; the message names the file, and the line where one is damaged."""


class DamagedEntry(ArchiveError):
    """A line of an archive is damaged, and what comes after it may be whole; `problem` says what is wrong with it."""

    def __init__(self, message: str, problem: str) -> None:
        super().__init__(message)
        self.problem = problem


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
            sync_directory(path.parent)
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


def read(path: Path, damaged: Callable[[int, str], None] | None = None) -> Iterator[Entry]:
    """Read an archive; raises ArchiveError that names the first damaged line, or says that the end is missing.

    Arguments:
        damaged: is told of each damaged entry, by the number of its line and what is wrong; it is left out then.

    """
    lines = _Lines(path)
    with contextlib.closing(lines):
        number, at, ended, whole = 0, 0, False, True
        while True:
            entry, ended_before, ended = None, ended, False
            try:
                head = lines.next()
                if head is None:
                    ended = ended_before
                    break
                at = lines.number
                with lines.explained():
                    ended = head.type == END
                    if not ended:
                        entry = _entry(head, lines)
                    elif whole:
                        _check(head.data == {"events": number}, f"data: {head.data}, but {number} events come before")
            except DamagedEntry as exc:
                if damaged is None:
                    raise
                damaged(lines.number, exc.problem)
                whole = False
                lines.skip_to(EVENT, END, behind=at)
                continue
            # From 0 again, as files may have been joined.
            number, whole = (0, True) if ended else (number + 1, whole)
            if entry is not None:
                yield entry
    if not ended:
        raise ArchiveError(f"the archive {path} ends after line {lines.number}, and is incomplete")


def problem_of(entry: Entry) -> str | None:
    """Return why an entry could not be read from an archive again; None when it could."""
    try:
        lines = _Lines(Path("archive"), io.BytesIO(b"".join(line + b"\n" for line in _lines(entry))))
        with lines.explained():
            _entry(lines.need(), lines)
    except DamagedEntry as exc:
        return exc.problem
    except (ArchiveError, ValueError, OverflowError, OSError) as exc:
        return f"{type(exc).__name__}: {exc}"
    return None


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
    _check(1 <= row["seq"] <= HIGHEST_SEQ, f"data.seq: {row['seq']} is not between 1 and {HIGHEST_SEQ}")
    event = lines.need()
    known_by = (event.id, foreign_id(event.source, event.id))
    is_same = row["id"] in known_by and event.type == row["type"]
    _check(is_same, f"id: not the event {row['id']} of the line before")
    row.update(tx=0, body=lines.text)
    own = []
    for _ in range(number):
        record = lines.need()
        _check(record.type == DELIVERY, f"type: {record.type!r} is not {DELIVERY!r}")
        delivery = _row(deliveries, record.data, old=format < FORMAT)
        _check(delivery["event_id"] == row["id"], f"data.event_id: not {row['id']}")
        _check(delivery["outcome"] in FINAL, f"data.outcome: {delivery['outcome']!r} is not over")
        own.append(delivery)
    return Entry(row, own, ledger)


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
    """The lines of an archive, decoded one by one; never more than LONGEST_LINE bytes are in memory."""

    def __init__(self, path: Path, file: IO[bytes] | None = None) -> None:
        self.path = path
        self.number = 0
        self.text = ""
        self._last: Event | None = None
        self._is_again = False
        with self.explained():
            self._file: Any = file or (gzip.GzipFile(path) if _is_compressed(path) else path.open("rb"))

    def next(self) -> Event | None:
        """Return the next line's event, or None at the end."""
        if self._is_again:
            self._is_again = False
            return self._last
        self._last = None
        self.number += 1
        with self.explained():
            line = self._read()
            if not line:
                self.number -= 1
                return None
            event = Event.decode(line)
            self.text = line.decode().removesuffix("\n")
            self._last = event
            return event

    def _read(self) -> bytes:
        line: bytes = self._file.readline(LONGEST_LINE)
        if len(line) < LONGEST_LINE or line.endswith(b"\n"):
            return line
        while (rest := self._file.readline(LONGEST_LINE)) and not rest.endswith(b"\n"):
            pass
        raise InvalidEvent(f"the line is longer than {LONGEST_LINE:,} bytes")

    def skip_to(self, *types: str, behind: int) -> None:
        """Let next() return the line that was read last, or the next one, of one of these types and behind a line."""
        while self.number <= behind or self._last is None or self._last.type not in types:
            with contextlib.suppress(DamagedEntry):
                if self.next() is None:
                    return
        self._is_again = True

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
        except InvalidEvent as exc:
            raise DamagedEntry(f"the archive {self.path} is damaged in line {self.number}: {exc}", str(exc)) from exc
        except (EOFError, zlib.error, gzip.BadGzipFile) as exc:
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
