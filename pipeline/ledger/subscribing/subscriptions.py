"""The subscriptions' table: each row is an agent, which the ledger declares instead of code.

What the row says and what the agents' table says of it change in one transaction. So the ledger knows at any time what
such an agent listens to, whichever workers run, and no worker has to register it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any, NamedTuple, TypeVar

import orjson
from sqlalchemy import Connection, Row, delete, func, select, update

from ...core.errors import InvalidSubscription, UnknownSubscription, nearest
from ...core.outcome import Outcome
from ...core.times import moment, now
from ..aside import Bad
from ..database.database import Database
from ..database.leases import BATCH, in_seconds
from ..database.tables import OPEN, deliveries, subscriptions, timers
from ..database.waiting import waits
from ..deliveries import Deliveries
from ..due import Due
from ..reconcile import Reconciliation
from ..subscribers import Patterns, Subscribers
from ..workers import json
from .subscription import Subscription

T = TypeVar("T")
#: Seconds for which is looked after what is left of a subscription that was removed.
LOOKED_AFTER = 86400.0
#: What waits for an agent: not what runs, which ends as it does.
WAITING = (Outcome.QUEUED.value, Outcome.RETRYING.value, Outcome.PARKED.value)
REMOVED = "subscription {} was removed: add it again under that id, and requeue this"
TAKEN = "there is a subscription {!r} already: change it, or remove it first"
IN_CODE = (
    "{0!r} is the id of an agent that is declared in code: choose another id; if that agent will never run again, "
    "`pipeline ledger forget {0}` frees its name"
)
_OPEN = [column for column in subscriptions.c if column.name != "secret"]


class Removed(NamedTuple):
    """What was removed.

    Attributes:
        bound: the patterns to which its queue may be bound.
        dead: deliveries that waited, and are dead letters now.

    """

    id: str
    bound: Patterns
    dead: int


class Subscriptions:
    """The subscriptions' table."""

    def __init__(
        self,
        database: Database,
        subscribers: Subscribers,
        deliveries: Deliveries,
        due: Due,
        reconciliation: Reconciliation,
    ) -> None:
        self._database = database
        self._subscribers = subscribers
        self._deliveries = deliveries
        self._due = due
        self._reconciliation = reconciliation

    def version(self) -> int:
        """Return a number that is another one after each change: a short query, as each worker asks it all the time."""
        query = select(func.coalesce(func.sum(subscriptions.c.version), 0))
        return int(self._database.read(lambda connection: connection.execute(query).scalar_one()))

    def all(self, *, secrets: bool = False) -> list[Subscription]:
        """Return those that are in force, by their ids; their secrets only for those who make calls."""
        query = select(*(subscriptions.c if secrets else _OPEN)).where(subscriptions.c.removed.is_(None))
        rows = self._database.read(lambda connection: connection.execute(query.order_by(subscriptions.c.id)).all())
        return [_subscription(row) for row in rows]

    def get(self, id: str, *, secrets: bool = False) -> Subscription:
        """Return one; raise UnknownSubscription when there is none."""
        query = select(*(subscriptions.c if secrets else _OPEN)).where(subscriptions.c.id == id)
        row = self._database.read(lambda connection: connection.execute(query).first())
        if row is None or row.removed is not None:
            raise UnknownSubscription(f"there is no subscription {id!r}; {nearest(id, [one.id for one in self.all()])}")
        return _subscription(row)

    def check_free(self, id: str) -> None:
        """Raise InvalidSubscription when an id is taken."""
        mine = (subscriptions.c.id == id, subscriptions.c.removed.is_(None))
        if self._database.read(lambda own: own.execute(select(subscriptions.c.id).where(*mine)).first()):
            raise InvalidSubscription(TAKEN.format(id))
        if id in self._subscribers.all():
            raise InvalidSubscription(IN_CODE.format(id))

    def add(self, new: Subscription, filters: str) -> None:
        """Write down one, and its agent; raise InvalidSubscription when its id is taken.

        Arguments:
            filters: what its filter says, as the agents' table has it.

        """
        row = _row(new, first=True)
        others = {name: value for name, value in row.items() if name != "id"}
        insert = self._database.insert(subscriptions).on_conflict_do_nothing().returning(subscriptions.c.id)
        again = update(subscriptions).where(subscriptions.c.id == new.id, subscriptions.c.removed.is_not(None))
        again = again.values({**others, "version": subscriptions.c.version + 1}).returning(subscriptions.c.id)

        def work(connection: Connection) -> None:
            is_new = connection.execute(insert, row).first() is not None
            if not is_new and connection.execute(again).first() is None:
                raise InvalidSubscription(TAKEN.format(new.id))
            if not self._subscribers.declare(connection, new.id, new.on, new.since, filters):
                raise InvalidSubscription(IN_CODE.format(new.id))

        self._run(work)

    def change(self, new: Subscription, filters: str) -> bool:
        """Write down one that was read before and is another one now; say whether nobody has changed it meanwhile."""
        this = (subscriptions.c.id == new.id, subscriptions.c.version == new.version, subscriptions.c.removed.is_(None))
        row = {**_row(new, first=False), "version": new.version + 1}

        def work(connection: Connection) -> bool:
            if not connection.execute(update(subscriptions).where(*this).values(row)).rowcount:
                return False
            self._subscribers.redeclare(connection, new.id, new.on, filters)
            return True

        return self._run(work)

    def remove(self, id: str) -> Removed:
        """Remove one; what waits for it is dead then. Raises UnknownSubscription when there is none."""
        is_filtered = self.get(id).where is not None
        # Before and after: what is published in between is for nobody any more, or was found by the second look.
        self._reconciliation.finish(id)
        if is_filtered:
            self._filter_out(id)
        gone = {"removed": now(), "version": subscriptions.c.version + 1, "secret": None, "signed": False}
        this = (subscriptions.c.id == id, subscriptions.c.removed.is_(None))

        def work(connection: Connection) -> Patterns | None:
            if not connection.execute(update(subscriptions).where(*this).values(gone)).rowcount:
                return None
            self._reconciliation.finish_in(connection, id)
            return self._subscribers.undeclare(connection, id)

        bound = self._run(work)
        if bound is None:
            raise UnknownSubscription(f"subscription {id!r} was removed by somebody else just now")
        return Removed(id, bound, self.end_removed())

    def _run(self, work: Callable[[Connection], T]) -> T:
        """Change what agents listen to, and let this process know, which may publish the next moment."""
        done = self._database.run(work)
        self._subscribers.known(fresh=True)
        return done

    def removed(self) -> list[tuple[str, int]]:
        """Return what was removed lately, by id and version: queues may be left of it."""
        lately = subscriptions.c.removed > in_seconds(-LOOKED_AFTER)
        query = select(subscriptions.c.id, subscriptions.c.version).where(lately)
        return [(row.id, row.version) for row in self._database.read(lambda own: own.execute(query).all())]

    def end_removed(self) -> int:
        """Let be dead what waits for agents that were removed; return how many deliveries those were."""
        number = 0
        while done := self._database.run(self._end_some):
            number += done
        return number

    def _filter_out(self, id: str) -> None:
        """End what waits for an agent, and was found missing, and which its filter does not want."""
        last = ""

        def work(connection: Connection) -> list[str]:
            mine = (deliveries.c.agent == id, deliveries.c.outcome == Outcome.QUEUED.value, deliveries.c.id > last)
            some = select(deliveries.c.id).where(OPEN, *mine).order_by(deliveries.c.id).limit(BATCH)
            ids = list(connection.execute(some).scalars())
            self._due.wanted(connection, ids)
            return ids

        while ids := self._database.run(work):
            last = ids[-1]

    def _end_some(self, connection: Connection) -> int:
        lately = subscriptions.c.removed > in_seconds(-LOOKED_AFTER)
        waiting = select(deliveries.c.id, deliveries.c.agent).where(
            OPEN,
            deliveries.c.outcome.in_(WAITING),
            deliveries.c.agent.in_(select(subscriptions.c.id).where(lately)),
        )
        # Not in any order, which all that is left would have to be read for each time.
        rows = sorted(connection.execute(waiting.limit(BATCH)).all())
        bad = [Bad(row.id, REMOVED.format(row.agent)) for row in rows]
        dead = self._deliveries.bury(connection, bad)
        self._due.announce(connection, dead)
        for table, column in ((waits, waits.c.delivery), (timers, timers.c.id)):
            connection.execute(delete(table).where(column.in_(dead)))
        return len(dead)


def _row(one: Subscription, *, first: bool) -> dict[str, Any]:
    kept = {name: getattr(one, name) for name in ("url", "priority", "max_concurrent", "timeout", "retry")}
    about = {
        **kept,
        "patterns": json(list(one.on)),
        "filter": None if one.where is None else json(one.where),
        "signed": one.secret is not None,
        "secret": one.secret,
        "changed": now(),
    }
    if not first:
        return about
    return {"id": one.id, "since": one.since, "version": 1, "created": about["changed"], "removed": None, **about}


_SAME = {field.name for field in fields(Subscription)} - {"on", "where", "created", "changed", "secret"}


def _subscription(row: Row[Any]) -> Subscription:
    return Subscription(
        on=tuple(orjson.loads(row.patterns)),
        where=None if row.filter is None else orjson.loads(row.filter),
        created=moment(row.created),
        changed=moment(row.changed),
        secret=getattr(row, "secret", None),
        **{name: getattr(row, name) for name in _SAME},
    )
