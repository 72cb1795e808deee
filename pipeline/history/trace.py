"""Traces: what an event has caused, as a tree, and what of it is not done yet."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson
from sqlalchemy import Connection, Row, bindparam, select

from ..core.errors import InvalidSelection, SettleTimeout
from ..core.event import DEFAULT_PRIORITY
from ..core.outcome import Outcome
from ..core.times import moment
from ..ledger.database.rows import chunks, wants
from ..ledger.database.tables import agents, deliveries, events, joins, outbox, timers
from ..ledger.ledger import Ledger
from ..ledger.log import in_order
from .events import unknown_event
from .tree import DeliveryNode, EventNode, JoinNode, Trace

#: Outcomes that something is still to follow.
_OPEN = (Outcome.WAITING, Outcome.RUNNING, Outcome.RETRYING)
_OUTCOMES = {outcome.value: outcome for outcome in Outcome}
#: Things that a message lists.
_LISTED = 10


def trace(ledger: Ledger, id: str) -> Trace:
    """Return the tree of what an event has caused, or of everything with one correlation id.

    Arguments:
        id: an event's id; that of the first event of a correlation stands for all of it.

    Raises UnknownEvent when the ledger knows neither.

    """
    with _snapshot(ledger) as connection:
        return _read(ledger, connection, id)


def _read(ledger: Ledger, connection: Connection, id: str) -> Trace:
    correlation = connection.execute(select(events.c.correlation).where(events.c.id == id)).scalar()
    if correlation is None:
        found = connection.execute(select(events.c.seq).where(events.c.correlation == id).limit(1)).first()
        if found is None:
            raise unknown_event(ledger, connection, id)
    return _tree(connection, correlation or id, None if correlation in (None, id) else id)


@contextlib.contextmanager
def _snapshot(ledger: Ledger) -> Iterator[Connection]:
    """Read several tables as they were at one time."""
    with ledger.database.reading() as connection:
        if not ledger.database.is_sqlite:
            connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        yield connection


# -- the tree


def _tree(connection: Connection, correlation: str, top: str | None) -> Trace:
    """Return the events of a correlation as a tree, or what is under one of them."""
    nodes = {row.id: _event(row) for row in connection.execute(_EVENTS, {"correlation": correlation}).all()}
    emitters: dict[str, DeliveryNode] = {}
    owners: dict[str, EventNode] = {}
    for event_id, *columns in connection.execute(_DELIVERIES, {"correlation": correlation}).all():
        delivery = _delivery(*columns)
        emitters[delivery.id], owners[delivery.id] = delivery, nodes[event_id]
        nodes[event_id].children.append(delivery)
    roots: list[EventNode] = []
    for node in nodes.values():
        if len(node.children) > 1:  # an agent has come after all
            node.children = [each for each in node.deliveries if each.outcome != Outcome.UNROUTED]
    for node in nodes.values():
        node.parent = owners.get(node.delivery or "") or nodes.get(node.causation or "")
        home = emitters.get(node.delivery or "") or node.parent
        siblings: list[Any] = home.children if home else roots
        siblings.append(node)
    _open_circles(roots, nodes, emitters)
    found = Trace(correlation, roots if top is None else [nodes[top]], [])
    within = {node.id for node in found}
    rows = connection.execute(_JOINS, {"correlation": correlation})
    found.joins = [_join(row) for row in rows if row.event_id in within]
    return found


def _open_circles(roots: list[EventNode], nodes: dict[str, EventNode], emitters: dict[str, DeliveryNode]) -> None:
    """Make a root of whatever cannot be reached: other programs may publish events that cause each other."""
    seen = {node.id for node in Trace("", roots, [])}
    for node in nodes.values():
        if node.id not in seen:
            home = emitters.get(node.delivery or "") or node.parent
            if home is not None:
                home.children.remove(node)
            node.parent = None
            roots.append(node)
            seen.update(each.id for each in Trace("", [node], []))


_MINE = events.c.correlation == bindparam("correlation")
_EVENTS = in_order(
    select(
        *(events.c[name] for name in ("id", "type", "tx", "seq", "time", "recorded", "causation", "delivery")),
        *(events.c[name] for name in ("targets", "replay", "body")),
    ).where(_MINE)
)
_DELIVERIES = (
    select(
        *(deliveries.c[name] for name in ("event_id", "id", "agent", "outcome", "attempts")),
        *(deliveries.c[name] for name in ("started", "ended", "due", "worker", "error", "replay")),
    )
    .join(events, events.c.id == deliveries.c.event_id)
    .where(_MINE)
    .order_by(deliveries.c.started, deliveries.c.agent, deliveries.c.id)
)
_JOINS = select(joins).where(joins.c.correlation == bindparam("correlation")).order_by(joins.c.started, joins.c.id)


def _event(row: Row[Any]) -> EventNode:
    body = orjson.loads(row.body)
    return EventNode(
        id=row.id,
        type=row.type,
        source=body["source"],
        priority=body.get("priority", DEFAULT_PRIORITY),
        time=moment(row.time),
        recorded=moment(row.recorded),
        position=(row.tx, row.seq),
        causation=row.causation,
        delivery=row.delivery,
        targets=tuple(filter(None, (row.targets or "").split(","))),
        replay=row.replay,
    )


def _delivery(
    id: str,
    agent: str,
    outcome: str,
    attempts: int,
    started: int | None,
    ended: int | None,
    due: int | None,
    *more: Any,
) -> DeliveryNode:
    return DeliveryNode(id, agent, _OUTCOMES[outcome], attempts, _time(started), _time(ended), _time(due), *more)


def _join(row: Row[Any]) -> JoinNode:
    return JoinNode(row.id, row.name, row.event_id, moment(row.started), _time(row.ended))


def _time(at: int | None) -> datetime | None:
    return None if at is None else moment(at)


# -- settling


@dataclass(frozen=True)
class Settled:
    """Whether all that an event has caused is done; if not, what is open. Dead deliveries are done.

    Attributes:
        unsent: events that the broker does not have yet.
        timers: delayed events that are not due yet.
        deliveries: those that wait, run or are to be retried.
        undelivered: events on their way to an agent, with its name.
        joins: those that are not complete.

    """

    unsent: tuple[EventNode, ...] = ()
    timers: tuple[str, ...] = ()
    deliveries: tuple[tuple[EventNode, DeliveryNode], ...] = ()
    undelivered: tuple[tuple[EventNode, str], ...] = ()
    joins: tuple[JoinNode, ...] = ()

    def __bool__(self) -> bool:
        """Say whether nothing is open."""
        return not (self.unsent or self.timers or self.deliveries or self.undelivered or self.joins)

    def lines(self) -> list[str]:
        """Return one line for each thing that is open."""
        return [
            *(f"{event.type} {event.id} is not sent yet" for event in self.unsent),
            *(f"the delayed event {id} is not due yet" for id in self.timers),
            *(
                f"agent {delivery.agent!r} has {event.type} {event.id}: {delivery.outcome.value}"
                for event, delivery in self.deliveries
            ),
            *(f"agent {name!r} has not begun with {event.type} {event.id}" for event, name in self.undelivered),
            *(f"join {join.name!r} of {join.event} is not complete" for join in self.joins),
        ]


def settled(ledger: Ledger, event_id: str) -> Settled:
    """Say what is still open of an event and of everything it has caused.

    Raises UnknownEvent.
    """
    with _snapshot(ledger) as connection:
        correlation, known = _place(connection, event_id)
        if correlation is None:
            raise unknown_event(ledger, connection, event_id)
        if not known:
            return Settled(timers=(event_id,))
        tree = _tree(connection, correlation, event_id)
        found = list(tree)
        return Settled(
            unsent=_unsent(connection, found),
            timers=_delayed(connection, correlation, found),
            deliveries=tuple((event, each) for event in found for each in event.deliveries if each.outcome in _OPEN),
            undelivered=_undelivered(connection, found),
            joins=tuple(join for join in tree.joins if not join.ended),
        )


def settle(ledger: Ledger, event_id: str, timeout: float, interval: float = 0.05) -> Trace:
    """Wait until everything that an event has caused is done, and return its trace.

    Arguments:
        timeout: seconds.
        interval: seconds between two looks.

    Raises SettleTimeout that lists what is still open, or UnknownEvent.

    """
    if not (timeout >= 0 and interval > 0):
        raise InvalidSelection(f"timeout: {timeout!r} and interval {interval!r} must be seconds of 0 or more")
    deadline = time.monotonic() + timeout
    while not (found := settled(ledger, event_id)):
        left = deadline - time.monotonic()
        if left <= 0:
            raise SettleTimeout(_still_open(event_id, timeout, found.lines()))
        time.sleep(min(interval, left))  # between two looks: what settles is in other processes
    return trace(ledger, event_id)


def _still_open(event_id: str, timeout: float, lines: Sequence[str]) -> str:
    more = f"; and {len(lines) - _LISTED} more" if len(lines) > _LISTED else ""
    return f"after {timeout:g} s event {event_id} has not settled: {'; '.join(lines[:_LISTED])}{more}"


def _place(connection: Connection, event_id: str) -> tuple[str | None, bool]:
    """Return an event's correlation, and whether it is published: a delayed one is a timer until then."""
    correlation = connection.execute(select(events.c.correlation).where(events.c.id == event_id)).scalar()
    if correlation is not None:
        return correlation, True
    delayed = select(timers.c.correlation).where(timers.c.id == event_id, timers.c.kind == "publish")
    return connection.execute(delayed).scalar(), False


def _unsent(connection: Connection, found: Sequence[EventNode]) -> tuple[EventNode, ...]:
    ids: set[str] = set()
    for some in chunks([event.id for event in found]):
        ids.update(connection.execute(select(outbox.c.event_id).where(outbox.c.event_id.in_(some))).scalars())
    return tuple(event for event in found if event.id in ids)


def _delayed(connection: Connection, correlation: str, found: Sequence[EventNode]) -> tuple[str, ...]:
    """Return the delayed events that one of the events found has caused; retries show as deliveries."""
    query = select(timers.c.id, timers.c.body).where(timers.c.correlation == correlation, timers.c.kind == "publish")
    causes = {event.id for event in found}
    rows = connection.execute(query.order_by(timers.c.due)).all()
    return tuple(id for id, body in rows if orjson.loads(body).get("causationid") in causes)


def _undelivered(connection: Connection, found: Sequence[EventNode]) -> tuple[tuple[EventNode, str], ...]:
    """Return which agents are still to get which events.

    What lies before an agent's cursor in the log was never meant for it, or has a delivery already.
    """
    listeners = [(row, tuple(orjson.loads(row.patterns))) for row in connection.execute(select(agents))]
    missing = []
    for event in found:
        have = {delivery.agent for delivery in event.deliveries if delivery.replay is None}
        for row, patterns in listeners:
            if event.replay is not None or event.position <= (row.tx, row.seq) or row.name in have:
                continue
            if row.name in (event.targets or (row.name,)) and wants(patterns, event.type):
                missing.append((event, row.name))
    return tuple(missing)


__all__ = ["Settled", "Trace", "settle", "settled", "trace"]
