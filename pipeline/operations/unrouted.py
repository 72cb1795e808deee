"""Events that no agent listened to when they came: looked at, and given to the agents that listen by now."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from sqlalchemy import Connection, Row, Select, select

from ..core.event import Payload
from ..core.routing import pattern_of, receivers, targets_of
from ..core.topics import matches
from ..history.events import Recorded, readable
from ..ledger.database.tables import deliveries, events
from ..ledger.deliveries import UNROUTED
from ..ledger.ledger import Ledger
from ..ledger.log import COLUMNS
from ..ledger.status import NOBODY_HAD_IT

#: Events that are read or routed at once.
BATCH = 200


_UNROUTED: Select[Any] = (
    select(*COLUMNS, events.c.targets).join(deliveries, deliveries.c.event_id == events.c.id).where(UNROUTED)
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
    query = _UNROUTED.where(NOBODY_HAD_IT).order_by(events.c.seq.desc()).limit(BATCH)
    page: list[Recorded] = []
    while len(page) < limit:
        with ledger.database.reading() as connection:
            rows = connection.execute(query if after is None else query.where(events.c.seq < after)).all()
        page += readable(row for row in rows if pattern is None or matches(pattern, row.type))
        if len(rows) < BATCH:
            break
        after = rows[-1].seq
    return page[: max(limit, 0)]


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
        # By what the row says: an event that cannot be read ends as a dead letter of each of its agents.
        chosen = [row for row in rows if pattern is None or matches(pattern, row.type)]
        number += ledger.database.run(partial(_route, ledger=ledger, chosen=chosen))
        if progress:
            progress(number)


def _route(connection: Connection, ledger: Ledger, chosen: Sequence[Row[Any]]) -> int:
    """Give events to the agents that listen to them now, and return how many had one."""
    listeners = ledger.subscribers.read(connection)
    agents = {row.id: receivers(listeners, row.type, targets_of(row.targets)) for row in chosen}
    taken = ledger.deliveries.take_unrouted(connection, [id for id, names in agents.items() if names])
    ledger.deliveries.add_waiting(connection, ((id, name, 0) for id in taken for name in agents[id]))
    return len(taken)
