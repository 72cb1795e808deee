"""Who listens: every agent that ever ran, its patterns, and how far its past was checked.

While a new version of an agent is rolled out, old and new workers share its queue. Each worker registers the patterns
of its own version, and the agent listens to what any version does that runs, or has run until a moment ago: no order of
starts, restarts and rollbacks matters.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime
from difflib import get_close_matches
from functools import lru_cache
from typing import Any, NamedTuple

import orjson
from sqlalchemy import Connection, Row, delete, select, update

from ..core.errors import nearest
from ..core.event import Event
from ..core.ids import is_sampled
from ..core.routing import needs_receiver, reaches, wants
from ..core.times import micros, monotonic, now
from .database.database import Database
from .database.rows import chunks
from .database.tables import agents, events, subscriptions
from .log import Position, end_of_log
from .workers import ALL, NO_FILTERS, Filters, Listening, Version, Workers, json, listening, running, versions_of

#: Seconds for which the list of agents is believed; a publisher asks the ledger for it no more often.
FRESH = 1.0
#: Event types of which it is remembered whether anybody listens: they are other people's words, and may be endless.
MOST_ROUTES = 10_000
#: Patterns that a line names when it says what agents listen to.
MOST_SHOWN = 8
_AGENTS = select(agents.c.name, agents.c.patterns)

Patterns = tuple[str, ...]
#: What an agent registers: its patterns, and since when (or since which sequence number) it wants events.
Wanted = Mapping[str, tuple[Patterns, datetime | int | None]]
#: Whether one of some filters (a JSON list) may want an event, by its type and its body. Who knows filters is above.
Wants = Callable[[str, str, str], bool]


def patterns_of(text: str) -> Patterns | None:
    """Return what an agent's row says that it listens to; None when the row is damaged, until its worker starts."""
    try:
        patterns = orjson.loads(text)
    except (ValueError, TypeError):
        return None
    is_right = isinstance(patterns, list) and all(isinstance(pattern, str) for pattern in patterns)
    return tuple(patterns) if is_right else None


class Asked(NamedTuple):
    """An event of which an agent has no delivery."""

    id: str
    type: str
    targets: Sequence[str]


class Listener(NamedTuple):
    """An agent as its row says it.

    Attributes:
        filters: a JSON list of what the filters of those versions say that run; ALL where one wants all.
        position: how far reconciliation has seen to it that it has its deliveries.

    """

    name: str
    patterns: Patterns
    filters: str
    position: Position

    def hears(self, event_type: str, targets: Sequence[str]) -> bool:
        """Say whether it gets an event, unless its filter keeps that back."""
        return reaches(self.name, self.patterns, event_type, targets)


class Subscribers:
    """The agents' table.

    Arguments:
        wants: asks agents' filters.

    """

    def __init__(self, database: Database, workers: Workers, wants: Wants) -> None:
        self._database = database
        self._workers = workers
        self._wants = wants
        self._patterns: dict[str, Patterns] = {}
        self._routes: dict[str, bool] = {}
        self._asked = 0.0

    def register(
        self,
        subscriptions: Wanted,
        worker: str | None = None,
        filters: Filters = NO_FILTERS,
        about: Mapping[str, Any] | None = None,
    ) -> None:
        """Write down what agents listen to; one that is new starts now, or in the past that it asks for.

        Arguments:
            worker: who runs them, and lives.
            filters: what the filters of those say that have one (JSON data).
            about: what the worker says of itself (JSON data).

        """
        own = {name: patterns for name, (patterns, _) in subscriptions.items()}

        def work(connection: Connection) -> None:
            if worker is not None:
                self._workers.beat(connection, worker, own, filters, about)
            known, change = self._changes(connection, own, filters)
            for name, (patterns, since) in subscriptions.items():
                if name not in known:
                    tx, seq = self._start(connection, since)
                    text = json(patterns)
                    row = {"name": name, "patterns": text, "bound": text, "tx": tx, "seq": seq, "registered": now()}
                    row["filters"] = json([filters[name]]) if name in filters else ALL
                    connection.execute(self._database.insert(agents).on_conflict_do_nothing(), row)
            if change:  # seldom: only then others have to wait, and what they have registered is read once more
                _, change = self._changes(connection, own, filters, lock=True)
            for name, values in change.items():
                connection.execute(update(agents).where(agents.c.name == name).values(values))

        self._database.run(work)

    def identify(self, dids: Mapping[str, str]) -> None:
        """Write down the dids of agents that are registered; one that another agent had is its no longer.

        For workers that start, not for those that live: of two versions with different dids the newer one is right.
        """

        def work(connection: Connection) -> None:
            for name, did in sorted(dids.items()):
                others = update(agents).where(agents.c.did == did, agents.c.name != name).values(did=None)
                connection.execute(others)
                connection.execute(update(agents).where(agents.c.name == name).values(did=did))

        if dids:
            self._database.run(work)

    def named(self, dids: Sequence[str], connection: Connection | None = None) -> dict[str, str]:
        """Return the names of the agents that have some dids, by those that anybody has.

        Arguments:
            connection: somebody's open transaction, which is read in instead of another one.

        """
        query = select(agents.c.did, agents.c.name).where(agents.c.did.in_(dids))

        def work(own: Connection) -> dict[str, str]:
            return {row.did: row.name for row in own.execute(query)}

        return self._database.read(work) if connection is None else work(connection)

    def _changes(
        self, connection: Connection, own: Listening, filters: Filters, *, lock: bool = False
    ) -> tuple[set[str], dict[str, dict[str, Any]]]:
        """Return which of some agents are known, and what changes about them by a registration."""
        query = select(agents).where(agents.c.name.in_(own)).order_by(agents.c.name)
        rows = connection.execute(query.with_for_update() if lock else query).all()
        versions, alive = listening(connection), running(connection)
        changes = {row.name: _changed(row, [own[row.name], *_of(row.name, versions)]) for row in rows}
        for row in rows:
            now_filtered = _filters(filters.get(row.name), versions_of(row.name, alive))
            if now_filtered != row.filters:
                changes[row.name]["filters"] = now_filtered
        return {*changes}, {name: values for name, values in changes.items() if values}

    def is_wanted(self, agent: str, event_type: str) -> bool:
        """Say whether a version of an agent listens to a type that runs, or has run until a moment ago."""
        with self._database.reading() as connection:
            patterns = [*_of(agent, listening(connection)), *(one.patterns for one in _declared(connection, [agent]))]
        return any(wants(some, event_type) for some in patterns)

    def versions(self, names: Collection[str]) -> list[Mapping[str, Version]]:
        """Return what each version of some agents wants that runs now, by the agents.

        Of one that the ledger declares there is that version: workers which do not know it yet soon will.
        """

        def work(connection: Connection) -> list[Mapping[str, Version]]:
            declared = ({one.name: Version(one.patterns, one.filters)} for one in _declared(connection, names))
            return [*running(connection), *declared]

        return self._database.read(work)

    # -- those that the ledger declares

    def declare(
        self, connection: Connection, name: str, patterns: Patterns, since: datetime | int | None, filters: str
    ) -> bool:
        """Write down an agent that no worker registers; say whether its name was free."""
        tx, seq = self._start(connection, since)
        text = json(patterns)
        row = {"name": name, "patterns": text, "bound": text, "tx": tx, "seq": seq, "registered": now()}
        insert = self._database.insert(agents).on_conflict_do_nothing().returning(agents.c.name)
        return connection.execute(insert, {**row, "filters": filters}).first() is not None

    def redeclare(self, connection: Connection, name: str, patterns: Patterns, filters: str) -> None:
        """Write down what such an agent listens to from now on."""
        row = connection.execute(select(agents).where(agents.c.name == name).with_for_update()).first()
        if row is not None:
            changed = {**_changed(row, [patterns]), "filters": filters}
            connection.execute(update(agents).where(agents.c.name == name).values(changed))

    def undeclare(self, connection: Connection, name: str) -> Patterns:
        """Remove such an agent, and return to what its queue may be bound."""
        bound = connection.execute(delete(agents).where(agents.c.name == name).returning(agents.c.bound)).scalar()
        return patterns_of(bound or "[]") or ()

    @staticmethod
    def listeners(connection: Connection, unreadable: Patterns = ()) -> list[Listener]:
        """Return every agent that the ledger knows.

        Arguments:
            unreadable: the patterns of those whose row is damaged.

        """
        rows = connection.execute(select(agents).order_by(agents.c.name))
        return [listener_of(row, patterns_of(row.patterns) or unreadable) for row in rows]

    def kept_back(
        self, connection: Connection, listener: Listener, asked: Iterable[Asked], *, recorded: bool = True
    ) -> set[str]:
        """Return those of some events that no version of an agent wants, and of which not even that is to be recorded.

        They have no delivery, and are not on their way to one.

        Arguments:
            asked: events that the agent hears.
            recorded: whether what is to be recorded is left out.

        """
        if listener.filters == ALL:
            return set()
        share = _recorded(listener.filters) if recorded else 0.0
        unknown = [one.id for one in asked if not one.targets and not is_sampled(one.id, share)]
        found: set[str] = set()
        for some in chunks(unknown):
            bodies = select(events.c.id, events.c.type, events.c.body).where(events.c.id.in_(some))
            rows = connection.execute(bodies)
            found.update(id for id, type, body in rows if not self._wants(listener.filters, type, body))
        return found

    def left_over(self, names: Iterable[str]) -> dict[str, Patterns]:
        """Return the patterns to which the queues of some agents may be bound, and which no version listens to."""
        query = select(agents.c.name, agents.c.patterns, agents.c.bound).where(agents.c.name.in_(list(names)))
        with self._database.reading() as connection:
            rows = connection.execute(query.where(agents.c.bound != agents.c.patterns)).all()
        left = {row.name: _without(row.bound, patterns_of(row.patterns) or ()) for row in rows}
        return {name: patterns for name, patterns in left.items() if patterns}

    def unbound(self, agent: str, patterns: Patterns) -> None:
        """Note that an agent's queue is no longer bound to some patterns."""
        this = agents.c.name == agent

        def work(connection: Connection) -> None:
            row = connection.execute(select(agents).where(this).with_for_update()).first()
            if row is not None:
                wanted = patterns_of(row.patterns) or ()
                bound = _without(row.bound, [one for one in patterns if one not in wanted])
                connection.execute(update(agents).where(this).values(bound=json(bound)))

        self._database.run(work)

    def forget(self, agent: str) -> bool:
        """Remove an agent that will never run again; nothing is kept for it any more. Say whether it was known."""
        statement = delete(agents).where(agents.c.name == agent)
        return bool(self._database.run(lambda connection: connection.execute(statement).rowcount))

    def _start(self, connection: Connection, since: datetime | int | None) -> Position:
        if since is None:
            return end_of_log(self._database, connection)
        order = (events.c.tx, events.c.seq)
        reached = events.c.seq >= since if isinstance(since, int) else events.c.time >= micros(since)
        first = connection.execute(select(*order).where(reached).order_by(*order).limit(1)).first()
        return (first.tx, first.seq - 1) if first else end_of_log(self._database, connection)

    @staticmethod
    def read(connection: Connection) -> dict[str, Patterns]:
        """Return the patterns of every agent that the ledger knows, and whose row can be read."""
        known = {name: patterns_of(text) for name, text in connection.execute(_AGENTS).fetchall()}
        return {name: patterns for name, patterns in known.items() if patterns is not None}

    def all(self) -> dict[str, Patterns]:
        """Return the patterns of every agent that the ledger knows, as they are now."""
        with self._database.reading() as connection:
            return self.read(connection)

    def known(self, connection: Connection | None = None, *, fresh: bool = False) -> dict[str, Patterns]:
        """Return every agent's patterns, as the ledger knew them at most FRESH seconds ago.

        Arguments:
            connection: somebody's open transaction, which is read in instead of another one.

        """
        if fresh or monotonic() - self._asked > FRESH:
            self._patterns = self._database.read(self.read) if connection is None else self.read(connection)
            self._routes = {}
            self._asked = monotonic()
        return self._patterns

    def miss(self, event: Event, connection: Connection | None = None) -> bool:
        """Say whether no known agent gets an event that needs somebody who does."""
        listeners = self.known(connection)
        if event.targets:
            return not any(name in listeners for name in event.targets)
        missed = self._routes.get(event.type)
        if missed is None:
            reached = any(reaches(name, patterns, event.type) for name, patterns in listeners.items())
            missed = needs_receiver(event.type) and not reached
            if len(self._routes) < MOST_ROUTES:
                self._routes[event.type] = missed
        return missed

    def why_missed(self, event: Event) -> str:
        """Return what to tell somebody whose event nobody gets."""
        known = self.known()
        if not known:
            return (
                "no agent has ever run on it. Start a worker, to which `pipeline unrouted --replay` then gives the "
                "event; if one runs already, let both use the same PIPELINE_DIRECTORY and PIPELINE_LEDGER_URL"
            )
        if event.targets:
            return "none of its targets is there any more"
        patterns = sorted({pattern for patterns in known.values() for pattern in patterns})
        near = get_close_matches(event.type, [one for one in patterns if not {"*", "#"} & {*one}], n=1)
        if near:
            return f"did you mean {near[0]!r}? The event is kept all the same; `pipeline unrouted` lists it"
        some = ", ".join(patterns[:MOST_SHOWN]) + (" ..." if len(patterns) > MOST_SHOWN else "")
        return f"agents listen to {some}; `pipeline unrouted --replay` gives it to those that listen by then"

    def unknown(self, names: Sequence[str], connection: Connection | None = None) -> str:
        """Return what to tell somebody who named agents that have never run; nothing when all are known."""
        known = self.known(connection)
        if any(name not in known for name in names):
            known = self.known(connection, fresh=True)
        return "; ".join(f"no agent is called {name!r}; {nearest(name, known)}" for name in names if name not in known)


def _declared(connection: Connection, names: Collection[str]) -> list[Listener]:
    """Return those of some agents whose declaration stands in the ledger."""
    mine = select(agents).join(subscriptions, subscriptions.c.id == agents.c.name)
    rows = connection.execute(mine.where(subscriptions.c.removed.is_(None), agents.c.name.in_(names)))
    return [listener_of(row, patterns_of(row.patterns) or ()) for row in rows]


def listener_of(row: Row[Any], patterns: Patterns) -> Listener:
    """Return an agent as its row says it, but for the patterns, which were read already."""
    return Listener(row.name, patterns, row.filters, (row.tx, row.seq))


@lru_cache(maxsize=256)
def _recorded(filters: str) -> float:
    """Return of which share of the events that some versions keep back that is recorded by one of them."""
    try:
        return max((float(one["recorded"]) for one in orjson.loads(filters)), default=1.0)
    except (ValueError, TypeError, KeyError):  # damaged, until its worker is heard of again
        return 1.0


def _filters(own: Any, versions: Iterable[Version]) -> str:
    """Return what the filters of an agent's versions say: nothing where one of them has none."""
    said = {ALL if own is None else json([own]), *(version.filters for version in versions)}
    return ALL if ALL in said else json([one for text in sorted(said) for one in orjson.loads(text)])


def _of(agent: str, versions: Iterable[Listening]) -> list[Sequence[str]]:
    return [version[agent] for version in versions if agent in version]


def _changed(row: Row[Any], versions: Sequence[Sequence[str]]) -> dict[str, Any]:
    """Return what changes about an agent that has these versions, the own one first."""
    wanted = {one for version in versions for one in version}
    was = {*(patterns_of(row.bound) or ())}
    bound = was | wanted
    if wanted == {*(patterns_of(row.patterns) or ())} and bound == was:
        return {}
    patterns = json([*versions[0], *sorted(wanted - {*versions[0]})])
    # In the order of the patterns when they are the same, so that a query can compare both.
    return {"patterns": patterns, "bound": patterns if bound == wanted else json(sorted(bound))}


def _without(text: str, patterns: Iterable[str]) -> Patterns:
    return tuple(one for one in patterns_of(text) or () if one not in patterns)
