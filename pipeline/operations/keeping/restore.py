"""Restoring: archived events come back into the ledger, and nobody gets them again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Table, select, text

from ...core.errors import LedgerError
from ...ledger.aside import Bad, read_all
from ...ledger.database.rows import chunks
from ...ledger.database.tables import agents, deliveries, events
from ...ledger.ledger import Ledger
from . import archive as archives
from .archive import ArchiveError, Entry

#: Events that come back in one transaction.
BATCH = 1000
LARGEST_BATCH = 10_000


@dataclass(frozen=True)
class Restored:
    """What restore() did.

    Attributes:
        known: events that the ledger had already.
        aside: damaged entries and events that the ledger refuses; they are set aside, with the reason.

    """

    events: int
    deliveries: int
    known: int
    aside: int = 0

    def as_data(self) -> dict[str, Any]:
        """Return it as JSON data."""
        return asdict(self)


def restore(
    ledger: Ledger, archive: Path, *, batch: int = BATCH, progress: Callable[[int], None] | None = None
) -> Restored:
    """Bring archived events and deliveries back, with their sequence numbers; nobody gets them again.

    What the ledger has already stays as it is, so restoring twice is harmless.

    Arguments:
        batch: events in one transaction.
        progress: called with the number of events looked at so far, after each batch.

    Raises ArchiveError when the rest cannot be read (the batches before it are restored then), or the archive belongs
    to another ledger whose events agents of this one would get; LedgerUnavailable.

    """
    number, of_deliveries, seen, aside = 0, 0, 0, 0
    place = f"archive {archive.name}"[:255]
    damaged: list[Bad] = []  # since the last batch
    entries = archives.read(archive, lambda line, problem: damaged.append(Bad(f"line {line}", problem)))
    try:
        for some in archives.batches(entries, max(1, min(batch, LARGEST_BATCH))):
            work = partial(_restore, ledger=ledger, entries=some, place=place, damaged=damaged)
            added = ledger.database.run(work)
            number, of_deliveries, seen = number + added[0], of_deliveries + added[1], seen + len(some) - added[2]
            aside += len(damaged) + added[2]
            damaged.clear()
            if progress:
                progress(seen)
    except ArchiveError as exc:
        with suppress(LedgerError):  # that the archive ends here is what has to be known
            ledger.aside.note(place, damaged)
        raise ArchiveError(f"{exc}; {number} events before that were restored, nothing of what follows") from exc
    ledger.aside.note(place, damaged)
    return Restored(number, of_deliveries, seen - number, aside + len(damaged))


def _restore(
    connection: Connection, ledger: Ledger, entries: Sequence[Entry], place: str, damaged: Sequence[Bad]
) -> tuple[int, int, int]:
    """Add entries, and set aside what is damaged or the ledger has no place for.

    Returns the numbers of new events, of new deliveries, and of the entries that there was no place for.
    """
    _refuse_foreign(connection, ledger, entries)
    if not ledger.database.is_sqlite:
        _reserve(connection, max(entry.event["seq"] for entry in entries))
    bad: dict[str, Bad] = {}
    added: list[tuple[int, int]] = []

    def write(some: Sequence[Entry]) -> None:
        ids = [entry.event["id"] for entry in some]
        before = _ids_in(connection, events, ids)
        _add_events(connection, ledger, [entry.event for entry in some])
        there = _ids_in(connection, events, ids)
        bad.update(
            (entry.event["id"], _misplaced(entry, ledger, entries)) for entry in some if entry.event["id"] not in there
        )
        rows = [row for entry in some if entry.event["id"] in there for row in entry.deliveries]
        added.append((len(there - before), _add_deliveries(connection, ledger, rows)))

    _, refused = ledger.aside.apart(connection, [(entry.event["id"], entry) for entry in entries], write)
    no_place = [*bad.values(), *refused]
    ledger.aside.put(connection, place, [*damaged, *no_place])
    return sum(one for one, _ in added), sum(two for _, two in added), len(no_place)


def _misplaced(entry: Entry, ledger: Ledger, entries: Sequence[Entry]) -> Bad:
    """Return that another event has the number of this one; raise ArchiveError when that is so of a whole archive."""
    seq = entry.event["seq"]
    said = f"its sequence number {seq} belongs to another event"
    if entry.ledger != ledger.id and sum(other.event["seq"] == seq for other in entries) == 1:
        raise ArchiveError(
            f"event {entry.event['id']} cannot be restored: {said}; "
            "the archive is of another ledger, restore it into an empty one"
        )
    return Bad(entry.event["id"], said)


def _refuse_foreign(connection: Connection, ledger: Ledger, entries: Sequence[Entry]) -> None:
    # In its own ledger an archived event lies behind the cursor of each agent that wants it, or has its delivery.
    if any(entry.ledger != ledger.id for entry in entries) and connection.execute(select(agents.c.name)).first():
        raise ArchiveError(
            f"the archive is of another ledger than {ledger}, on which agents have run: they would get its events "
            "again; restore it into a ledger that no worker has used yet"
        )


def _add_events(connection: Connection, ledger: Ledger, rows: Sequence[dict[str, Any]]) -> None:
    missing = _missing(connection, events, rows)
    if not missing:
        return
    connection.execute(ledger.database.insert(events).on_conflict_do_nothing(), missing)
    found, _ = read_all((row["id"], row["body"]) for row in missing if '"metadata"' in row["body"])
    for statement, tags in ledger.events.tagged([record.event for record in found]):
        connection.execute(statement, tags)


def _add_deliveries(connection: Connection, ledger: Ledger, rows: Sequence[dict[str, Any]]) -> int:
    missing = _missing(connection, deliveries, rows)
    ledger.deliveries.restore(connection, missing)
    return len(missing)


def _missing(connection: Connection, table: Table, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    there = _ids_in(connection, table, [row["id"] for row in rows])
    return list({row["id"]: row for row in rows if row["id"] not in there}.values())


def _ids_in(connection: Connection, table: Table, ids: Sequence[str]) -> set[str]:
    there: set[str] = set()
    for some in chunks(ids):
        there.update(connection.execute(select(table.c.id).where(table.c.id.in_(some))).scalars())
    return there


def _reserve(connection: Connection, seq: int) -> None:
    """Let PostgreSQL number new events behind the restored ones, as SQLite does by itself."""
    sequence = connection.execute(text("SELECT pg_get_serial_sequence('pipeline_events', 'seq')")).scalar_one()
    last = text(f"SELECT last_value FROM {sequence}")
    if connection.execute(last).scalar_one() < seq:
        # With the lock nobody takes a number between the question and the answer.
        connection.execute(text("LOCK TABLE pipeline_events IN SHARE ROW EXCLUSIVE MODE"))
        highest = max(seq, connection.execute(last).scalar_one())
        connection.execute(text("SELECT setval(:sequence, :highest)"), {"sequence": sequence, "highest": highest})
