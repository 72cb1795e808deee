"""Reconciliation: which events should have reached an agent, by what it listens to, and have no delivery there.

Each agent has a cursor in the log. Whatever lies behind the cursor has a delivery row for each agent that should have
the event; what is found missing gets one that says it waits. A new agent's cursor starts where it wants to hear from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import orjson
from sqlalchemy import ColumnElement, Connection, Row, Select, delete, func, literal_column, select, tuple_, update

from ..core.announcements import ANNOUNCEMENTS
from ..core.ids import delivery_id, derived_id
from ..core.outcome import Outcome
from ..core.times import SECOND, micros, now
from .database.rows import chunks, unrouted_row, wants
from .database.tables import agents, deliveries, events
from .ledger import Ledger, read_agents

#: Events looked at in one transaction.
BATCH = 2000

Position = tuple[int, int]


def register(ledger: Ledger, wanted: Mapping[str, tuple[tuple[str, ...], datetime | int | None]]) -> None:
    """Write down what agents listen to; one that is new starts now, or in the past that it asks for.

    Arguments:
        wanted: for each agent its patterns, and since when or since which sequence number it wants events.

    """

    def work(connection: Connection) -> None:
        known = read_agents(connection)
        for name, (patterns, since) in wanted.items():
            text = orjson.dumps(patterns).decode()
            if name not in known:
                tx, seq = _start(ledger, connection, since)
                row = {"name": name, "patterns": text, "tx": tx, "seq": seq, "registered": now()}
                connection.execute(ledger.database.insert(agents).on_conflict_do_nothing(), row)
            elif known[name] != patterns:
                connection.execute(update(agents).where(agents.c.name == name).values(patterns=text))

    ledger.database.run(work)


def forget(ledger: Ledger, agent: str) -> bool:
    """Remove an agent that will never run again; nothing is kept for it any more. Say whether it was known."""
    statement = delete(agents).where(agents.c.name == agent)
    return bool(ledger.database.run(lambda connection: connection.execute(statement).rowcount))


def _start(ledger: Ledger, connection: Connection, since: datetime | int | None) -> Position:
    if since is None:
        return end_of_log(ledger, connection)
    order = (events.c.tx, events.c.seq)
    reached = events.c.seq >= since if isinstance(since, int) else events.c.time >= micros(since)
    first = connection.execute(select(*order).where(reached).order_by(*order).limit(1)).first()
    return (first.tx, first.seq - 1) if first else end_of_log(ledger, connection)


def end_of_log(ledger: Ledger, connection: Connection) -> Position:
    """Return the position after everything whose order is settled."""
    if ledger.database.is_sqlite:
        return 0, connection.execute(select(func.coalesce(func.max(events.c.seq), 0))).scalar_one()
    return connection.execute(select(literal_column(_OLDEST_OPEN))).scalar_one(), 0


#: The oldest transaction that may still write, on PostgreSQL: what is before it is in its final order.
_OLDEST_OPEN = "txid_snapshot_xmin(txid_current_snapshot())"


def stable(ledger: Ledger, query: Select[Any]) -> Select[Any]:
    """Restrict a query on events to those before which no other event can appear any more."""
    return query if ledger.database.is_sqlite else query.where(events.c.tx < literal_column(_OLDEST_OPEN))


def after(ledger: Ledger, position: Position) -> ColumnElement[bool]:
    """Return the condition that events come after a position."""
    if ledger.database.is_sqlite:  # it does not look up pairs in an index
        return (events.c.tx == 0) & (events.c.seq > position[1])
    return tuple_(events.c.tx, events.c.seq) > tuple_(*position)


def check(ledger: Ledger, after: float) -> int:
    """Move the agents' cursors on by at most BATCH events each; return how many events were looked at.

    Arguments:
        after: seconds that an event has to reach its agents by itself.

    """
    return ledger.database.run(lambda connection: _check(ledger, connection, after))


def _check(ledger: Ledger, connection: Connection, after: float) -> int:
    rows = connection.execute(select(agents).order_by(agents.c.name).with_for_update(skip_locked=True)).all()
    # Also those that another worker looks after now: what is for them has somebody who wants it.
    everyone = read_agents(connection)
    groups: dict[Position, list[Row[Any]]] = {}
    for row in rows:
        groups.setdefault((row.tx, row.seq), []).append(row)
    number = 0
    for position, members in groups.items():
        found = _after(ledger, connection, position, now() - round(after * SECOND), members)
        if not found:
            continue
        for agent in members:
            _add_missing(ledger, connection, agent, found)
        _mark_unrouted(ledger, connection, everyone, found)
        number += len(found)
        last = found[-1]
        names = [agent.name for agent in members]
        connection.execute(update(agents).where(agents.c.name.in_(names)).values(tx=last.tx, seq=last.seq))
    return number


def _after(
    ledger: Ledger, connection: Connection, position: Position, horizon: int, members: Sequence[Row[Any]]
) -> Sequence[Row[Any]]:
    # What lies before an agent's time was never sent to it, so there is nothing to wait for.
    horizon = max(horizon, *(agent.registered for agent in members))
    order = (events.c.tx, events.c.seq)
    query = select(*order, events.c.id, events.c.type, events.c.targets, events.c.recorded, events.c.replay)
    query = query.where(after(ledger, position)).order_by(*order).limit(BATCH)
    rows = connection.execute(stable(ledger, query)).all()
    for number, row in enumerate(rows):
        if row.recorded > horizon:
            return rows[:number]
    return rows


def _add_missing(ledger: Ledger, connection: Connection, agent: Row[Any], found: Sequence[Row[Any]]) -> None:
    patterns = tuple(orjson.loads(agent.patterns))
    wanted = {
        delivery_id(row.id, agent.name): row
        for row in found
        if row.replay is None and _is_for(agent.name, patterns, row)
    }
    have: set[str] = set()
    for some in chunks(list(wanted)):
        have.update(connection.execute(select(deliveries.c.id).where(deliveries.c.id.in_(some))).scalars())
    missing = {id: row for id, row in wanted.items() if id not in have}
    if missing:
        at = now()
        connection.execute(
            _insert(ledger),
            [
                {
                    "id": id,
                    "event_id": row.id,
                    "agent": agent.name,
                    "outcome": Outcome.WAITING.value,
                    # The past of a new agent is sent at once; the rest may still be on its way.
                    "due": 0 if row.recorded < agent.registered else at,
                }
                for id, row in missing.items()
            ],
        )
        for some in chunks([derived_id(row.id, "unrouted") for row in missing.values()]):
            connection.execute(delete(deliveries).where(deliveries.c.id.in_(some)))


def _mark_unrouted(
    ledger: Ledger, connection: Connection, everyone: Mapping[str, tuple[str, ...]], found: Sequence[Row[Any]]
) -> None:
    at = now()
    rows = [
        unrouted_row(row.id, at)
        for row in found
        if row.replay is None
        and not row.type.startswith(ANNOUNCEMENTS)
        and not any(_is_for(name, patterns, row) for name, patterns in everyone.items())
    ]
    have: set[str] = set()
    for some in chunks([row["id"] for row in rows]):
        have.update(connection.execute(select(deliveries.c.id).where(deliveries.c.id.in_(some))).scalars())
    rows = [row for row in rows if row["id"] not in have]
    if rows:
        connection.execute(_insert(ledger), rows)


def _insert(ledger: Ledger) -> Any:
    """Return what adds deliveries; one that a worker claims at this moment is not missing."""
    return ledger.database.insert(deliveries).on_conflict_do_nothing()


def _is_for(agent: str, patterns: tuple[str, ...], row: Row[Any]) -> bool:
    return (not row.targets or agent in row.targets.split(",")) and wants(patterns, row.type)
