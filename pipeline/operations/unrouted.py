"""Events that no agent listened to when they came: looked at, and given to the agents that listen by now."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from sqlalchemy import Connection, Select, delete, literal_column, select

from ..core.event import Event, Payload
from ..core.ids import delivery_id
from ..core.outcome import Outcome
from ..core.topics import matches
from ..history.events import Recorded, pattern_of, recorded
from ..ledger.database.tables import deliveries, events
from ..ledger.ledger import Ledger, read_agents
from ..ledger.log import COLUMNS
from .replay import is_for

#: Events that are read or routed at once.
BATCH = 200


# As a literal: SQLite takes the partial index only for the index's own condition.
_MARKED = deliveries.c.outcome == literal_column(f"'{Outcome.UNROUTED.value}'")
_UNROUTED: Select[Any] = select(*COLUMNS).join(deliveries, deliveries.c.event_id == events.c.id).where(_MARKED)
_other = deliveries.alias()
_NOBODY_HAD_IT = (
    ~select(_other.c.id).where(_other.c.event_id == events.c.id, _other.c.outcome != Outcome.UNROUTED.value).exists()
)


def unrouted(
    ledger: Ledger, *, type: str | type[Payload] | None = None, limit: int = 100, after: int | None = None
) -> list[Recorded]:
    """Return the events that no agent listened to, and that nobody was given since; the newest first.

    Arguments:
        type: a topic pattern or a Payload class.
        limit: how many to return at most.
        after: the sequence number of the last one of the page before.

    Raises InvalidPattern or InvalidSelection.

    """
    pattern = None if type is None else pattern_of(type)
    query = _UNROUTED.where(_NOBODY_HAD_IT).order_by(events.c.seq.desc()).limit(BATCH)
    found: list[Recorded] = []
    while len(found) < limit:
        with ledger.database.reading() as connection:
            rows = connection.execute(query if after is None else query.where(events.c.seq < after)).all()
        found += [recorded(row) for row in rows if pattern is None or matches(pattern, row.type)]
        if len(rows) < BATCH:
            break
        after = rows[-1].seq
    return found[: max(limit, 0)]


def replay_unrouted(
    ledger: Ledger, *, type: str | type[Payload] | None = None, progress: Callable[[int], None] | None = None
) -> int:
    """Deliver the events that no agent listened to when they came to those agents that do now, as ordinary events.

    Arguments:
        type: a topic pattern or a Payload class; default all of them.
        progress: called with the number of events so far, after each batch.

    Returns the number of events; the workers' sweepers send them within a second. Raises InvalidPattern.

    """
    pattern = None if type is None else pattern_of(type)
    query = _UNROUTED.order_by(events.c.seq).limit(BATCH)
    number, place = 0, 0
    while True:
        with ledger.database.reading() as connection:
            rows = connection.execute(query.where(events.c.seq > place)).all()
        if not rows:
            return number
        place = rows[-1].seq
        chosen = [recorded(row).event for row in rows if pattern is None or matches(pattern, row.type)]
        number += ledger.database.run(partial(_route, ledger=ledger, chosen=chosen))
        if progress:
            progress(number)


def _route(connection: Connection, ledger: Ledger, chosen: Sequence[Event]) -> int:
    """Give events to the agents that listen to them now, and return how many had one."""
    known = read_agents(connection)
    agents = {event.id: [name for name, patterns in known.items() if is_for(name, patterns, event)] for event in chosen}
    routed = [id for id, names in agents.items() if names]
    if not routed:
        return 0
    marks = deliveries.c.event_id.in_(routed), _MARKED
    # Who deletes the mark writes the deliveries: of two who do this at once, each event has one.
    mine = list(connection.execute(delete(deliveries).where(*marks).returning(deliveries.c.event_id)).scalars())
    rows = [_waiting(id, name) for id in mine for name in agents[id]]
    if rows:
        connection.execute(ledger.database.insert(deliveries).on_conflict_do_nothing(), rows)
    return len(mine)


def _waiting(event_id: str, agent: str) -> dict[str, Any]:
    """Return the row of a delivery that the next sweep sends."""
    row = {"id": delivery_id(event_id, agent), "event_id": event_id, "agent": agent}
    return {**row, "outcome": Outcome.WAITING.value, "due": 0}
