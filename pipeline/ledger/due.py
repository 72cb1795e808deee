"""What is due: whether there is anything, and the deliveries that are to be sent to their queues once more."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, Select, and_, bindparam, exists, func, or_, select

from ..core.announcements import DeliveryDead, announces
from ..core.errors import InvalidEvent
from ..core.event import Encoded, new_event
from ..core.ids import Seal
from ..core.outcome import NO_MATCH, Outcome
from ..core.outcome import OPEN as OPEN_OUTCOMES
from ..core.times import now
from .aside import Bad, read
from .database.database import Database
from .database.leases import BATCH, ago, in_seconds, lives, locked, too_far
from .database.rows import chunks
from .database.statements import started_with
from .database.tables import ACTIVE, AT_ONCE, OPEN, agents, deliveries, events, flows, outbox, timers, workers
from .database.waiting import approvals, batches, lines, pauses, steps, stops, turns, waits
from .deliveries import Deliveries
from .subscribers import Wants
from .workers import ALL

#: Seconds that somebody has who sends what he has taken: then somebody else does it.
SENDING = 10.0


class Look(NamedTuple):
    """Whether there is anything to take: see Events, Timers, Waits, Approvals, and Due.at_once().

    Attributes:
        arrivals: whether anybody waits for an event.
        stops: whether a worker has not heard yet that what it runs was stopped.
        pauses: whether anybody waits for a scope that is, or was, paused, or a pause has ended.
        turns: whether somebody is to be called out of a line.
        batches: whether a batch may be complete.
        flows: whether the time of one is over.
        held: whether anybody has, or waits for, a turn.
        members: whether anybody is one of a batch.

    """

    outbox: bool
    timers: bool
    waits: bool
    arrivals: bool
    pauses: bool
    turns: bool
    at_once: bool
    stops: bool = False
    approvals: bool = False
    batches: bool = False
    flows: bool = False
    held: bool = False
    members: bool = False


class Message(NamedTuple):
    """A delivery that is to be sent to its agent's queue, and the message that does it."""

    id: str
    encoded: Encoded


_LOOK = select(
    or_(exists().where(outbox.c.due <= bindparam("at")), exists().where(too_far(outbox.c.due))),
    exists().where(timers.c.due <= bindparam("at")),
    exists().where(waits.c.due <= bindparam("at")),
    exists().where(waits.c.kind == "event"),
    or_(exists().where(waits.c.kind == "pause"), exists().where(pauses.c.until <= bindparam("at"))),
    exists().where(lines.c.due <= bindparam("at")),
    exists(deliveries.c.id).where(AT_ONCE, deliveries.c.due > -ago(SENDING)),
    exists(stops.c.delivery),
    exists().where(approvals.c.due <= bindparam("at")),
    exists().where(batches.c.due <= bindparam("at")),
    exists(flows.c.id).where(ACTIVE, flows.c.due <= bindparam("at")),
    exists(turns.c.delivery),
    exists().where(waits.c.kind == "in batch"),
)
_NEXT = select(
    *(
        select(func.min(due)).where(due > bindparam("at"), *more).scalar_subquery()
        for due, *more in (
            (outbox.c.due,),
            (timers.c.due,),
            (waits.c.due,),
            (pauses.c.until,),
            (lines.c.due,),
            (approvals.c.due,),
            (batches.c.due,),
            (flows.c.due, ACTIVE),
        )
    )
)
#: Steps of the handler: not those before it, such as a quiet time that is over.
STEPS_DONE = and_(steps.c.delivery == deliveries.c.id, steps.c.number >= 0)
#: The event as the delivery got it that has started the flow of a step, where that is not the log's.
STARTED_WITH = started_with(deliveries.c.flow, deliveries.c.event_id)
_MESSAGES = select(
    *(
        deliveries.c[name]
        for name in ("id", "event_id", "agent", "outcome", "attempts", "replay", "broadcast", "requeued", "started")
    ),
    deliveries.c.flow,
    deliveries.c.pos,
    func.coalesce(deliveries.c.body, STARTED_WITH, events.c.body).label("body"),
    or_(deliveries.c.emitted > 0, exists().where(STEPS_DONE)).label("goes_on"),
).join(events, events.c.id == deliveries.c.event_id)
#: Deliveries to agents with filters, that nobody has begun with, or asked for.
_FILTERED = (
    select(deliveries.c.id, events.c.type, events.c.body, agents.c.filters)
    .join(events, events.c.id == deliveries.c.event_id)
    .join(agents, agents.c.name == deliveries.c.agent)
    .where(agents.c.filters != ALL, deliveries.c.outcome == Outcome.QUEUED.value, events.c.targets.is_(None))
    .where(deliveries.c.started.is_(None), deliveries.c.requeued == 0, deliveries.c.replay.is_(None))
    .where(deliveries.c.flow.is_(None))
)
_DEAD = select(
    deliveries.c.replay,
    events.c.correlation,
    events.c.type,
    events.c.body,
    *(deliveries.c[name] for name in ("id", "event_id", "agent", "error", "attempts")),
).join(events, events.c.id == deliveries.c.event_id)


class Due:
    """What is due, or should have been; several workers may ask at once."""

    def __init__(
        self,
        database: Database,
        deliveries: Deliveries,
        seal: Callable[[], Seal],
        append: Callable[..., object],
        wants: Wants,
    ) -> None:
        self._database = database
        self._wants = wants
        self._append = append
        self._deliveries = deliveries
        self._seal = seal

    def look(self) -> Look:
        """Say what is due: one short query, as an idle worker asks it several times a second."""
        with self._database.reading() as connection:
            found = self._database.fast.on(connection).execute(_LOOK, {"at": now()}).fetchone()
        return Look._make(map(bool, found))  # SQLite says 0 and 1

    def next(self, after: int) -> int | None:
        """Return when something is due next, after a time (microseconds); None while nothing is."""
        with self._database.reading() as connection:
            found = connection.execute(_NEXT, {"at": after}).one()
        return min((at for at in found if at is not None), default=None)

    def at_once(self, limit: int = BATCH) -> list[Message]:
        """Take deliveries that somebody asked for (requeued, caught up), or that somebody took and did not send.

        Whoever takes them says with sent() that the broker has them.
        """
        return self._take(select(deliveries.c.id).where(AT_ONCE, deliveries.c.due > -ago(SENDING)), limit)

    def lost(self, agent: str, after: float, limit: int = BATCH) -> list[Message]:
        """Take an agent's deliveries that should be in its queue, or whose worker is dead, for `after` seconds."""
        return self._take(_lost(after).where(deliveries.c.agent == agent), limit)

    def agents_with_lost(self, after: float) -> list[str]:
        """Return the agents for which lost() would find something."""
        query = _lost(after).with_only_columns(deliveries.c.agent).distinct()
        with self._database.reading() as connection:
            return list(connection.execute(query).scalars())

    def sent(self, ids: Sequence[str]) -> None:
        """Note that the broker has deliveries that were taken."""

        def work(connection: Connection) -> None:
            for some in chunks(ids):  # in the order of groups' claims, and without those that are claimed right now
                mine = and_(
                    deliveries.c.id.in_(some), deliveries.c.outcome == Outcome.QUEUED.value, deliveries.c.due < 0
                )
                unmarked = locked(select(deliveries.c.id).where(mine).order_by(deliveries.c.id))
                self._deliveries.sent(connection, connection.execute(unmarked).scalars().all())

        if ids:
            self._database.run(work)

    def ask_again(self, ids: Sequence[str]) -> None:
        """Let deliveries that could not be sent be sent as soon as the broker is back."""
        if ids:
            self._database.run(lambda connection: self._deliveries.ask_again(connection, ids))

    def _take(self, query: Select[Any], limit: int) -> list[Message]:
        def work(connection: Connection) -> list[Message]:
            ids = self.wanted(connection, connection.execute(locked(query.limit(limit))).scalars().all())
            self._deliveries.send_again(connection, ids)
            messages = self.messages(connection, ids, OPEN_OUTCOMES)
            logged = {message.id for message in messages}
            self._deliveries.drop_pruned(connection, [id for id in ids if id not in logged])
            return messages

        return self._database.run(work)

    def wanted(self, connection: Connection, ids: Sequence[str]) -> list[str]:
        """Return those of some deliveries that a version of their agent may want; the others end here, as filtered."""
        unwanted: set[str] = set()
        for some in chunks(ids):
            rows = connection.execute(_FILTERED.where(deliveries.c.id.in_(some)))
            unwanted.update(id for id, type, body, filters in rows if not self._wants(filters, type, body))
        self._deliveries.pass_queued(connection, list(unwanted), NO_MATCH)
        return [id for id in ids if id not in unwanted]

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
        self.announce(connection, self._deliveries.bury(connection, bad))

    def announce(self, connection: Connection, ids: Sequence[str]) -> None:
        """Announce that deliveries are dead, in the transaction in which they have become so."""
        announced: list[Encoded] = []
        for some in chunks(ids):
            rows = connection.execute(_DEAD.where(deliveries.c.id.in_(some)))
            announced += [_announcement(row) for row in rows if announces(row.type, row.replay)]
        if announced:
            self._append(announced, due_in=0, connection=connection)

    def _message(self, row: Any) -> Message | Bad:
        record = read(row.event_id, row.body)
        if isinstance(record, Bad):
            return record._replace(id=row.id)
        seal = self._seal()
        bus: dict[str, Any] = {"ledger": seal.ledger, "direct": True, "message": now()}
        if row.outcome == Outcome.RETRYING.value:
            bus["attempt"] = row.attempts + 1
        if row.attempts:
            bus["begun"] = True
        if row.goes_on:  # whatever a newer version of its agent wants: half of it is done
            bus["goes_on"] = True
        if row.flow:
            bus["flow"] = [row.flow, row.pos]
        if row.requeued:
            bus["requeued"] = row.requeued
        if row.replay:
            bus |= {"replay": row.replay, "broadcast": bool(row.broadcast)}
        if row.outcome == Outcome.QUEUED.value and row.started and not row.requeued:
            # It has waited outside of its queue, and goes before those that have not come up there yet.
            record = record._replace(event=record.event.model_copy(update={"priority": 1}))
        return Message(row.id, record._replace(agent=row.agent, bus=bus, seal=seal))


def _announcement(row: Any) -> Encoded:
    same = {name: getattr(row, name) for name in ("event_id", "agent", "error", "attempts")}
    dead = DeliveryDead(delivery_id=row.id, original_type=row.type, **same)
    cause = read(row.event_id, row.body)
    try:
        # What an event that cannot be read says of itself is unknown, but for what the log has beside it.
        known = {"correlation_id": row.correlation} if isinstance(cause, Bad) else {"cause": cause.event}
        announced = new_event(dead, source="/ledger", **known)
    except InvalidEvent:  # its correlation came before the limits that there are now
        announced = new_event(dead, source="/ledger")
    return Encoded(announced, announced.encode())


def _lost(after: float) -> Select[Any]:
    horizon = in_seconds(-after)
    row = deliveries.c
    pending = select(timers.c.id).where(timers.c.id == row.id).exists()
    alive = exists().where(workers.c.id == row.worker, lives())
    return select(row.id).where(
        OPEN,
        row.outcome.in_([outcome.value for outcome in (Outcome.QUEUED, Outcome.RETRYING, Outcome.RUNNING)]),
        or_(
            and_(row.outcome == Outcome.QUEUED.value, row.due >= 0, row.due < horizon),
            and_(row.outcome == Outcome.RETRYING.value, row.due < horizon, ~pending),
            and_(row.outcome == Outcome.RUNNING.value, row.started < horizon, ~alive),
        ),
    )
