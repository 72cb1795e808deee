"""What is due: whether there is anything, and the deliveries that are to be sent to their queues once more."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, Select, and_, bindparam, exists, func, or_, select

from ..core.announcements import DeliveryDead, announces
from ..core.errors import InvalidEvent
from ..core.event import Encoded, new_event
from ..core.ids import Seal
from ..core.outcome import OPEN as OPEN_OUTCOMES
from ..core.outcome import Outcome
from ..core.times import now
from .aside import Bad, read
from .database.database import Database
from .database.leases import BATCH, in_seconds, locked
from .database.rows import DEAD_AFTER, chunks
from .database.tables import OPEN, deliveries, events, outbox, timers, workers
from .deliveries import AT_ONCE, Deliveries


class Look(NamedTuple):
    """Whether there is anything to take: see Events.take(), Timers.take() and Due.at_once()."""

    outbox: bool
    timers: bool
    at_once: bool


class Message(NamedTuple):
    """A delivery that is to be sent to its agent's queue, and the message that does it."""

    id: str
    encoded: Encoded


_LOOK = select(
    exists().where(outbox.c.due <= bindparam("at")),
    exists().where(timers.c.due <= bindparam("at")),
    exists().where(OPEN, AT_ONCE),
)
_MESSAGES = select(
    *(
        deliveries.c[name]
        for name in ("id", "event_id", "agent", "outcome", "attempts", "replay", "broadcast", "requeued")
    ),
    func.coalesce(deliveries.c.body, events.c.body).label("body"),
).join(events, events.c.id == deliveries.c.event_id)
_DEAD = select(
    deliveries.c.replay,
    events.c.correlation,
    events.c.type,
    *(deliveries.c[name] for name in ("id", "event_id", "agent", "error", "attempts")),
).join(events, events.c.id == deliveries.c.event_id)


class Due:
    """What is due, or should have been; several workers may ask at once."""

    def __init__(
        self, database: Database, deliveries: Deliveries, seal: Callable[[], Seal], append: Callable[..., object]
    ) -> None:
        self._database = database
        self._append = append
        self._deliveries = deliveries
        self._seal = seal

    def look(self) -> Look:
        """Say what is due: one short query, as an idle worker asks it several times a second."""
        with self._database.reading() as connection:
            return Look(*connection.execute(_LOOK, {"at": now()}).one())

    def at_once(self, limit: int = BATCH) -> list[Message]:
        """Take deliveries that somebody asked for (requeued, caught up): they wait with due 0."""
        return self._take(select(deliveries.c.id).where(OPEN, AT_ONCE), limit)

    def lost(self, agent: str, after: float, limit: int = BATCH) -> list[Message]:
        """Take an agent's deliveries that should be in its queue, or whose worker is dead, for `after` seconds."""
        return self._take(_lost(after).where(deliveries.c.agent == agent), limit)

    def agents_with_lost(self, after: float) -> list[str]:
        """Return the agents for which lost() would find something."""
        query = _lost(after).with_only_columns(deliveries.c.agent).distinct()
        with self._database.reading() as connection:
            return list(connection.execute(query).scalars())

    def ask_again(self, ids: Sequence[str]) -> None:
        """Let deliveries that could not be sent be sent as soon as the broker is back."""
        self._database.run(lambda connection: self._deliveries.ask_again(connection, ids))

    def _take(self, query: Select[Any], limit: int) -> list[Message]:
        def work(connection: Connection) -> list[Message]:
            ids = list(connection.execute(locked(query.limit(limit))).scalars())
            self._deliveries.send_again(connection, ids)
            messages = self.messages(connection, ids, OPEN_OUTCOMES)
            logged = {message.id for message in messages}
            self._deliveries.drop_pruned(connection, [id for id in ids if id not in logged])
            return messages

        return self._database.run(work)

    def messages(self, connection: Connection, ids: Sequence[str], outcomes: Sequence[Outcome]) -> list[Message]:
        """Return those of some deliveries that have one of the outcomes, with the messages that send them.

        A delivery whose event cannot be read is dead then.
        """
        found: list[Message | Bad] = []
        for some in chunks(ids):
            query = _MESSAGES.where(deliveries.c.id.in_(some), deliveries.c.outcome.in_(outcomes))
            found += [self._message(row) for row in connection.execute(query)]
        self._bury(connection, [one for one in found if isinstance(one, Bad)])
        return [one for one in found if isinstance(one, Message)]

    def refuse(self, bad: Sequence[Bad]) -> None:
        """Let deliveries be dead that the broker does not take, now or ever."""
        if bad:
            self._database.run(lambda connection: self._bury(connection, bad))

    def _bury(self, connection: Connection, bad: Sequence[Bad]) -> None:
        """Let deliveries be dead, and announce it."""
        ids = self._deliveries.bury(connection, bad)
        announced: list[Encoded] = []
        for some in chunks(ids):
            rows = connection.execute(_DEAD.where(deliveries.c.id.in_(some)))
            announced += [_announcement(*row) for replay, *row in rows if announces(row[1], replay)]
        if announced:
            self._append(announced, due_in=0, connection=connection)

    def _message(self, row: Any) -> Message | Bad:
        record = read(row.event_id, row.body)
        if isinstance(record, Bad):
            return record._replace(id=row.id)
        seal = self._seal()
        bus: dict[str, Any] = {"ledger": seal.ledger, "direct": True}
        if row.outcome == Outcome.RETRYING.value:
            bus["attempt"] = row.attempts + 1
        if row.attempts:
            bus["begun"] = True
        if row.requeued:
            bus["requeued"] = row.requeued
        if row.replay:
            bus |= {"replay": row.replay, "broadcast": bool(row.broadcast)}
        return Message(row.id, record._replace(agent=row.agent, bus=bus, seal=seal))


def _announcement(correlation: str, type: str, id: str, event: str, agent: str, error: str, attempts: int) -> Encoded:
    dead = DeliveryDead(delivery_id=id, event_id=event, original_type=type, agent=agent, error=error, attempts=attempts)
    try:
        announced = new_event(dead, source="/ledger", correlation_id=correlation)
    except InvalidEvent:  # its correlation came before the limits that there are now
        announced = new_event(dead, source="/ledger")
    return Encoded(announced, announced.encode())


def _lost(after: float) -> Select[Any]:
    horizon = in_seconds(-after)
    row = deliveries.c
    pending = select(timers.c.id).where(timers.c.id == row.id).exists()
    alive = exists().where(workers.c.id == row.worker, workers.c.seen > in_seconds(-DEAD_AFTER))
    return select(row.id).where(
        OPEN,
        or_(
            and_(row.outcome == Outcome.WAITING.value, row.due < horizon),
            and_(row.outcome == Outcome.RETRYING.value, row.due < horizon, ~pending),
            and_(row.outcome == Outcome.RUNNING.value, row.started < horizon, ~alive),
        ),
    )
