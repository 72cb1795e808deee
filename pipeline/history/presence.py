"""Presence: which agents are there, on which workers, how busy they are, and what they can do.

A worker says what it is with each of its heartbeats; what runs, the rows of the deliveries say. So whoever
can read the ledger knows it, a web app that runs no agent too.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from sqlalchemy import func, select

from ..contracts.capability import Capability
from ..core.errors import InvalidSelection, UnknownAgent, nearest
from ..core.outcome import Outcome
from ..core.times import SECOND, as_json_time, moment
from ..ledger.database.tables import OPEN, deliveries

if TYPE_CHECKING:
    from ..ledger.ledger import Ledger
    from ..ledger.workers import Roll, Seen


class State(StrEnum):
    """How an agent, or a worker, is."""

    ONLINE = "online"
    #: Ends what it has begun, and takes nothing new.
    DRAINING = "draining"
    #: Silent for too long, without a word of farewell.
    SUSPECTED = "suspected"
    OFFLINE = "offline"


@dataclass(frozen=True, kw_only=True)
class WorkerPresence:
    """A worker of an agent.

    Attributes:
        host, pid: where it runs; empty and None where it has not said so.
        capacity: how many of the agent's deliveries it runs at once; None for what is not known.
        memory: bytes of all its processes.

    """

    id: str
    host: str
    pid: int | None
    state: State
    last_seen: datetime
    capacity: int | None
    memory: int | None


@dataclass(frozen=True, kw_only=True)
class AgentPresence:
    """An agent, over all workers.

    Attributes:
        last_seen: when one of its workers was last heard of; None when none was in the last day.
        capacity: how many of its deliveries may run at once; None for what is not known.
        running: how many do.
        capabilities: what it can do.

    """

    agent: str
    state: State
    last_seen: datetime | None
    capacity: int | None
    running: int
    workers: tuple[WorkerPresence, ...]
    capabilities: tuple[Capability, ...] = ()

    @property
    def free(self) -> int:
        """How many more deliveries may run at once; 0 where that is not known."""
        return max((self.capacity or 0) - self.running, 0)

    @property
    def load(self) -> float:
        """How busy it is, from 0 to 1."""
        return min(self.running / self.capacity, 1.0) if self.capacity else float(self.running > 0)

    def as_data(self) -> dict[str, Any]:
        """Return it as JSON data."""
        workers = [{**asdict(one), "last_seen": as_json_time(one.last_seen)} for one in self.workers]
        return {
            "agent": self.agent,
            "state": self.state.value,
            "last_seen": as_json_time(self.last_seen),
            "capacity": self.capacity,
            "running": self.running,
            "free": self.free,
            "load": round(self.load, 3),
            "capabilities": [one.as_data() for one in self.capabilities],
            "workers": workers,
        }


class Presence:
    """Who is there.

    Arguments:
        suspect_after: seconds of silence that are too many.

    """

    def __init__(self, ledger: Ledger, suspect_after: float) -> None:
        self._ledger = ledger
        self._after = round(suspect_after * SECOND)

    def agents(self) -> list[AgentPresence]:
        """Return every agent that ever ran and was not forgotten, by name."""
        roll, running = self._ledger.workers.roll(), self._running()
        return [_presence(name, roll, running.get(name, 0), self._after) for name in sorted(roll.agents)]

    def agent(self, name: str) -> AgentPresence:
        """Return one agent; raise UnknownAgent for one that has never run."""
        found = {one.agent: one for one in self.agents()}
        if name not in found:
            raise UnknownAgent(f"no agent is called {name!r}; {nearest(name, found)}")
        return found[name]

    def capable(self, capability: str, *, busy: bool = False) -> list[AgentPresence]:
        """Return the agents that are there and can do something, those with the most free capacity first.

        Arguments:
            busy: whether those come too that have no free capacity now.

        Raises InvalidSelection for a capability that no agent has.

        """
        everyone = self.agents()
        able = [one for one in everyone if any(has.id == capability for has in one.capabilities)]
        if not able:
            known = {has.id for one in everyone for has in one.capabilities}
            raise InvalidSelection(f"no agent has the capability {capability!r}; {nearest(capability, known)}")
        here = [one for one in able if one.state is State.ONLINE and (busy or one.free > 0)]
        return sorted(here, key=lambda one: (-one.free, one.load, one.agent))

    def _running(self) -> dict[str, int]:
        row = deliveries.c
        query = select(row.agent, func.count()).where(OPEN, row.outcome == Outcome.RUNNING.value).group_by(row.agent)
        with self._ledger.database.reading() as connection:
            return dict(map(tuple, connection.execute(query)))


def state_of(worker: Seen, at: int, after: int) -> State:
    """Return how a worker is, at a time, when so many microseconds of silence are too many."""
    if worker.ended is not None:
        return State.OFFLINE
    if at - worker.seen > after:  # one that has said that it leaves has left
        return State.SUSPECTED if worker.leaves is None else State.OFFLINE
    return State.ONLINE if worker.leaves is None else State.DRAINING


def workers_of(agent: str, workers: Iterable[Seen]) -> list[Seen]:
    """Return the workers that run an agent, the one that was heard of last at the end."""
    return sorted((one for one in workers if agent in one.agents), key=lambda one: one.ended or one.seen)


def _presence(name: str, roll: Roll, running: int, after: int) -> AgentPresence:
    mine = workers_of(name, roll.workers)
    states = [state_of(one, roll.at, after) for one in mine]
    said = [one.about.get("agents", {}).get(name, {}) for one in mine]
    here = [one for one, state in zip(said, states, strict=True) if state is State.ONLINE]
    sizes = [one["capacity"] for one in here if one.get("capacity") is not None]
    limits = [one["limit"] for one in here if one.get("limit") is not None]
    state = next((one for one in (State.ONLINE, State.DRAINING) if one in states), states[-1] if states else None)
    if roll.agents[name] is not None and state in (State.ONLINE, State.DRAINING):  # as it was told to everybody
        state = State.SUSPECTED
    return AgentPresence(
        agent=name,
        state=state or State.OFFLINE,
        last_seen=moment(mine[-1].ended or mine[-1].seen) if mine else None,
        capacity=min([sum(sizes), *limits]) if sizes else None,
        running=running,
        workers=tuple(_worker(one, name, state) for one, state in zip(mine, states, strict=True)),
        capabilities=tuple(Capability.of(one) for one in (said[-1].get("capabilities", []) if said else [])),
    )


def _worker(one: Seen, agent: str, state: State) -> WorkerPresence:
    about = one.about
    return WorkerPresence(
        id=one.id,
        host=about.get("host", ""),
        pid=about.get("pid"),
        state=state,
        last_seen=moment(one.ended or one.seen),
        capacity=about.get("agents", {}).get(agent, {}).get("capacity"),
        memory=about.get("memory"),
    )
