"""The statements of the hot path, built once; those that change deliveries stand with their transitions."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ARRAY, String, any_, bindparam, delete, func, literal_column, select

from .database import Database
from .tables import events, joins, outbox, timers


class Statements:
    """The statements of the hot path, built once."""

    def __init__(self, database: Database) -> None:
        insert = database.insert
        event = insert(events).on_conflict_do_nothing(index_elements=["id"])
        if not database.is_sqlite:
            event = event.values(tx=literal_column("txid_current()"))
        self.event = event
        self.logged = select(events.c.body).where(events.c.id == bindparam("id"))
        self.delayed = select(timers.c.body).where(timers.c.id == bindparam("id"))
        self.outbox = insert(outbox).on_conflict_do_nothing()
        self.gone = delete(outbox).where(outbox.c.event_id == bindparam("event_id"))
        self.sent = self.gone.returning(outbox.c.event_id, *relaxed(database))
        timer = insert(timers)
        self.timer_new = timer.on_conflict_do_nothing(index_elements=["id"]).returning(timers.c.id)
        new = {"due": timer.excluded.due, "body": timer.excluded.body}
        self.timer = timer.on_conflict_do_update(index_elements=["id"], set_=new)
        self.timer_gone = delete(timers).where(timers.c.id == bindparam("timer"))
        self.join_started = insert(joins).on_conflict_do_nothing()
        join = insert(joins)
        #: Of all ids in one list, which SQLite does not know.
        sent_all = delete(outbox).where(outbox.c.event_id == any_(bindparam("ids", type_=ARRAY(String))))
        self.sent_all = sent_all.returning(outbox.c.event_id, *relaxed(database))
        self.join_ended = join.on_conflict_do_update(index_elements=["id"], set_={"ended": join.excluded.ended})


def relaxed(database: Database) -> list[Any]:
    """Return what lets a statement return before PostgreSQL has it on its disk.

    A crash may undo a claim (with the event of another program, which its message still has) or a mark: both may be
    repeated.
    """
    return [] if database.is_sqlite else [func.set_config("synchronous_commit", "off", True)]
