"""Stopping a whole tree of work: what has not ended of it is cancelled, and what comes of it later does not run.

A row with the tree's key is what refuses: each claim looks for it in its own statement. A correlation is one row; the
part under one event has a row for each event in it, so that what those have caused is known by its cause.

On PostgreSQL a claim may be under way while the row is written. What that one emits is refused by then, and is found by
the next pass: there is one after the other until none finds anything.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Row, and_, delete, select

from ...core.announcements import TreeCancelled
from ...core.errors import UnknownEvent
from ...core.event import Encoded, Event, new_event
from ...core.ids import derived_id
from ...core.outcome import OPEN, Outcome
from ...core.routing import targets_of
from ...core.times import moment, now
from ..aside import read_all
from ..database.leases import in_seconds
from ..database.rows import GONE_AFTER, chunks
from ..database.tables import deliveries, events, outbox, timers
from ..database.waiting import cancelled, stops, waits
from ..facts import Cancellation, Cancelled, Claim, Part, Stop
from ..subscribers import Asked, Subscribers

if TYPE_CHECKING:
    from ..database.database import Database
    from ..deliveries import Deliveries
    from ..facts import Delivery
    from ..flows.flows import Flows
    from ..waiting.approvals import Approvals

#: Passes at most: more are needed only where a tree grows faster than it is read.
MOST_PASSES = 20
#: Agents that are shown of an event that has gone too far.
LONGEST_WAY = 64
#: Columns of what may be part of a tree.
_EVENT = tuple(events.c[name] for name in ("id", "type", "causation", "delivery", "targets", "replay", "tx", "seq"))
_DELIVERY = tuple(deliveries.c[name] for name in ("id", "event_id", "agent", "outcome", "replay", "worker", "flow"))


@dataclass
class _Tree:
    """What is to be stopped, as it was found.

    Attributes:
        key: of its row.
        correlation: of all its events.
        events: by id; of a part those under its top.
        emitters: by the delivery's id.

    """

    key: str
    correlation: str
    events: dict[str, Row[Any]] = field(default_factory=dict)
    emitters: dict[str, Row[Any]] = field(default_factory=dict)

    @property
    def is_whole(self) -> bool:
        return self.key == self.correlation

    def part(self, delivery: str, outcome: str) -> Part:
        row = self.emitters[delivery]
        return Part(delivery, row.agent, row.event_id, self.events[row.event_id].type, Outcome(outcome))


class Trees:
    """Stops trees, and knows which were."""

    def __init__(
        self,
        database: Database,
        deliveries: Deliveries,
        subscribers: Subscribers,
        append: Callable[..., object],
        approvals: Approvals,
        flows: Flows,
    ) -> None:
        self._flows = flows
        self._approvals = approvals
        self._database = database
        self._deliveries = deliveries
        self._subscribers = subscribers
        self._append = append

    # -- claims

    def made(self, delivery: Delivery, row: Sequence[Any]) -> Claim:
        """Return the claim that the database has answered with; of a tree that was stopped, note why it is none."""
        claim = Claim.made(row)
        if claim.outcome is Outcome.CANCELLED:
            self.refused(delivery)
        return claim

    def refused(self, delivery: Delivery) -> None:
        """Note why a delivery was cancelled, unless that was noted before."""
        self._database.run(lambda connection: self._refuse(connection, delivery))

    def _refuse(self, connection: Connection, delivery: Delivery) -> None:
        event = delivery.event
        found = self.of(connection, event.correlation_id, event.causation_id, event.key)
        if found is not None:
            self._deliveries.refuse(connection, delivery.id, str(found))
            if found.tree != event.correlation_id:  # what it causes elsewhere belongs to the tree, too
                self._mark(connection, found, [event.key])

    @staticmethod
    def of(connection: Connection, *keys: str | None) -> Cancellation | None:
        """Return who has stopped the tree to which something with these keys belongs: correlation, cause, own id."""
        root = select(cancelled.c.root).where(cancelled.c.key.in_([key for key in keys if key]))
        query = select(*(cancelled.c[name] for name in ("key", "at", "by", "reason"))).where(cancelled.c.key.in_(root))
        row = connection.execute(query.order_by(cancelled.c.at, cancelled.c.key).limit(1)).first()
        return Cancellation(*row) if row else None

    def cancellation(self, event: Event) -> Cancellation | None:
        """Return who has stopped the tree of an event; None when it was not stopped."""
        keys = (event.correlation_id, event.causation_id, event.key)
        return self._database.read(lambda connection: self.of(connection, *keys))

    def way(self, event: Event) -> list[str]:
        """Return the agents that have emitted an event and its causes, the first one first, LONGEST_WAY at most."""
        emitter = select(events.c.causation, deliveries.c.agent)
        emitter = emitter.outerjoin(deliveries, deliveries.c.id == events.c.delivery)
        found: list[str] = []
        with self._database.reading() as connection:
            at: str | None = event.key
            while at is not None and len(found) < LONGEST_WAY:
                row = connection.execute(emitter.where(events.c.id == at)).first()
                at, agent = (row.causation, row.agent) if row else (None, None)
                found += [agent] if agent else []
        return found[::-1]

    # -- stopping

    def cancel(
        self,
        top: str | None = None,
        *,
        correlation: str | None = None,
        by: str = "",
        reason: str = "",
        terminate: bool = False,
    ) -> Cancelled:
        """Stop what an event has caused, or everything with a correlation; what was stopped before stays so.

        Arguments:
            top: the event's id; that of the first event of a correlation stands for all of it, and so does a
                correlation's own id.
            correlation: instead of an event.
            by: who does it.
            reason: why.
            terminate: end the processes of running handlers that cannot be stopped in another way.

        Raises UnknownEvent.

        """
        key, correlation = self._database.read(lambda connection: _place(connection, top, correlation))
        wanted = Cancellation(key, now(), by, reason)
        result: Cancelled | None = None
        for _ in range(MOST_PASSES):
            more = self._database.run(lambda own: self._pass(own, wanted, correlation, terminate=terminate))
            last, result = result, more if result is None else _joined(result, more)
            if last is not None and not more:
                break
        assert result is not None
        return result

    def _pass(self, connection: Connection, wanted: Cancellation, correlation: str, *, terminate: bool) -> Cancelled:
        is_new = self._mark(connection, wanted, [wanted.tree])
        first = self.of(connection, wanted.tree)
        assert first is not None
        tree = _found(connection, wanted.tree, correlation)
        if not tree.is_whole:
            self._mark(connection, first, list(tree.events))
        told = str(first)
        ended = self._flows.cancel(connection, list(tree.events), told)
        self._approvals.cancel(connection, list(tree.events), first.by, first.reason)
        own = [row for row in tree.emitters.values() if row.replay is None]  # a replay was asked for by name
        ids = [row.id for row in own]
        _take(connection, waits, waits.c.delivery, ids)
        self._flows.let_go(connection, ended)
        open_now = [row.id for row in own if row.outcome in OPEN]
        was = self._deliveries.cancel(connection, open_now, told)
        _take(connection, timers, timers.c.id, ids)
        underway = self._underway(connection, tree)
        self._deliveries.add_cancelled(connection, [(part.event, part.agent) for part in underway], told)
        done = Cancelled(
            wanted.tree,
            first.by,
            first.reason,
            moment(first.at),
            stopped=(*(tree.part(row.id, row.outcome) for row in was if not _runs(row)), *underway),
            running=tuple(tree.part(row.id, row.outcome) for row in was if _runs(row)),
            done=tuple(tree.part(row.id, row.outcome) for row in tree.emitters.values() if _has_ended(row)),
            delayed=tuple(_take(connection, timers, timers.c.id, _delayed(connection, tree))),
        )
        _take(connection, outbox, outbox.c.event_id, list(tree.events))
        running = [row for row in was if _runs(row)]
        if terminate:  # those, too, that were stopped before, and may still run
            running += [row for row in own if row.worker and row.outcome == Outcome.CANCELLED.value]
        stop(self._database, connection, running, terminate=terminate)
        if is_new:
            self._announce(connection, done)
        return done

    def _mark(self, connection: Connection, found: Cancellation, keys: Sequence[str]) -> bool:
        """Write rows for some keys of a tree; say whether any of them is new."""
        insert = self._database.insert(cancelled).on_conflict_do_nothing().returning(cancelled.c.key)
        about = {"root": found.tree, "at": found.at, "by": found.by, "reason": found.reason}
        new = 0
        for some in chunks(sorted(keys)):
            new += len(connection.execute(insert.values([{"key": key, **about} for key in some])).all())
        return new > 0

    def _underway(self, connection: Connection, tree: _Tree) -> list[Part]:
        """Return what agents are still to get: in their queues, or to be sent there."""
        have = {(row.event_id, row.agent) for row in tree.emitters.values() if row.replay is None and row.flow is None}
        found: list[Part] = []
        for listener in self._subscribers.listeners(connection):
            heard = [
                row
                for row in tree.events.values()
                if row.replay is None
                and (row.tx, row.seq) > listener.position
                and (row.id, listener.name) not in have
                and listener.hears(row.type, targets_of(row.targets))
            ]
            asked = (Asked(row.id, row.type, targets_of(row.targets)) for row in heard)
            kept_back = self._subscribers.kept_back(connection, listener, asked)
            found += [
                Part("", listener.name, row.id, row.type, Outcome.QUEUED) for row in heard if row.id not in kept_back
            ]
        return found

    def _announce(self, connection: Connection, done: Cancelled) -> None:
        told = TreeCancelled(
            tree=done.tree,
            by=done.by,
            reason=done.reason,
            stopped=len(done.stopped) + len(done.delayed),
            running=len(done.running),
            done=len(done.done),
        )
        # Its own correlation: with the tree's it would not run either.
        event = new_event(told, source="/ledger", id=derived_id(done.tree, "tree.cancelled"))
        self._append([Encoded(event, event.encode())], due_in=0, connection=connection)

    def forget(self, connection: Connection, event_ids: Sequence[str]) -> None:
        """Forget events that are no longer in the log as parts of a tree; who has stopped a tree stays known."""
        for some in chunks(event_ids):
            connection.execute(delete(cancelled).where(cancelled.c.key.in_(some), cancelled.c.key != cancelled.c.root))

    # -- workers

    def take_stops(self, worker: str) -> list[Stop]:
        """Return which deliveries a worker should stop, once; what nobody has taken for long is forgotten."""

        def work(connection: Connection) -> list[Stop]:
            mine = delete(stops).where(stops.c.worker == worker)
            found = connection.execute(mine.returning(stops.c.delivery, stops.c.terminate)).all()
            connection.execute(delete(stops).where(stops.c.at < in_seconds(-GONE_AFTER)))
            return [Stop(*row) for row in found]

        return self._database.run(work)


def stop(database: Database, connection: Connection, was: Sequence[Row[Any]], *, terminate: bool = False) -> None:
    """Tell workers which of the deliveries that were stopped ran there.

    Arguments:
        was: as Deliveries.cancel() returns them; those that were stopped before may still run.

    """
    insert = database.insert(stops)
    more = {name: insert.excluded[name] for name in ("worker", "terminate", "at")}
    tell = insert.on_conflict_do_update(index_elements=["delivery"], set_=more, where=insert.excluded.terminate)
    running = [row for row in was if _runs(row) or row.outcome == Outcome.CANCELLED.value]
    rows = [{"delivery": row.id, "worker": row.worker, "terminate": terminate, "at": now()} for row in running]
    if rows:
        connection.execute(tell, rows)


def _runs(row: Row[Any]) -> bool:
    return bool(row.outcome == Outcome.RUNNING.value)


def _has_ended(row: Row[Any]) -> bool:
    return row.outcome not in OPEN and row.outcome not in (Outcome.CANCELLED.value, Outcome.UNROUTED.value)


def _place(connection: Connection, top: str | None, correlation: str | None) -> tuple[str, str]:
    """Return the key and the correlation of a tree."""
    if top is not None:
        own = connection.execute(select(events.c.correlation).where(events.c.id == top)).scalar()
        own = own or connection.execute(select(timers.c.correlation).where(timers.c.id == top)).scalar()
        if own is not None:
            return top, str(own)
        correlation = top
    for column in (events.c.correlation, timers.c.correlation):
        if connection.execute(select(column).where(column == correlation).limit(1)).first() is not None:
            return str(correlation), str(correlation)
    raise UnknownEvent(f"the ledger has no event and no correlation {correlation!r}; nothing was cancelled")


def _found(connection: Connection, key: str, correlation: str) -> _Tree:
    """Return the events and deliveries of a tree."""
    mine = events.c.correlation == correlation
    query = select(*_DELIVERY).join(events, events.c.id == deliveries.c.event_id).where(mine)
    # Deliveries first: on PostgreSQL an event may be there in the second query that was not in the first.
    emitters = {row.id: row for row in connection.execute(query)}
    found = {row.id: row for row in connection.execute(select(*_EVENT).where(mine).order_by(events.c.tx, events.c.seq))}
    tree = _Tree(key, correlation, found, emitters)
    if not tree.is_whole:
        under = _under(key, tree)
        tree.events = {id: row for id, row in found.items() if id in under}
        tree.emitters = {id: row for id, row in emitters.items() if row.event_id in under}
    return tree


def _under(top: str, tree: _Tree) -> set[str]:
    """Return the ids of an event and of all that it has caused."""
    caused: dict[str | None, list[str]] = defaultdict(list)
    for row in tree.events.values():
        emitter = tree.emitters.get(row.delivery or "")
        for cause in {row.causation, emitter and emitter.event_id}:
            caused[cause].append(row.id)
    under, left = {top}, [top]
    while left:
        new = {id for id in caused[left.pop()] if id not in under}
        under |= new
        left += new
    return under


def _delayed(connection: Connection, tree: _Tree) -> list[str]:
    """Return the events of a tree that are to be published later."""
    mine = and_(timers.c.correlation == tree.correlation, timers.c.kind == "publish")
    rows = connection.execute(select(timers.c.id, timers.c.body).where(mine)).all()
    if tree.is_whole:
        return [row.id for row in rows]
    return [
        one.event.key for one in read_all(rows)[0] if one.event.causation_id in tree.events or one.event.key == tree.key
    ]


def _take(connection: Connection, table: Any, column: Any, ids: Sequence[str]) -> list[str]:
    """Delete rows, in the order in which others do, and return which there were."""
    found: list[str] = []
    for some in chunks(sorted(ids)):
        there = connection.execute(select(column).where(column.in_(some)).order_by(column).with_for_update()).scalars()
        if gone := list(there):
            connection.execute(delete(table).where(column.in_(gone)))
            found += gone
    return found


def _joined(first: Cancelled, more: Cancelled) -> Cancelled:
    """Return what two passes came to; what had ended before the first one is what had happened."""
    return replace(
        first,
        stopped=(*first.stopped, *more.stopped),
        running=(*first.running, *more.running),
        delayed=(*first.delayed, *more.delayed),
    )
