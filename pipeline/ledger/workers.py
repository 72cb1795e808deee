"""Which workers live, and what each of them runs: each says so every few seconds, and when it ends.

All times are the database's, so that it does not matter what the clocks of the workers' machines say.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson
from sqlalchemy import Connection, Row, and_, case, delete, select, update

from .database.database import Database
from .database.leases import ago, clock, lives
from .database.rows import DEAD_AFTER, GONE_AFTER
from .database.tables import agents, workers

if TYPE_CHECKING:
    from ..core.event import Encoded

#: Seconds after which a worker that has not been seen is forgotten.
FORGOTTEN_AFTER = 86400

#: Seconds between two heartbeats of a worker, more than two of which are a silence.
HEARTBEAT = 5.0
SILENT = 2.5 * HEARTBEAT
#: What a worker listens to: its agents, each with the patterns of the worker's own version.
Listening = Mapping[str, Sequence[str]]
#: What the filters of a worker's agents say, of those that have one, as JSON data that this room does not read.
Filters = Mapping[str, Any]
#: What no filter is, as JSON: the version wants all that its patterns match.
ALL = "[]"
NO_FILTERS: Filters = MappingProxyType({})


class Version(NamedTuple):
    """What a version of an agent wants.

    Attributes:
        filters: a JSON list of what its filter says; ALL where it has none.

    """

    patterns: Sequence[str]
    filters: str


class Seen(NamedTuple):
    """A worker as its row says it; times in microseconds since 1970, on the database's clock.

    Attributes:
        seen: when it was last heard of.
        beats: how often it was heard of since it was last silent.
        leaves: when it began to stop, or None.
        ended: when it had ended, or None.
        agents: what it runs.
        about: what it says of itself.

    """

    id: str
    seen: int
    beats: int
    leaves: int | None
    ended: int | None
    agents: frozenset[str]
    about: Mapping[str, Any]


class Roll(NamedTuple):
    """Who is there, at a time (microseconds).

    Attributes:
        workers: those of the last day.
        agents: each with when it was last heard of, if it is suspected to have failed.

    """

    at: int
    workers: Sequence[Seen]
    agents: Mapping[str, int | None]


class Workers:
    """The workers' table.

    Arguments:
        append: writes events into the log.

    """

    def __init__(self, database: Database, append: Callable[..., object]) -> None:
        self._database = database
        self._append = append

    def heartbeat(self, worker: str, agents: Listening | None = None) -> None:
        """Note that a worker lives, and what it listens to."""
        self._database.run(lambda connection: self.beat(connection, worker, agents or {}))

    def beat(
        self,
        connection: Connection,
        worker: str,
        agents: Listening,
        filters: Filters = NO_FILTERS,
        about: Mapping[str, Any] | None = None,
    ) -> None:
        """Do what heartbeat() does, in somebody's transaction.

        Arguments:
            filters: what the agents filter.
            about: what the worker says of itself (JSON data).

        """
        said = {"agents": json(agents), "filters": json(dict(filters)), "about": json(dict(about or {}))}
        insert = self._database.insert(workers).values(id=worker, seen=clock(), **said)
        update = {name: insert.excluded[name] for name in ("seen", *said)}
        update["beats"] = case((workers.c.seen > ago(SILENT), workers.c.beats + 1), else_=1)
        connection.execute(insert.on_conflict_do_update(index_elements=["id"], set_=update))
        connection.execute(delete(workers).where(workers.c.seen < ago(FORGOTTEN_AFTER)))

    def drain(self, worker: str, announced: Sequence[Encoded] = ()) -> None:
        """Note that a worker takes nothing new, and publish that; what it has taken goes on."""

        def work(connection: Connection) -> None:
            connection.execute(update(workers).where(workers.c.id == worker).values(leaves=clock()))
            self._append(announced, due_in=0, connection=connection)

        self._database.run(work)

    def leave(self, worker: str) -> None:
        """Note that a worker has ended; what it has listened to is known for a while: its version may come back."""
        dead = case((lives(), ago(DEAD_AFTER)), else_=workers.c.seen)
        this = and_(workers.c.id == worker, workers.c.ended.is_(None))
        statement = update(workers).where(this).values(seen=dead, ended=clock())
        self._database.run(lambda connection: connection.execute(statement))

    def running(self) -> list[Mapping[str, Version]]:
        """Return what each version wants that runs now, by its agents."""
        return [_version_in(*row) for row in self._database.fast.rows((_RUNNING, {}))]

    def roll(self) -> Roll:
        """Return who is there."""

        def work(connection: Connection) -> Roll:
            rows = [_seen(row) for row in connection.execute(select(workers))]
            known = {row.name: row.suspected for row in connection.execute(select(agents.c.name, agents.c.suspected))}
            return Roll(int(connection.execute(select(clock())).scalar_one()), rows, known)

        return self._database.read(work)

    def suspect(self, agent: str, seen: int, announced: Encoded) -> bool:
        """Note that all workers of an agent may have failed, and publish that; say whether it was not known."""
        return self._change(agent, agents.c.suspected.is_(None), seen, announced)

    def clear(self, agent: str, announced: Encoded | None = None) -> bool:
        """Note that an agent is there again, or gone for good, and publish the former; say whether it was suspected."""
        return self._change(agent, agents.c.suspected.is_not(None), None, announced)

    def _change(self, agent: str, was: Any, suspected: int | None, announced: Encoded | None) -> bool:
        statement = update(agents).where(agents.c.name == agent, was).values(suspected=suspected)

        def work(connection: Connection) -> bool:
            is_new = connection.execute(statement).rowcount > 0  # of all workers that see it, one changes it
            if is_new and announced is not None:
                self._append([announced], due_in=0, connection=connection)
            return is_new

        return self._database.run(work)


_RUNNING = select(workers.c.agents, workers.c.filters).where(lives()).distinct()


def _seen(row: Row[Any]) -> Seen:
    return Seen(row.id, row.seen, row.beats, row.leaves, row.ended, *_said(row.agents, row.about))


@lru_cache(maxsize=1024)
def _said(agents: str, text: str) -> tuple[frozenset[str], Mapping[str, Any]]:
    """Return what a worker runs, and what it says of itself: of those that have ended it is always the same."""
    found = _agents_in(agents) or {}
    try:
        about = orjson.loads(text)
    except (ValueError, TypeError):
        about = {}
    about = about if isinstance(about, dict) else {}
    return frozenset((*found, *about.get("agents", ()))), about  # also agents that the ledger declares


def listening(connection: Connection) -> list[Listening]:
    """Return what each version listens to that runs, or has run until GONE_AFTER seconds ago."""
    recent = select(workers.c.agents).where(workers.c.seen > ago(GONE_AFTER)).distinct()
    return [agents for text in connection.execute(recent).scalars() if (agents := _agents_in(text)) is not None]


def running(connection: Connection) -> list[Mapping[str, Version]]:
    """Return what each version wants that runs now, by its agents."""
    return [_version_in(*row) for row in connection.execute(_RUNNING)]


def versions_of(agent: str, running: Iterable[Mapping[str, Version]]) -> list[Version]:
    """Return what the versions of one agent want, of those that run."""
    return [version[agent] for version in running if agent in version]


@lru_cache(maxsize=64)
def _version_in(agents: str, filters: str) -> Mapping[str, Version]:
    found = _agents_in(agents) or {}
    try:
        said = orjson.loads(filters)
    except (ValueError, TypeError):
        said = None
    said = said if isinstance(said, dict) else {}
    return {name: Version(patterns, json([said[name]]) if name in said else ALL) for name, patterns in found.items()}


def json(data: Any) -> str:
    """Return JSON data as a text, the same for the same data."""
    return orjson.dumps(data, option=orjson.OPT_SORT_KEYS).decode()


def _agents_in(text: str) -> Listening | None:
    """Return what a worker's row says; None when the row is damaged, until its worker is heard of again."""
    try:
        agents = orjson.loads(text)
    except (ValueError, TypeError):
        return None
    is_right = isinstance(agents, dict) and all(isinstance(patterns, list) for patterns in agents.values())
    return agents if is_right else None


# -- the processes of this machine


@lru_cache(maxsize=64)
def process_number(pid: int) -> int:
    """Return what tells a process of this machine from every other one, also from a later one of the same id."""
    return (_started(pid) or ("", 0))[1] << 32 | pid


# A child may have the id of somebody that its parent has asked for.
os.register_at_fork(after_in_child=process_number.cache_clear)


def is_gone(process: int | None) -> bool:
    """Say whether another process of this machine has ended, by its number."""
    if process is None or process == process_number(os.getpid()):
        return False
    pid, started = process & 0xFFFFFFFF, process >> 32
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass  # somebody else's is a process too
    state, since = _started(pid) or ("", started)
    return state == "Z" or (started > 0 and since != started)


def _started(pid: int) -> tuple[str, int] | None:
    """Return a process's state and when it was started (clock ticks), or None where the system does not tell."""
    try:
        # The name before the parenthesis may hold anything, also spaces.
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        return fields[0], int(fields[19]) & 0x7FFFFFFF
    except (OSError, ValueError, IndexError):
        return None
