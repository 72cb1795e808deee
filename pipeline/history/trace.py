"""Traces: what an event has caused, as a tree."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, bindparam, select

from ..core.event import DEFAULT_PRIORITY, Encoded
from ..core.outcome import Outcome
from ..core.times import moment
from ..ledger.aside import read
from ..ledger.database.tables import deliveries, events, flows
from ..ledger.database.waiting import steps
from ..ledger.ledger import Ledger
from ..ledger.log import in_order
from .events import unknown_event
from .tree import DeliveryNode, EventNode, FlowNode, StepNode, Trace

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
        first = connection.execute(select(events.c.seq).where(events.c.correlation == id).limit(1)).first()
        if first is None:
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


#: By the delivery's id: the event that it is of, and the delivery.
_Emitters = dict[str, tuple[EventNode, DeliveryNode]]


def tree_of(connection: Connection, correlation: str, top: str | None) -> Trace:
    """Return the events of a correlation as a tree, or what is under one of them."""
    mine = {"correlation": correlation}
    nodes = {row.id: _event(row) for row in connection.execute(_EVENTS, mine)}
    given = {event.given: event for event in nodes.values()}
    emitters: _Emitters = {}
    for event_id, *columns in connection.execute(_DELIVERIES, mine):
        delivery = _delivery(*columns)
        emitters[delivery.id] = nodes[event_id], delivery
    for id, name, number, started, ended in connection.execute(_STEPS, mine):
        emitters[id][1].steps.append(StepNode(name, number, moment(started), moment(ended)))
    _hang_deliveries(emitters)
    roots = _hang_events(nodes, emitters, {**given, **nodes})
    tree = Trace(correlation, roots if top is None else [nodes[top]], [])
    within = {event.id for event in tree}
    started = [_flow(row) for row in connection.execute(_FLOWS, mine) if row.event_id in within]
    return replace(tree, flows=started)


def _hang_deliveries(emitters: _Emitters) -> None:
    """Hang each delivery under its event; that no agent listened is left out where one has come after all."""
    routed = {event.id for event, delivery in emitters.values() if delivery.outcome != Outcome.UNROUTED}
    for event, delivery in emitters.values():
        if delivery.outcome != Outcome.UNROUTED or event.id not in routed:
            event.children.append(delivery)


def _hang_events(nodes: dict[str, EventNode], emitters: _Emitters, causes: dict[str, EventNode]) -> list[EventNode]:
    """Hang each event under the delivery that emitted it, else under the event that caused it; return the others."""
    homes: dict[str, tuple[EventNode | None, DeliveryNode | None]] = {}
    for event in nodes.values():
        homes[event.id] = emitters.get(event.delivery or "") or (causes.get(event.causation or ""), None)
    first_of_circle = _first_of_circles({id: parent.id if parent else None for id, (parent, _) in homes.items()})
    roots = []
    for event in nodes.values():
        parent, emitter = homes[event.id]
        if parent is None or event.id in first_of_circle:
            roots.append(event)
        else:
            event.parent = parent
            (emitter or parent).children.append(event)
    return roots


def _first_of_circles(parents: dict[str, str | None]) -> set[str]:
    """Return the first event of each circle: other programs may publish events that cause each other."""
    order = {id: number for number, id in enumerate(parents)}
    seen: set[str] = set()
    firsts = set()
    for id in parents:
        way: list[str] = []
        at: str | None = id
        while at is not None and at not in seen:
            seen.add(at)
            way.append(at)
            at = parents[at]
        if at in way:
            firsts.add(min(way[way.index(at) :], key=order.__getitem__))
    return firsts


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
        *(deliveries.c[name] for name in ("started", "ended", "due", "worker", "error", "replay", "flow")),
    )
    .join(events, events.c.id == deliveries.c.event_id)
    .where(_MINE)
    .order_by(deliveries.c.started, deliveries.c.agent, deliveries.c.id)
)
_STEPS = (
    select(*(steps.c[name] for name in ("delivery", "name", "number", "started", "ended")))
    .join(deliveries, deliveries.c.id == steps.c.delivery)
    .join(events, events.c.id == deliveries.c.event_id)
    .where(_MINE)
    .order_by(steps.c.started, steps.c.name, steps.c.number)
)
_FLOWS = select(flows).where(flows.c.correlation == bindparam("correlation")).order_by(flows.c.started, flows.c.id)


def _event(row: Row[Any]) -> EventNode:
    found = read(row.id, row.body)
    event = found.event if isinstance(found, Encoded) else None  # one that is damaged has its place all the same
    return EventNode(
        id=row.id,
        type=row.type,
        source=event.source if event else "?",
        priority=event.priority if event else DEFAULT_PRIORITY,
        time=moment(row.time),
        recorded=moment(row.recorded),
        position=(row.tx, row.seq),
        causation=row.causation,
        delivery=row.delivery,
        targets=tuple(filter(None, (row.targets or "").split(","))),
        replay=row.replay,
        given=event.id if event else row.id,
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
    return DeliveryNode(id, agent, _OUTCOMES[outcome], attempts, _time(started), _time(ended), _due(due), *more)


def _flow(row: Row[Any]) -> FlowNode:
    times = moment(row.started), _time(row.ended), _time(row.due)
    return FlowNode(row.id, row.name, row.kind, row.status, row.event_id, *times, row.reason)


def _due(at: int | None) -> datetime | None:
    """Return when a delivery is due; None for one that is sent at once, or is being sent."""
    return None if at is None or at <= 0 else moment(at)


def _time(at: int | None) -> datetime | None:
    return None if at is None else moment(at)
