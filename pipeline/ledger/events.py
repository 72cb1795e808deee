"""The log and the outbox: events are appended, sent, and marked as sent; what was not sent in time is relayed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson
from sqlalchemy import Connection, delete, or_, select, update

from ..core.door.attributes import tags_of
from ..core.door.dids import SCHEME
from ..core.errors import IdTaken
from ..core.event import VIA, Encoded, Event
from ..core.times import SECOND, now
from .aside import Bad, SetAside, read_all
from .database.database import Database
from .database.fast import Statement
from .database.leases import BATCH, in_seconds, lease_from, locked, too_far
from .database.rows import chunks
from .database.statements import Statements
from .database.tables import events, outbox, tags

#: Where events are set aside that cannot be sent.
OUTBOX = "outbox"


class Events:
    """The tables of the events and of those that the broker may not have yet."""

    def __init__(self, database: Database, statements: Statements, aside: SetAside) -> None:
        self._database = database
        self._aside = aside
        self._statements = statements

    def appended(self, records: Sequence[Encoded], at: int, due: int | None) -> list[Statement]:
        """Return what has to be run, in one transaction, for events to be in the log and in the outbox.

        Arguments:
            at: when they are recorded (microseconds).
            due: when the relay sends them if nobody did before; None leaves the outbox alone.

        """
        statements: list[Statement] = [(self._statements.event, [_row(record, at) for record in records])]
        if due is not None:
            statements.append((self._statements.outbox, [{"event_id": r.event.key, "due": due} for r in records]))
        return [*statements, *self.tagged([record.event for record in records if record.event.metadata])]

    def tagged(self, some: Sequence[Event]) -> list[Statement]:
        """Return what has to be run for events, which are in the log then, to be found by their metadata."""
        rows = [
            {"name": name, "value": value, "event_id": event.key}
            for event in some
            for name, value in tags_of(event.metadata)
        ]
        return [(self._statements.tag, rows)] if rows else []

    @staticmethod
    def untag(connection: Connection, numbers: Sequence[int]) -> None:
        """Let events no longer be found by their metadata.

        Arguments:
            numbers: their sequence numbers.

        """
        for some in chunks(numbers):
            connection.execute(delete(tags).where(tags.c.seq.in_(some)))

    def check_same(self, records: Sequence[Encoded], connection: Any) -> None:
        """Raise IdTaken when the log has another event with the id of one of the records.

        A later time of the same event, as a program that tries again may give it, makes no other one of it.
        """
        for record in records:
            self._check_same(connection, record, self._statements.logged, "the log has")

    def check_delayed(self, record: Encoded, connection: Any) -> None:
        """Raise IdTaken when a timer has another event with the id of one that is to be delayed."""
        self._check_same(connection, record, self._statements.delayed, "there is, delayed,")

    def _check_same(self, connection: Any, record: Encoded, there: Any, who: str) -> None:
        event = record.event
        row = connection.execute(there, {"id": event.key}).fetchone()
        if row is not None and not _is_same(row[0], record.body):
            raise IdTaken(
                f"id: {who} another event {event.id!r} of source {event.source!r}, which says something else; "
                "give each event an id of its own"
            )

    def sent(self, id: str) -> Statement:
        """Return what takes an event out of the outbox: the broker has it."""
        return self._statements.sent, {"event_id": id}

    def gone(self, ids: Sequence[str]) -> Statement:
        """Return what takes events out of the outbox together with what else a transaction writes."""
        return self._statements.gone, [{"event_id": id} for id in ids]

    # -- the outbox

    def forget(self, ids: Sequence[str]) -> None:
        """Take several events out of the outbox: the broker has them."""
        if self._database.is_sqlite:
            if ids:  # and without RETURNING, which Python's sqlite3 does not take for many rows in 3.12 and 3.13
                self._database.fast.all([self.gone(ids)])
        else:
            self._database.fast.one((self._statements.sent_all, {"ids": list(ids)}))

    def unsent(self, ids: Sequence[str]) -> list[Event]:
        """Return those of some events that are still in the outbox; what cannot be read is the relay's to find out."""
        query = select(events.c.id, events.c.body).join(outbox, outbox.c.event_id == events.c.id)
        rows = self._database.read(lambda connection: connection.execute(query.where(events.c.id.in_(ids))).all())
        return [record.event for record in read_all(rows)[0]]

    def take(self, limit: int = BATCH) -> list[Encoded]:
        """Take events that nobody has sent; forget(), refuse() or postpone() them afterwards.

        What cannot be read is set aside.
        """
        at = now()
        is_due = or_(outbox.c.due <= at, too_far(outbox.c.due))
        query = locked(select(outbox.c.event_id).where(is_due).order_by(outbox.c.due).limit(limit))

        def work(connection: Connection) -> list[Encoded]:
            ids = list(connection.execute(query).scalars())
            _postpone(connection, ids, lease_from(at))
            records: list[Encoded] = []
            for some in chunks(ids):
                bodies = select(events.c.id, events.c.body).where(events.c.id.in_(some)).order_by(events.c.seq)
                good, bad = read_all(connection.execute(bodies))
                self._aside.put(connection, OUTBOX, bad)
                records += good
            usable = {record.event.key for record in records}
            _forget(connection, [id for id in ids if id not in usable])  # the others have been pruned
            return records

        return self._database.run(work)

    def refuse(self, bad: Sequence[Bad]) -> None:
        """Set events aside that the broker does not take, now or ever."""

        def work(connection: Connection) -> None:
            self._aside.put(connection, OUTBOX, bad)
            _forget(connection, [one.id for one in bad])

        if bad:
            self._database.run(work)

    def postpone(self, ids: Sequence[str], seconds: float) -> None:
        """Let events in the outbox be due again in some seconds."""
        self._database.run(lambda connection: _postpone(connection, ids, in_seconds(seconds)))


#: What may differ between two tries to publish one event, or when it comes over two ways.
_OF_THE_TRY = ("time", "traceparent", "tracestate", VIA)


def _is_same(logged: Any, body: bytes) -> bool:
    """Say whether the log's event says the same as another one; what cannot be read says something else."""
    try:
        kept = logged.encode() if isinstance(logged, str) else bytes(logged)
        return kept == body or _content(kept) == _content(body)
    except (ValueError, TypeError, AttributeError):
        return False


def _content(body: bytes) -> dict[str, Any]:
    """Return what an event says."""
    attributes: dict[str, Any] = orjson.loads(body)
    return {name: value for name, value in attributes.items() if name not in _OF_THE_TRY}


def _row(record: Encoded, at: int) -> dict[str, Any]:
    """Return the row of an event that is appended at a time (microseconds)."""
    event = record.event
    source = event.source  # as in emitter_of(), without a call for each event
    emitter = source if source.startswith(SCHEME) else source.partition("/agent/")[2]
    return {
        "id": event.key,
        "type": event.type,
        "stream": emitter or event.subject,
        "correlation": event.correlation_id,
        "causation": event.causation_id,
        "delivery": record.delivery,
        "targets": ",".join(event.targets) or None,
        "time": round(event.time.timestamp() * SECOND),
        "recorded": at,
        "replay": record.replay,
        "body": record.body.decode(),
    }


def _postpone(connection: Connection, ids: Sequence[str], due: int) -> None:
    for some in chunks(ids):
        connection.execute(update(outbox).where(outbox.c.event_id.in_(some)).values(due=due))


def _forget(connection: Connection, ids: Sequence[str]) -> None:
    for some in chunks(ids):
        connection.execute(delete(outbox).where(outbox.c.event_id.in_(some)))
