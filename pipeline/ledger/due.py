"""What is due: events to relay, timers to fire, deliveries to send again. Several workers may ask at once.

Taking a row moves its due time ahead by LEASE: whoever took it sends it and deletes it, and it is due again
if he dies.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, Select, and_, bindparam, delete, exists, func, or_, select, update

from ..core.event import Event
from ..core.outcome import Outcome
from ..core.times import SECOND, now
from .database.rows import DEAD_AFTER, Record, chunks
from .database.tables import OPEN, deliveries, events, outbox, timers, workers
from .ledger import Ledger

#: Seconds that a taker has for sending, before somebody else does it.
LEASE = 30.0
#: Rows taken at once.
BATCH = 500


class Due(NamedTuple):
    """A delivery to be sent to its agent's queue."""

    id: str
    agent: str
    event: Event
    body: bytes
    bus: dict[str, Any]


class Look(NamedTuple):
    """Whether there is anything to take: see take_outbox(), take_timers() and at_once()."""

    outbox: bool
    timers: bool
    at_once: bool


_LOOK = select(
    exists().where(outbox.c.due <= bindparam("at")),
    exists().where(timers.c.due <= bindparam("at")),
    exists().where(OPEN, deliveries.c.outcome == Outcome.WAITING.value, deliveries.c.due == 0),
)


def look(ledger: Ledger) -> Look:
    """Say what is due: one short query, as an idle worker asks it several times a second."""
    with ledger.database.reading() as connection:
        return Look(*connection.execute(_LOOK, {"at": now()}).one())


def take_outbox(ledger: Ledger, limit: int = BATCH) -> list[Record]:
    """Take events that nobody has sent; mark_sent() or postpone() them afterwards."""
    at = now()
    wanted = _locked(select(outbox.c.event_id).where(outbox.c.due <= at).order_by(outbox.c.due).limit(limit))

    def work(connection: Connection) -> list[Record]:
        ids = list(connection.execute(wanted).scalars())
        _postpone(connection, ids, at + round(LEASE * SECOND))
        found = []
        for some in chunks(ids):
            rows = connection.execute(select(events.c.body).where(events.c.id.in_(some)).order_by(events.c.seq))
            found += [Record(Event.decode(body), body.encode()) for (body,) in rows]
        _forget_pruned(connection, ids, {record.event.id for record in found})
        return found

    return ledger.database.run(work)


def postpone(ledger: Ledger, ids: Sequence[str], seconds: float) -> None:
    """Let events in the outbox be due again in some seconds."""
    ledger.database.run(lambda connection: _postpone(connection, ids, now() + round(seconds * SECOND)))


def take_timers(ledger: Ledger, grace: float, limit: int = BATCH) -> tuple[list[Record], list[Due], int]:
    """Take what is due: delayed events, which move to the log and the outbox, and retries.

    Arguments:
        grace: seconds that the caller has to send the events, before the relay does.

    Returns the events, the retries, and the lease that finish_timers() wants.

    """
    at = now()
    lease = at + round(LEASE * SECOND)
    is_due = timers.c.due <= at
    wanted = _locked(select(timers.c.id, timers.c.kind, timers.c.body).where(is_due).order_by(timers.c.due))

    def work(connection: Connection) -> tuple[list[Record], list[Due]]:
        rows = connection.execute(wanted.limit(limit)).all()
        delayed = [Record(Event.decode(body), body.encode()) for _, kind, body in rows if kind == "publish"]
        ledger.write_events(connection, delayed, at + round(grace * SECOND))
        _delete_timers(connection, [record.event.id for record in delayed])
        retries = [id for id, kind, _ in rows if kind == "retry"]
        for some in chunks(retries):
            connection.execute(update(timers).where(timers.c.id.in_(some)).values(due=lease))
        due = _due(ledger, connection, retries, (Outcome.RETRYING,))
        _delete_timers(connection, list({*retries} - {one.id for one in due}))
        return delayed, due

    return (*ledger.database.run(work), lease)


def finish_timers(ledger: Ledger, ids: Sequence[str], lease: int) -> None:
    """Delete retries that were sent, unless they were set anew meanwhile."""
    statement = delete(timers).where(timers.c.id == bindparam("timer"), timers.c.due == lease)
    rows = [{"timer": id} for id in ids]
    if rows:
        ledger.database.run(lambda connection: connection.execute(statement, rows))


def release_timers(ledger: Ledger, ids: Sequence[str], lease: int, seconds: float) -> None:
    """Let retries that could not be sent be due again in some seconds."""
    again = now() + round(seconds * SECOND)

    def work(connection: Connection) -> None:
        for some in chunks(ids):
            mine = and_(timers.c.id.in_(some), timers.c.due == lease)
            connection.execute(update(timers).where(mine).values(due=again))

    ledger.database.run(work)


def at_once(ledger: Ledger, limit: int = BATCH) -> list[Due]:
    """Take deliveries that somebody asked for (requeued, caught up): they wait with due 0."""
    urgent = select(deliveries.c.id).where(OPEN, deliveries.c.outcome == Outcome.WAITING.value, deliveries.c.due == 0)
    return _take_deliveries(ledger, urgent, limit)


def lost(ledger: Ledger, agent: str, after: float, limit: int = BATCH) -> list[Due]:
    """Take an agent's deliveries that should be in its queue, or whose worker is dead, for `after` seconds."""
    return _take_deliveries(ledger, _lost(after).where(deliveries.c.agent == agent), limit)


def agents_with_lost(ledger: Ledger, after: float) -> list[str]:
    """Return the agents for which lost() would find something."""
    wanted = _lost(after).with_only_columns(deliveries.c.agent).distinct()
    with ledger.database.reading() as connection:
        return list(connection.execute(wanted).scalars())


def _lost(after: float) -> Select[Any]:
    horizon = now() - round(after * SECOND)
    found = deliveries.c
    pending = select(timers.c.id).where(timers.c.id == found.id).exists()
    alive = exists().where(workers.c.id == found.worker, workers.c.seen > now() - round(DEAD_AFTER * SECOND))
    return select(found.id).where(
        OPEN,
        or_(
            and_(found.outcome == Outcome.WAITING.value, found.due < horizon),
            and_(found.outcome == Outcome.RETRYING.value, found.due < horizon, ~pending),
            and_(found.outcome == Outcome.RUNNING.value, found.started < horizon, ~alive),
        ),
    )


def _take_deliveries(ledger: Ledger, wanted: Select[Any], limit: int) -> list[Due]:
    def work(connection: Connection) -> list[Due]:
        ids = list(connection.execute(_locked(wanted.limit(limit))).scalars())
        open_ones = (Outcome.WAITING, Outcome.RETRYING, Outcome.RUNNING)
        due = _due(ledger, connection, ids, open_ones)
        for some in chunks(ids):
            mine = and_(deliveries.c.id.in_(some), deliveries.c.outcome == Outcome.RUNNING.value)
            # Its worker is dead: whoever gets the message may run it.
            connection.execute(update(deliveries).where(mine).values(outcome=Outcome.WAITING.value))
            connection.execute(update(deliveries).where(deliveries.c.id.in_(some)).values(due=now()))
        _forget_deliveries(connection, ids, {one.id for one in due})
        return due

    return ledger.database.run(work)


def ask_again(ledger: Ledger, ids: Sequence[str]) -> None:
    """Let deliveries that could not be sent be sent as soon as the broker is back."""

    def work(connection: Connection) -> None:
        for some in chunks(ids):
            mine = and_(deliveries.c.id.in_(some), deliveries.c.outcome == Outcome.WAITING.value)
            connection.execute(update(deliveries).where(mine).values(due=0))

    ledger.database.run(work)


def _due(ledger: Ledger, connection: Connection, ids: Sequence[str], outcomes: Sequence[Outcome]) -> list[Due]:
    found = []
    names = [outcome.value for outcome in outcomes]
    columns = (
        deliveries.c.id,
        deliveries.c.agent,
        deliveries.c.outcome,
        deliveries.c.attempts,
        deliveries.c.replay,
        deliveries.c.broadcast,
        func.coalesce(deliveries.c.body, events.c.body).label("body"),
    )
    for some in chunks(ids):
        joined = select(*columns).join(events, events.c.id == deliveries.c.event_id)
        rows = connection.execute(joined.where(deliveries.c.id.in_(some), deliveries.c.outcome.in_(names)))
        found += [_as_due(ledger, row) for row in rows]
    return found


def _as_due(ledger: Ledger, row: Any) -> Due:
    bus: dict[str, Any] = {"ledger": ledger.id, "direct": True}
    if row.outcome == Outcome.RETRYING.value:
        bus["attempt"] = row.attempts + 1
    if row.replay:
        bus |= {"replay": row.replay, "broadcast": bool(row.broadcast)}
    return Due(row.id, row.agent, Event.decode(row.body), row.body.encode(), bus)


def heartbeat(ledger: Ledger, worker: str) -> None:
    """Note that a worker lives."""
    insert = ledger.database.insert(workers)
    statement = insert.on_conflict_do_update(index_elements=["id"], set_={"seen": insert.excluded.seen})
    day = 86400 * SECOND

    def work(connection: Connection) -> None:
        connection.execute(statement, {"id": worker, "seen": now()})
        connection.execute(delete(workers).where(workers.c.seen < now() - day))

    ledger.database.run(work)


def leave(ledger: Ledger, worker: str) -> None:
    """Note that a worker has ended."""
    ledger.database.run(lambda connection: connection.execute(delete(workers).where(workers.c.id == worker)))


def _locked(query: Select[Any]) -> Select[Any]:
    return query.with_for_update(skip_locked=True)


def _postpone(connection: Connection, ids: Sequence[str], due: int) -> None:
    for some in chunks(ids):
        connection.execute(update(outbox).where(outbox.c.event_id.in_(some)).values(due=due))


def _forget_pruned(connection: Connection, ids: Sequence[str], known: set[str]) -> None:
    for some in chunks([id for id in ids if id not in known]):
        connection.execute(delete(outbox).where(outbox.c.event_id.in_(some)))


def _forget_deliveries(connection: Connection, ids: Sequence[str], known: set[str]) -> None:
    """Drop deliveries whose event is no longer in the log: there is nothing to send."""
    for some in chunks([id for id in ids if id not in known]):
        gone = {"outcome": Outcome.DROPPED.value, "ended": now(), "error": "the ledger no longer has the event"}
        connection.execute(update(deliveries).where(deliveries.c.id.in_(some)).values(**gone))


def _delete_timers(connection: Connection, ids: Sequence[str]) -> None:
    for some in chunks(ids):
        connection.execute(delete(timers).where(timers.c.id.in_(some)))
