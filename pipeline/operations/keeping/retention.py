"""Retention: old events leave the ledger, into an archive if wanted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Select, delete, select, tuple_

from ...contracts.blobs.blobs import Blobs
from ...core.errors import InvalidSelection
from ...core.outcome import FINAL, Outcome
from ...core.routing import targets_of
from ...core.times import SECOND, now
from ...ledger.aside import Bad
from ...ledger.database.rows import chunks
from ...ledger.database.tables import deliveries, events, flows, outbox
from ...ledger.ledger import Ledger
from ...ledger.log import after
from ...ledger.subscribers import Asked
from . import archive as archives
from .archive import Entry
from .references import still_named

#: Events that go in one transaction.
BATCH = 1000
LARGEST_BATCH = 10_000
_ORDER = (events.c.tx, events.c.seq)


@dataclass(frozen=True)
class Pruned:
    """What prune() did.

    Attributes:
        events, deliveries: how many have left the ledger.
        dead: old events that stay because a delivery of theirs is a dead letter: requeue or drop it.
        unfinished: old events that stay because something is still to be done with them.
        unreadable: old events that stay because an archive could not give them back; they are set aside.
        archive: the file that was written; None when nothing had to be.
        blobs: how many have left their store, to which no event refers any more.

    """

    events: int
    deliveries: int
    dead: int
    unfinished: int
    archive: Path | None = None
    unreadable: int = 0
    blobs: int = 0

    def as_data(self) -> dict[str, Any]:
        """Return it as JSON data."""
        return {**asdict(self), "archive": self.archive and str(self.archive)}


def prune(
    ledger: Ledger,
    *,
    older_than: timedelta | None = None,
    keep: int | None = None,
    archive: Path | None = None,
    batch: int = BATCH,
    progress: Callable[[int], None] | None = None,
    blobs: Blobs | None = None,
) -> Pruned:
    """Delete old events and their deliveries, when nothing is left to be done with them.

    An event that is delivered a second time after its deliveries have left is handled a second time: keep what may
    still be in a queue.

    Arguments:
        older_than: only events that were recorded longer ago.
        keep: this many of the newest events stay; with older_than both have to be fulfilled.
        archive: a new file that everything is written into before anything is deleted; .gz compresses it.
        batch: events in one transaction, 1 to 10,000.
        progress: called with the number of events deleted so far, after each batch.
        blobs: where content goes from, too, to which no event has referred for a day.

    Raises InvalidSelection, ArchiveError, LedgerUnavailable, BlobUnavailable, and ConfigError when another ledger keeps
    blobs in the same store. Stopped at any point, it leaves each event in the ledger,
    or in the archive, or in both; pruning again goes on (into an archive of another name).

    """
    if older_than is None and keep is None:
        raise InvalidSelection("say what may go: older_than= (a timedelta), keep= (a number of events), or both")
    if (older_than is not None and older_than < timedelta(0)) or (keep is not None and keep < 0):
        raise InvalidSelection("older_than and keep cannot be negative")
    if not 1 <= batch <= LARGEST_BATCH:
        raise InvalidSelection(f"batch={batch} is not between 1 and {LARGEST_BATCH:,}")
    if blobs is not None:
        blobs.check_owner()
    old = _Old(ledger, older_than, keep, batch, archived=archive is not None)
    leaving: Iterator[Sequence[Entry]] = iter(old)
    written = None
    if archive is not None:
        written = archive if archives.write(archive, chain.from_iterable(leaving)) else None
        # What is deleted is what can be read from the archive.
        leaving = archives.batches(archives.read(archive), batch) if written else iter(())
    number = of_deliveries = 0
    for entries in leaving:
        gone = ledger.database.run(partial(_delete, ledger=ledger, entries=entries))
        number, of_deliveries = number + gone[0], of_deliveries + gone[1]
        if progress:
            progress(number)
    if older_than is not None:
        before = _before(older_than)
        ledger.database.run(lambda connection: ledger.waiting.flows.prune(connection, before))
        ledger.waiting.budgets.prune(before)
    unnamed = 0 if blobs is None else blobs.prune(partial(still_named, ledger))
    return Pruned(number, of_deliveries, old.dead, old.unfinished, written, old.unreadable, unnamed)


class _Old:
    """The events that are old enough, in batches of those that may leave; the others are counted."""

    def __init__(
        self, ledger: Ledger, older_than: timedelta | None, keep: int | None, batch: int, *, archived: bool
    ) -> None:
        self._ledger = ledger
        self._archived = archived
        self.unreadable = 0
        self._keep = keep
        self.dead = 0
        self.unfinished = 0
        self._query = select(events).order_by(*_ORDER).limit(batch)
        if older_than is not None:
            self._query = self._query.where(events.c.recorded < _before(older_than))

    def __iter__(self) -> Iterator[Sequence[Entry]]:
        query = self._without_newest(self._query)
        place = (-1, -1)
        while query is not None:
            with self._ledger.database.reading() as connection:
                rows = rows_of(connection, query.where(after(self._ledger.database, place)))
                examined = examine(connection, rows, self._ledger, self._ledger.id)
            if not rows:
                return
            place = (rows[-1]["tx"], rows[-1]["seq"])
            self.dead += len(examined.dead)
            self.unfinished += len(rows) - len(examined.dead) - len(examined.settled)
            leaving = self._readable(examined.settled) if self._archived else examined.settled
            if leaving:
                yield leaving

    def _readable(self, entries: Sequence[Entry]) -> Sequence[Entry]:
        """Return the entries that can be read from an archive again; the others are set aside."""
        problems = {entry.event["id"]: archives.problem_of(entry) for entry in entries}
        bad = [Bad(id, problem) for id, problem in problems.items() if problem is not None]
        self._ledger.aside.note("archive", bad)
        self.unreadable += len(bad)
        return [entry for entry in entries if problems[entry.event["id"]] is None]

    def _without_newest(self, query: Select[Any]) -> Select[Any] | None:
        if not self._keep:
            return query
        newest = select(*_ORDER).order_by(events.c.tx.desc(), events.c.seq.desc()).offset(self._keep - 1).limit(1)
        with self._ledger.database.reading() as connection:
            first_kept = connection.execute(newest).first()
        return None if first_kept is None else query.where(tuple_(*_ORDER) < tuple(first_kept))


def rows_of(connection: Connection, query: Select[Any]) -> list[dict[str, Any]]:
    """Return the rows of a query as dicts."""
    # The names are of a class of SQLAlchemy's own, which is not encoded as JSON.
    return [{str(name): value for name, value in row.items()} for row in connection.execute(query).mappings()]


@dataclass
class Examined:
    """Events with their deliveries of which everything is done, and the ids of those with dead letters."""

    settled: list[Entry]
    dead: list[str]


def examine(connection: Connection, rows: Sequence[dict[str, Any]], ledger: Ledger, id: str) -> Examined:
    """Tell the events that may leave from those with dead letters, and from all others.

    Arguments:
        id: the ledger's, for the entries.

    """
    ids = [row["id"] for row in rows]
    by_event: dict[str, list[dict[str, Any]]] = {id: [] for id in ids}
    of_these = select(deliveries).where(deliveries.c.event_id.in_(ids)).order_by(deliveries.c.id)
    for delivery in rows_of(connection, of_these):
        by_event[delivery["event_id"]].append(delivery)
    busy = set(connection.execute(select(outbox.c.event_id).where(outbox.c.event_id.in_(ids))).scalars())
    active = select(flows.c.event_id).where(flows.c.event_id.in_(ids), flows.c.ended.is_(None))
    busy.update(connection.execute(active).scalars())
    trees = [flows.c.ended.is_(None), flows.c.members == 0]  # of choreographies, which end with all of their trees
    watched = select(events.c.id).join(flows, flows.c.correlation == events.c.correlation)
    busy.update(connection.execute(watched.where(events.c.id.in_(ids), *trees)).scalars())
    busy |= _awaited(connection, rows, by_event, ledger) | ledger.waiting.steps.awaited(connection, ids)
    examined = Examined([], [])
    for row in rows:
        mine = by_event[row["id"]]
        if any(delivery["outcome"] == Outcome.DEAD.value for delivery in mine):
            examined.dead.append(row["id"])
        elif row["id"] not in busy and all(delivery["outcome"] in FINAL for delivery in mine):
            examined.settled.append(Entry(row, mine, id))
    return examined


def _awaited(
    connection: Connection,
    rows: Sequence[dict[str, Any]],
    by_event: Mapping[str, Sequence[dict[str, Any]]],
    ledger: Ledger,
) -> set[str]:
    """Return the events that should reach an agent, and reconciliation has not been there yet to see to it."""
    own = ((id, delivery) for id, mine in by_event.items() for delivery in mine if delivery["flow"] is None)
    have = {(id, delivery["agent"]) for id, delivery in own}
    awaited: set[str] = set()
    # What an agent wants whose row is damaged, nobody knows: all that it has not seen stays.
    for listener in ledger.subscribers.listeners(connection, unreadable=("#",)):
        asked = [
            Asked(row["id"], row["type"], targets_of(row["targets"]))
            for row in rows
            if row["replay"] is None and (row["tx"], row["seq"]) > listener.position
        ]
        heard = [one for one in asked if listener.hears(one.type, one.targets) and (one.id, listener.name) not in have]
        awaited |= {one.id for one in heard} - ledger.subscribers.kept_back(connection, listener, heard)
    return awaited


def _delete(connection: Connection, ledger: Ledger, entries: Sequence[Entry]) -> tuple[int, int]:
    """Delete those events to which nothing has happened since they were read."""
    before = {entry.event["id"]: entry for entry in entries}
    rows = rows_of(connection, select(events).where(events.c.id.in_(before)).order_by(*_ORDER))
    now_there = examine(connection, rows, ledger, "").settled
    same = [entry for entry in now_there if entry.deliveries == before[entry.event["id"]].deliveries]
    gone = ledger.deliveries.prune(connection, [delivery["id"] for entry in same for delivery in entry.deliveries])
    ledger.events.untag(connection, [entry.event["seq"] for entry in same])
    ids = [entry.event["id"] for entry in same]
    ledger.waiting.trees.forget(connection, ids)
    ledger.waiting.approvals.prune(connection, ids)
    return sum(connection.execute(delete(events).where(events.c.id.in_(some))).rowcount for some in chunks(ids)), gone


def _before(age: timedelta) -> int:
    return now() - round(age.total_seconds() * SECOND)
