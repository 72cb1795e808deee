"""What is set aside: rows that cannot be used are noted with the reason, once, so that those beside them go on.

Whoever works on many events at once reads them with read_all(), which raises for none of them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any, NamedTuple, TypeVar

from sqlalchemy import Connection, delete, select
from sqlalchemy.exc import DBAPIError

from ..core.errors import InvalidEvent, LedgerRefused
from ..core.event import Encoded, Event
from ..core.ids import foreign_id
from ..core.observe import Log
from ..core.times import as_json_time, moment, now
from .database.database import Database
from .database.rows import chunks
from .database.tables import aside

logger = Log(logging.getLogger(__name__))
Item = TypeVar("Item")

#: Characters of a reason that are kept.
LONGEST_REASON = 2000


class Bad(NamedTuple):
    """Something that cannot be used, and why.

    Attributes:
        body: what is kept of it, where nothing else keeps it.

    """

    id: str
    reason: str
    body: str | None = None


class Aside(NamedTuple):
    """Something that was set aside, as the ledger has it.

    Attributes:
        place: who could not use it: "outbox", "timers", "agents", "replay", "archive" or "projection NAME".
        id: the event's id; of an agent, its name.
        body: a delayed event that is nowhere else.

    """

    place: str
    id: str
    at: datetime
    reason: str
    body: str | None

    def as_data(self) -> dict[str, Any]:
        """Return it as JSON data."""
        return {**self._asdict(), "at": as_json_time(self.at)}


def read(id: str, body: str | bytes | None) -> Encoded | Bad:
    """Return the event of a row, or why there is none: damage, another program, or limits that it came before."""
    try:
        raw = body if isinstance(body, bytes) else (body or "").encode()
        event = Event.decode(raw, id)
    except (InvalidEvent, UnicodeEncodeError) as exc:  # SQLite's text need not be text
        return Bad(id, f"the event cannot be read: {exc}")
    if id != event.id and id != foreign_id(event.source, event.id):
        return Bad(id, f"the event cannot be read: id: it is {event.id!r}, not the row's")
    return Encoded(event, raw)


def read_all(rows: Iterable[Any]) -> tuple[list[Encoded], list[Bad]]:
    """Return the events of rows that begin with an id and a body, and those rows that have none."""
    found = [read(row[0], row[1]) for row in rows]
    return [one for one in found if isinstance(one, Encoded)], [one for one in found if isinstance(one, Bad)]


class SetAside:
    """The table of what was set aside."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._insert = database.insert(aside).on_conflict_do_nothing().returning(aside.c.id)

    def put(self, connection: Connection, place: str, bad: Iterable[Bad]) -> None:
        """Note what cannot be used, in the transaction that goes on without it; what is noted already stays as it is.

        Arguments:
            place: who cannot use it.

        """
        for id, reason, body in bad:
            text = printable(reason)
            kept = None if body is None else body.encode("utf-8", "backslashreplace").decode()
            row = {"place": place, "id": id, "at": now(), "reason": text, "body": kept}
            if connection.execute(self._insert, row).first() is not None:
                logger.error("%s: %s is set aside (%s); see `pipeline ledger aside`", place, printable(id), text)

    def note(self, place: str, bad: Sequence[Bad]) -> None:
        """Do what put() does, in a transaction of its own."""
        if bad:
            self._database.run(lambda connection: self.put(connection, place, bad))

    def apart(
        self, connection: Connection, items: Sequence[tuple[str, Item]], write: Callable[[list[Item]], None]
    ) -> tuple[list[Item], list[Bad]]:
        """Let `write` write items, each with its id, together, or one by one where the database refuses some.

        Returns those that were written and those that were refused. Raises what a database raises that has other
        trouble than with an item.

        """
        try:
            with connection.begin_nested():
                write([item for _, item in items])
            return [item for _, item in items], []
        except (DBAPIError, ValueError, OverflowError) as exc:
            # Only what is wrong with the item itself: a missing right or table is for the operator to mend.
            if isinstance(exc, DBAPIError) and not isinstance(self._database.explained(exc), LedgerRefused):
                raise
            if len(items) == 1:
                return [], [Bad(items[0][0], f"the ledger refuses it: {getattr(exc, 'orig', exc)}")]
        found = [self.apart(connection, [item], write) for item in items]
        return [item for written, _ in found for item in written], [one for _, refused in found for one in refused]

    # -- for operators

    def list(self, limit: int = 100) -> list[Aside]:
        """Return what was set aside, the newest first.

        Arguments:
            limit: how many to return at most.

        """
        query = select(*(aside.c[name] for name in Aside._fields)).order_by(aside.c.at.desc(), aside.c.id)
        with self._database.reading() as connection:
            rows = connection.execute(query.limit(max(limit, 0))).all()
        return [Aside(row.place, row.id, moment(row.at), row.reason, row.body) for row in rows]

    def forget(self, ids: Sequence[str] | None = None) -> int:
        """Forget what was set aside, with some ids or all; return how many notes there were."""
        some_of = [None] if ids is None else [*chunks(ids)]

        def work(connection: Connection) -> int:
            of = [delete(aside) if some is None else delete(aside).where(aside.c.id.in_(some)) for some in some_of]
            return sum(connection.execute(statement).rowcount for statement in of)

        return self._database.run(work)


def printable(text: str) -> str:
    """Return a reason as every database and terminal takes it, of at most LONGEST_REASON characters."""
    shown = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text[:LONGEST_REASON])
    return shown[:LONGEST_REASON]
