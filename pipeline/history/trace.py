"""Traces: what an event has caused, as a tree."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import orjson
from sqlalchemy import Connection, Row, bindparam, select

from ..core.event import DEFAULT_PRIORITY
from ..core.outcome import Outcome
from ..core.times import moment
from ..ledger.database.tables import deliveries, events, joins
from ..ledger.ledger import Ledger
from ..ledger.log import in_order
from .events import unknown_event
from .tree import DeliveryNode, EventNode, JoinNode, Trace

_OUTCOMES = {outcome.value: outcome for outcome in Outcome}


def trace(ledger: Ledger, id: str) -> Trace:
    """Return the tree of what an event has caused, or of everything with one correlation id.

    Arguments:
        id: an event's id; that of the first event of a correlation stands for all of it.

    Raises UnknownEvent when the ledger knows neither.

    """
    with at_one_time(ledger) as connection:
        return _read(ledger, connection, id)


def _read(ledger: Ledger, connection: Connection, id: str) -> Trace:
    correlation = connection.execute(select(events.c.correlation).where(events.c.id == id)).scalar()
    if correlation is None:
        found = connection.execute(select(events.c.seq).where(events.c.correlation == id).limit(1)).first()
        if found is None:
            raise unknown_event(ledger, connection, id)
    return tree_of(connection, correlation or id, None if correlation in (None, id) else id)


@contextlib.contextmanager
def at_one_time(ledger: Ledger) -> Iterator[Connection]:
    """Read several tables as they were at one time."""
    with ledger.database.reading() as connection:
        if not ledger.database.is_sqlite:
            connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        yield connection


# -- the tree


def tree_of(connection: Connection, correlation: str, top: str | None) -> Trace:
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
