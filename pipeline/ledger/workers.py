"""Which workers live, and what each of them runs: each says so every few seconds, and when it ends."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import orjson
from sqlalchemy import Connection, delete, select, update

from ..core.times import SECOND, now
from .database.database import Database
from .database.rows import DEAD_AFTER, GONE_AFTER
from .database.tables import workers

#: Seconds after which a worker that has not been seen is forgotten.
FORGOTTEN_AFTER = 86400

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


class Workers:
    """The workers' table."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def heartbeat(self, worker: str, agents: Listening | None = None) -> None:
        """Note that a worker lives, and what it listens to."""
        self._database.run(lambda connection: self.beat(connection, worker, agents or {}))

    def beat(self, connection: Connection, worker: str, agents: Listening, filters: Filters = NO_FILTERS) -> None:
        """Do what heartbeat() does, in somebody's transaction, and note what the agents filter."""
        insert = self._database.insert(workers)
        update = {name: insert.excluded[name] for name in ("seen", "agents", "filters")}
        row = {"id": worker, "seen": now(), "agents": json(agents), "filters": json(dict(filters))}
        connection.execute(insert.on_conflict_do_update(index_elements=["id"], set_=update), row)
        connection.execute(delete(workers).where(workers.c.seen < now() - FORGOTTEN_AFTER * SECOND))

    def leave(self, worker: str) -> None:
        """Note that a worker has ended; what it has listened to is known for a while: its version may come back."""
        dead = now() - round(DEAD_AFTER * SECOND)
        statement = update(workers).where(workers.c.id == worker, workers.c.seen > dead).values(seen=dead)
        self._database.run(lambda connection: connection.execute(statement))


def listening(connection: Connection) -> list[Listening]:
    """Return what each version listens to that runs, or has run until GONE_AFTER seconds ago."""
    recent = select(workers.c.agents).where(workers.c.seen > now() - round(GONE_AFTER * SECOND)).distinct()
    return [agents for text in connection.execute(recent).scalars() if (agents := _agents_in(text)) is not None]


def running(connection: Connection) -> list[Mapping[str, Version]]:
    """Return what each version wants that runs now, by its agents."""
    alive = select(workers.c.agents, workers.c.filters).where(workers.c.seen > now() - round(DEAD_AFTER * SECOND))
    return [_version_in(*row) for row in connection.execute(alive.distinct())]


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
