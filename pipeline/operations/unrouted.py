"""Events that no agent listened to when they came: looked at, and given to the agents that listen by now."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from sqlalchemy import Connection, Row, Select, func, select

from ..core.event import Payload
from ..core.outcome import Outcome
from ..core.routing import pattern_of, receivers, targets_of
from ..core.topics import matches
from ..history.events import Recorded, readable
from ..ledger.database.rows import chunks
from ..ledger.database.tables import deliveries, events
from ..ledger.deliveries import UNROUTED
from ..ledger.ledger import Ledger
from ..ledger.log import COLUMNS
from ..ledger.status import NOBODY_HAD_IT
from ..ledger.subscribers import Asked

#: Events that are read or routed at once, and that are looked through for those that everybody has filtered.
BATCH, LOOKED_AT = 200, 10_000


_UNROUTED: Select[Any] = (
    select(*COLUMNS, events.c.targets).join(deliveries, deliveries.c.event_id == events.c.id).where(UNROUTED)
)


_other = deliveries.alias()
#: No agent has done anything with the event but keep it from its handler.
_NOBODY_WANTED = events.c.replay.is_(None) & (
    ~select(_other.c.id).where(_other.c.event_id == events.c.id, _other.c.outcome != Outcome.FILTERED.value).exists()
)


def unwanted(ledger: Ledger, *, type: str | type[Payload] | None = None, limit: int = 100) -> list[Recorded]:
    """Return the events that every agent which listens to them has filtered; the newest first.

    Arguments:
        type: a topic pattern or a Payload class.
        limit: how many to return at most, of the newest LOOKED_AT events of the log.

    Raises InvalidPattern or InvalidSelection.

    """
    pattern = None if type is None else pattern_of(type)
    with ledger.database.reading() as connection:
        last = connection.execute(select(func.max(events.c.seq))).scalar() or 0
        query = select(*COLUMNS, events.c.targets).where(_NOBODY_WANTED, events.c.seq > last - LOOKED_AT)
        rows = connection.execute(query.order_by(events.c.seq.desc())).all()
        rows = [row for row in rows if pattern is None or matches(pattern, row.type)]
        have: set[tuple[str, str]] = set()
        for some in chunks([row.id for row in rows]):
            theirs = select(deliveries.c.event_id, deliveries.c.agent).where(deliveries.c.event_id.in_(some))
            have.update((event, agent) for event, agent in connection.execute(theirs))
        kept = {event for event, _ in have}
        awaited: set[str] = set()
        for listener in ledger.subscribers.listeners(connection):
            asked = [
                Asked(row.id, row.type, targets_of(row.targets)) for row in rows if (row.id, listener.name) not in have
            ]
            heard = [one for one in asked if listener.hears(one.type, one.targets)]
            kept_back = ledger.subscribers.kept_back(connection, listener, heard)
            kept |= kept_back
            # An agent without a row has the event still in its queue, unless what it filters is not recorded.
            awaited.update(one.id for one in heard if one.id not in kept_back)
    unwanted: list[Any] = [row for row in rows if row.id in kept and row.id not in awaited]
    return list(readable(unwanted[:limit]))


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
    ledger.deliveries.add_queued(connection, ((id, name, 0) for id in taken for name in agents[id]))
    return len(taken)
