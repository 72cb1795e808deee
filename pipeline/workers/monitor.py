"""The monitor: who is there is told, and who is not. Every worker has one; what several see, one of them tells.

A worker that was stopped for a while, or whose machine slept, must not take the others for dead: it judges nobody
before it was heard of twice itself.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from enum import Enum, auto
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from celery.utils.log import get_logger
from sqlalchemy import Connection, select

from ..core.door.replies import EXPIRES
from ..core.errors import BrokerUnavailable
from ..core.event import Event, Payload, new_event
from ..core.ids import delivery_id
from ..core.observe import Log
from ..core.outcome import FINAL, Outcome
from ..core.times import SECOND, moment, passed, utc_now
from ..core.topics import matches
from ..families import AgentHeartbeat, AgentOffline, AgentOnline, AgentRecovered, AgentSuspectedFailure
from ..history.presence import Presence, State, state_of, workers_of
from ..ledger.database.tables import deliveries as table
from ..ledger.workers import SILENT

if TYPE_CHECKING:
    from ..bus import Bus
    from ..ledger.deliveries import Deliveries
    from ..ledger.workers import Roll, Seen
    from ..publishing.outbox import Outbox
    from ..publishing.publisher import Publisher

logger = Log(get_logger(__name__))

#: Seconds for which a heartbeat is news.
FRESH = 60.0
#: Heartbeats in a row after which an agent counts as recovered, and its worker may judge others.
ENOUGH = 2
#: Seconds after which the deliveries of heartbeats are forgotten, too; and those that have not ended by then.
KEPT, LONGEST = 600.0, 86400.0


class Changes(NamedTuple):
    """What has become of agents.

    Attributes:
        lost: those that may have failed, with the time when each was last heard of (microseconds).
        back: those that are there again, with the same.
        over: those of which there is nothing to suspect any more: they have left, or are forgotten.

    """

    lost: Mapping[str, int]
    back: Mapping[str, int]
    over: Collection[str] = ()


NONE = Changes({}, {})


def changes(roll: Roll, own: str, after: int) -> Changes:
    """Return what is to be told, as one worker sees it.

    Arguments:
        own: the id of that worker.
        after: microseconds of silence that are too many.

    """
    if not any(one.id == own and _is_steady(one, roll.at) for one in roll.workers):
        return NONE
    lost, back, over = dict[str, int](), dict[str, int](), list[str]()
    for agent, suspected in roll.agents.items():
        mine = workers_of(agent, roll.workers)
        if suspected is not None:
            if any(_is_steady(one, roll.at) for one in mine):
                back[agent] = suspected
            elif not mine or state_of(mine[-1], roll.at, after) is State.OFFLINE:
                over.append(agent)
        elif mine:
            states = {state_of(one, roll.at, after) for one in mine}
            last = state_of(mine[-1], roll.at, after)
            if last is State.SUSPECTED and states.isdisjoint((State.ONLINE, State.DRAINING)):
                lost[agent] = mine[-1].seen
    return Changes(lost, back, over)


def _is_steady(worker: Seen, at: int) -> bool:
    stays = worker.ended is None and worker.leaves is None
    return stays and worker.beats >= ENOUGH and at - worker.seen <= SILENT * SECOND


class Stage(Enum):
    """How far a worker has come."""

    STARTS = auto()
    READY = auto()
    LEAVES = auto()


class Monitor:
    """Tells what a worker sees of the others, and that it is there itself.

    Attributes:
        stage: how far the worker has come; somebody else says so.

    """

    def __init__(self, bus: Bus, publisher: Publisher, outbox: Outbox) -> None:
        self._bus = bus
        self._workers = bus.ledger.workers
        self._publisher = publisher
        self._outbox = outbox
        self.stage = self._told = Stage.STARTS
        #: Deliveries of heartbeats, with the time (see `passed`) when they were sent.
        self._sent: deque[tuple[float, Sequence[str]]] = deque()

    def come_and_go(self) -> int:
        """Tell, once, that this worker is there, and that it stops."""
        stage = self.stage
        if stage is self._told:
            return 0
        if stage is Stage.LEAVES:
            self._leave()
        elif self._asked_for(AgentOnline):
            events = [self._event(self._online(name, said)) for name, said in self._own().items()]
            self._bus.ledger.append(self._outbox.encode(events), due_in=0)
        self._told = stage
        return 1

    def watch(self) -> int:
        """Tell which agents may have failed, and which are there again."""
        roll = self._workers.roll()
        found = changes(roll, self._bus.worker_id, round(self._bus.settings.suspect_after * SECOND))
        done = 0
        for agent, seen in found.lost.items():
            lost = AgentSuspectedFailure(agent_id=agent, last_seen=moment(seen))
            if self._workers.suspect(agent, seen, self._outbox.encode([self._event(lost)])[0]):
                silent = (roll.at - seen) / SECOND
                logger.warning("agent %s may have failed: none of its workers was heard of for %.0f s", agent, silent)
                done += 1
        for agent, seen in found.back.items():
            back = AgentRecovered(agent_id=agent, last_seen=moment(seen))
            if self._workers.clear(agent, self._outbox.encode([self._event(back)])[0]):
                logger.info("agent %s is there again", agent)
                done += 1
        for agent in found.over:
            self._workers.clear(agent)
        return done

    def _leave(self) -> None:
        own = self._own() if self._asked_for(AgentOffline) else ()
        events = [self._event(AgentOffline(agent_id=name, worker=self._bus.worker_id)) for name in own]
        self._workers.drain(self._bus.worker_id, self._outbox.encode(events))
        self._forget(passed())

    def beat(self) -> int:
        """Send heartbeats of this worker's agents to the agents that listen to them; nobody keeps them."""
        self._forget(passed() - KEPT)
        asked = self._asked_for(AgentHeartbeat)
        if not asked or self.stage is not Stage.READY:
            return 0
        there = Presence(self._bus.ledger, self._bus.settings.suspect_after).agents()
        receivers = [one.agent for one in there if one.agent in asked and one.state is State.ONLINE]
        seal = self._bus.ledger.seal
        until = (utc_now() + timedelta(seconds=FRESH)).isoformat()
        beats: list[Event] = []
        for one in there:
            mine = next((worker for worker in one.workers if worker.id == self._bus.worker_id), None)
            if mine is not None:
                said = AgentHeartbeat(
                    agent_id=one.agent,
                    worker=self._bus.worker_id,
                    status=one.state.value,
                    load=one.load,
                    memory_usage=mine.memory or 0,
                )
                beats.append(self._event(said).evolve(**{EXPIRES: until}))
        with suppress(BrokerUnavailable):  # the next one tells as much
            for agent in receivers:
                self._sent.append((passed(), [delivery_id(event.key, agent) for event in beats]))
                self._publisher.deliver(agent, [(event, {"ledger": seal.ledger}) for event in beats], seal)
        return len(beats)

    def _forget(self, before: float) -> None:
        """Forget the deliveries of heartbeats that were sent before a time, and have ended: no log has their events."""
        ledger, later = self._bus.ledger, list[tuple[float, Sequence[str]]]()
        while self._sent and self._sent[0][0] < before:
            at, ids = self._sent[0]
            if left := ledger.database.run(partial(_forget, ledger.deliveries, ids)):
                later.append((at, left))
            self._sent.popleft()
        self._sent.extendleft(reversed([one for one in later if one[0] > before - LONGEST]))

    def _online(self, agent: str, about: Mapping[str, Any]) -> AgentOnline:
        able: Sequence[Any] = self._bus.agents[agent].capabilities
        return AgentOnline(
            agent_id=agent,
            worker=self._bus.worker_id,
            capabilities=tuple(one.id for one in able),
            capacity=about.get("capacity"),
            specializations=tuple(dict.fromkeys(word for one in able for word in one.specializations)),
        )

    def _own(self) -> Mapping[str, Any]:
        """Return what this worker's agents are, as it has said it."""
        mine = (one for one in self._workers.roll().workers if one.id == self._bus.worker_id)
        return next((one.about.get("agents", {}) for one in mine), {})

    def _asked_for(self, what: type[Payload]) -> list[str]:
        """Return the agents that listen to an event by name: who listens to everything does not ask for presence."""
        known = self._bus.ledger.subscribers.known()
        return [name for name, patterns in known.items() if any(_names(one, what.event_type) for one in patterns)]

    def _event(self, payload: Payload) -> Event:
        return new_event(payload, source=self._bus.source)


def _forget(deliveries: Deliveries, ids: Sequence[str], connection: Connection) -> list[str]:
    """Forget those of some deliveries that have ended; return the others."""
    row = table.c
    ended = select(row.id).where(row.id.in_(ids), row.outcome.in_((*FINAL, Outcome.DEAD)))
    found = list(connection.execute(ended).scalars())
    deliveries.prune(connection, found)
    return [id for id in ids if id not in found]


def _names(pattern: str, event_type: str | None) -> bool:
    return pattern[:1] not in ("#", "*") and event_type is not None and matches(pattern, event_type)
