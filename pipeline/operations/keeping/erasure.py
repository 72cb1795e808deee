"""Erasure: the data of one person's events is blanked; ids, times and outcomes stay, so that traces stay whole."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import orjson
from sqlalchemy import ColumnElement, Connection, delete, func, or_, select, update

from ...core.errors import InvalidSelection
from ...core.event import new_event
from ...families import DeliveryErased
from ...ledger.aside import read_all
from ...ledger.database.rows import chunks
from ...ledger.database.tables import aside, deliveries, events, snapshots, timers
from ...ledger.ledger import Ledger
from ...ledger.timers import PUBLISH
from ...publishing.outbox import GRACE
from .retention import examine, rows_of

if TYPE_CHECKING:
    from ...bus import Bus

#: Events that are blanked in one transaction.
BATCH = 500
WHICH = "say whose data: subject= (what events were published with) or correlation= (an id), exactly one of them"
#: The attributes of an event that stay: what it was, and where it stands among the others.
KEPT = (
    "specversion", "id", "type", "source", "time", "datacontenttype", "subject", "correlationid", "causationid",
    "schemaversion", "priority", "targets", "hops", "traceparent", "tracestate",
)  # fmt: skip


@dataclass(frozen=True)
class Erased:
    """What erase() did, or would do.

    Attributes:
        events: those whose data is blank now.
        deliveries: theirs, without errors, tracebacks, results and edited data; the dead ones are dropped.
        delayed: events that were still to be published, and were taken back.
        unfinished: events that stay as they are, because agents are still at work on them: erase again later.
        record: the id of the event that says so; None when nothing was done.

    """

    events: int
    deliveries: int
    delayed: int
    unfinished: int
    record: str | None = None

    def as_data(self) -> dict[str, Any]:
        """Return it as JSON data."""
        return asdict(self)


def erase(
    bus: Bus, *, subject: str | None = None, correlation: str | None = None, by: str = "", dry_run: bool = False
) -> Erased:
    """Blank the data of the events about a subject and all that followed from them, or of one correlation.

    Arguments:
        subject: what the events were published with.
        correlation: a correlation id, instead.
        by: who does it, for the record: an event `delivery.erased`.
        dry_run: only count.

    Raises InvalidSelection and LedgerUnavailable. Stopped at any point, it can be called again.

    """
    if (subject is None) == (correlation is None):
        raise InvalidSelection(WHICH)
    ledger = bus.ledger
    which = _about(ledger, subject, correlation)
    blanked = of_deliveries = unfinished = 0
    for ids in chunks(_ids(ledger, which), BATCH):
        one = ledger.database.run(partial(_erase, ledger=ledger, ids=ids, dry_run=dry_run))
        blanked, of_deliveries, unfinished = blanked + one[0], of_deliveries + one[1], unfinished + one[2]
    delayed = ledger.database.run(partial(_take_back, which=which, subject=subject, dry_run=dry_run))
    if not dry_run:
        ledger.notices.erase(which)
    if dry_run or not (blanked or delayed):
        return Erased(blanked, of_deliveries, delayed, unfinished)
    numbers = {"events": blanked, "deliveries": of_deliveries, "delayed": delayed}
    record = new_event(DeliveryErased(subject=subject, correlation=correlation, by=by, **numbers), source=bus.source)
    encoded = bus.outbox.encode([record])
    ledger.append(encoded, due_in=GRACE)
    bus.outbox.send(encoded)
    return Erased(blanked, of_deliveries, delayed, unfinished, record.id)


def _about(ledger: Ledger, subject: str | None, correlation: str | None) -> Sequence[str]:
    """Return the correlations to erase."""
    if correlation is not None:
        return [correlation]
    # An agent's own history goes by its name, which may be a subject too.
    about = select(events.c.correlation).where(events.c.stream == subject, events.c.delivery.is_(None)).distinct()
    return ledger.database.read(lambda connection: connection.execute(about).scalars().all())


def _ids(ledger: Ledger, correlations: Sequence[str]) -> Sequence[str]:
    def found(connection: Connection) -> Iterator[str]:
        for some in chunks(correlations):
            yield from connection.execute(select(events.c.id).where(events.c.correlation.in_(some))).scalars()

    return ledger.database.read(lambda connection: list(found(connection)))


def _erase(connection: Connection, ledger: Ledger, ids: Sequence[str], *, dry_run: bool) -> tuple[int, int, int]:
    """Blank events that are done; return how many those are, how many deliveries they have, and how many are not."""
    rows = rows_of(connection, select(events).where(events.c.id.in_(ids)))
    examined = examine(connection, rows, ledger, ledger.id)
    done = {*(entry.event["id"] for entry in examined.settled), *examined.dead}
    bodies = {row["id"]: _blank(row["body"]) for row in rows if row["id"] in done}
    changed = [row for row in rows if bodies.get(row["id"], row["body"]) != row["body"]]
    theirs = [row["id"] for row in changed]
    if dry_run:
        theirs_too = select(func.count()).select_from(deliveries).where(deliveries.c.event_id.in_(theirs))
        return len(theirs), connection.execute(theirs_too).scalar_one(), len(rows) - len(done)
    for id in theirs:
        connection.execute(update(events).where(events.c.id == id).values(body=bodies[id]))
    ledger.events.untag(connection, [row["seq"] for row in changed])
    streams = {row["stream"] for row in changed if row["stream"]}
    connection.execute(delete(snapshots).where(snapshots.c.stream.in_(streams)))  # states with the data in them
    connection.execute(delete(aside).where(aside.c.id.in_(theirs)))
    ledger.waiting.approvals.erase(connection, theirs)
    return len(theirs), ledger.deliveries.erase(connection, theirs), len(rows) - len(done)


def _blank(body: str) -> str:
    """Return an event's JSON without its data, and without attributes that only its program knows."""
    try:
        attributes = orjson.loads(body)
        kept = {name: attributes[name] for name in KEPT if name in attributes}
    except (ValueError, TypeError):  # it could not be read before, and says nothing now
        return "{}"
    return orjson.dumps({**kept, "data": None}).decode()


def _take_back(connection: Connection, which: Sequence[str], subject: str | None, *, dry_run: bool) -> int:
    """Delete delayed events; return how many there were."""
    query = select(timers.c.id, timers.c.body, timers.c.correlation).where(timers.c.kind == PUBLISH)
    likely: list[ColumnElement[bool]] = [timers.c.correlation.in_(some) for some in chunks(which)]
    if subject is not None:
        likely.append(timers.c.body.contains(orjson.dumps(subject).decode(), autoescape=True))
    rows = connection.execute(query.where(or_(*likely))).all() if likely else []
    about = {one.event.key for one in read_all(rows)[0] if subject is not None and one.event.subject == subject}
    chosen = {*which}
    ids = [row.id for row in rows if row.correlation in chosen or row.id in about]
    for some in [] if dry_run else chunks(ids):
        connection.execute(delete(timers).where(timers.c.id.in_(some)))
    return len(ids)
