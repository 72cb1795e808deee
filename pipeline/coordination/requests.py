"""Requests: an event whose publisher waits for what an agent returns.

What the agent returns is kept with its delivery, in the transaction that records it; whoever waits reads it there. So a
reply survives whoever has asked, needs no queue that somebody would have to clean up, and can be asked for later. One
thread of a process looks for all that wait in it, for each of them less often the longer it has waited.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Mapping, Sequence, Set
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson
from celery._state import get_current_task
from sqlalchemy import and_, bindparam, select

from ..core import retry
from ..core.door.replies import LATER, NO_LONGER, REPLY_BY
from ..core.errors import (
    LedgerError,
    NoResponder,
    RequestFailed,
    RequestTimeout,
    UnknownEvent,
    WaitsForItself,
    nearest,
)
from ..core.event import Event, Payload, dump
from ..core.ids import delivery_id
from ..core.observe import Log
from ..core.outcome import OPEN, Outcome
from ..core.routing import receivers, targets_of
from ..core.times import moment, monotonic, now, utc_now
from ..families import AgentResponse
from ..history.presence import Presence
from ..ledger.database.rows import chunks
from ..ledger.database.tables import deliveries, events
from ..ledger.workers import versions_of

if TYPE_CHECKING:
    from ..bus import Bus

logger = Log(logging.getLogger(__name__))

#: Seconds between two looks: a share of what somebody has waited, but no less and no more than these.
SHARE, SHORTEST, LONGEST = 0.05, 0.0005, 0.1
#: Deliveries that are looked for one by one, each for a tenth of what a question for several costs.
FEW = 8
#: Seconds after which somebody who waits goes on waiting while the ledger is away.
AWAY = 0.5
_PERMANENT = frozenset(error.__name__ for error in retry.PERMANENT)
_NEVER = (Outcome.FILTERED, Outcome.LATE, Outcome.CANCELLED, Outcome.DROPPED)

Answers = dict[str, AgentResponse]


class Ended(NamedTuple):
    """A delivery, as far as an answer is made of it."""

    id: str
    event_id: str
    agent: str
    outcome: str
    result: str | None
    error: str | None
    started: int | None
    ended: int | None


_ROWS = select(*(deliveries.c[name] for name in Ended._fields))
_HAS_ENDED = and_(*(deliveries.c.outcome != outcome.value for outcome in OPEN))
_ONE = _ROWS.where(deliveries.c.id == bindparam("id"), _HAS_ENDED)


@dataclass(eq=False, slots=True)
class Asked:
    """Somebody who waits.

    Attributes:
        event: what was published, by its key.
        agents: who may answer, by the delivery's id.
        meant: those whom the event names, or who listen to just its type: they answer also by returning nothing.
        every: whether all of them are waited for.
        since, until: when it began, and when it ends (monotonic time).
        look_at: when the ledger is asked next (monotonic time).

    """

    event: str
    agents: Mapping[str, str]
    meant: frozenset[str]
    every: bool
    since: float
    until: float
    answer: Future[Answers]
    look_at: float = 0.0


class Requests:
    """Asks, and waits for answers."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._lock = threading.Lock()
        self._waiting: list[Asked] = []
        self._wake = threading.Event()
        self._owner = 0
        self._thread: threading.Thread | None = None
        self._closed = False

    # -- before the event is published

    def prepared(self, event: Event, timeout: float, *, durable: bool = False) -> tuple[Event, dict[str, str]]:
        """Return the event as it is to be published, and who may answer it, by the delivery's id.

        Arguments:
            timeout: seconds after which nobody begins to answer any more, unless it is durable.
            durable: whether nobody waits, and workers may come later.

        Raises NoResponder, and WaitsForItself in a handler that would wait for its own worker.

        """
        ledger = self._bus.ledger
        for fresh in (False, True):
            known = {agent.name: agent.patterns for agent in self._bus.agents} | ledger.subscribers.known(fresh=fresh)
            if agents := receivers(known, event.type, event.targets):
                break
        else:
            near = nearest(event.type, [pattern for patterns in known.values() for pattern in patterns])
            raise NoResponder(f"nobody answers {event.type}: no agent listens to it; {near}")
        versions = ledger.workers.running()
        if not all(versions_of(name, versions) for name in agents):
            versions = ledger.subscribers.versions(agents)  # some may be those that the ledger declares
        there = [name for name in agents if versions_of(name, versions)]
        if not there and not durable:
            raise NoResponder(
                f"nobody answers {event.type} now: no worker runs {' or '.join(sorted(agents))}; start one, or ask "
                "with durable=True and come back for the reply"
            )
        if not durable:
            self._check_not_own(there)
        until = LATER if durable else (utc_now() + timedelta(seconds=timeout)).isoformat()
        asked = event.evolve(**{REPLY_BY: until})
        return asked, {delivery_id(asked.key, name): name for name in agents}

    def capable(self, capability: str, data: Any) -> tuple[str, str]:
        """Return the type of the event that asks for a capability, and the agent that is best asked.

        Raises InvalidSelection for a capability that no agent has, InvalidEvent for data that is not what it takes, and
        NoResponder when no agent that has it is there.
        """
        found = Presence(self._bus.ledger, self._bus.settings.suspect_after).capable(capability, busy=True)
        if not found:
            raise NoResponder(f"no worker runs an agent with the capability {capability!r} now; start one")
        asked = next(one for one in found[0].capabilities if one.id == capability)
        asked.check_input(dump(data) if isinstance(data, Payload) else data)
        return asked.type or "", found[0].agent

    def _check_not_own(self, agents: Sequence[str]) -> None:
        """Raise WaitsForItself where the handler that asks keeps the only slot busy in which it may be answered.

        Other workers may answer, too; but the broker may have given the request to this one.
        """
        bus, task = self._bus, get_current_task()
        asking = getattr(task, "agent", None) if getattr(task, "bus", bus) is bus else None  # not another app's
        if bus.slots != 1 or bus.by_hand is not None or asking is None or asking.is_async:
            return
        here = bus.celery.amqp.queues.consume_from
        mine = [name for name in agents if name in bus.agents and bus.names.queue_of(name) in here]
        if busy := [name for name in mine if not bus.agents[name].is_async]:
            raise WaitsForItself(
                f"agent {asking.name!r} would wait for {' or '.join(busy)}, which may be this worker's to run, one "
                "at a time: give the worker more slots, run them in different workers (-Q), make one of them async, or "
                "emit an event instead"
            )

    # -- afterwards

    def wait(self, event: Event, agents: Mapping[str, str], timeout: float, *, every: bool = False) -> Future[Answers]:
        """Return what will have the answers of a request that is published, by agent."""
        at = monotonic()
        asked = Asked(
            event.key, agents, self._meant(event.type, event.targets), every, at, at + timeout, Future(), at + SHORTEST
        )
        if self._bus.by_hand is not None:
            if not self._bus.by_hand():
                raise WaitsForItself(
                    f"a handler asks for {event.type}, and in app.testing() deliveries run one after the other: test "
                    "it with app.local()"
                )
            rows = self._look_for([asked])
            if not asked.answer.done():
                _end(asked.answer, too_late(asked, rows))
            return asked.answer
        with self._lock:
            if self._owner != os.getpid():  # a process that was forked has none of its parent's threads
                self._owner, self._waiting = os.getpid(), []
                self._wake = threading.Event()
                self._thread = threading.Thread(target=self._look, name="pipeline-replies", daemon=True)
                self._thread.start()
            self._waiting.append(asked)
        self._wake.set()
        return asked.answer

    def _meant(self, event_type: str, targets: Sequence[str]) -> frozenset[str]:
        """Return the agents that an event names, or that listen to just its type, and not to it among others."""
        known = {agent.name: agent.patterns for agent in self._bus.agents} | self._bus.ledger.subscribers.known()
        return frozenset(targets) | {name for name, patterns in known.items() if event_type in patterns}

    def _look(self) -> None:
        pause: float | None = None
        while not self._closed:
            self._wake.wait(pause)  # between two looks: those who answer are in other processes
            self._wake.clear()
            with self._lock:
                self._waiting = [one for one in self._waiting if not one.answer.done()]
                waiting = list(self._waiting)
            if due := [one for one in waiting if one.look_at <= monotonic()]:
                self._look_at(due)
            pause = max(min(one.look_at for one in waiting) - monotonic(), 0.0) if waiting else None

    def _look_at(self, due: Sequence[Asked]) -> None:
        rows: dict[str, Ended] = {}
        shortest = SHORTEST
        try:
            rows = self._look_for(due)
        except Exception as exc:  # each of them ends at its time in any case
            if not isinstance(exc, LedgerError):
                logger.exception("answers cannot be looked for")
            shortest = AWAY
        at = monotonic()
        for one in due:
            one.look_at = at + max(min((at - one.since) * SHARE, LONGEST), shortest)
            if at > one.until and not one.answer.done():
                _end(one.answer, too_late(one, rows))

    def close(self) -> None:
        """Wait for no answer any more."""
        self._closed = True
        self._wake.set()
        if self._thread is not None and self._owner == os.getpid():
            self._thread.join()

    def _look_for(self, waiting: Sequence[Asked]) -> dict[str, Ended]:
        """End those whose answers are there; return the deliveries that have ended, by id."""
        database, ids = self._bus.ledger.database, [id for one in waiting for id in one.agents]
        if len(ids) <= FEW:
            found = [row for id in ids if (row := database.fast.look((_ONE, {"id": id}))) is not None]
        else:
            with database.reading() as connection:
                query = _ROWS.where(_HAS_ENDED)
                found = [
                    row for some in chunks(ids) for row in connection.execute(query.where(deliveries.c.id.in_(some)))
                ]
        rows = {row[0]: Ended(*row) for row in found}
        for one in waiting:
            answer = answered(one.agents, rows, one.meant, every=one.every)
            # An agent may see the time be over a moment before the one who has asked does.
            is_late = any(rows[id].error == NO_LONGER for id in one.agents if id in rows)
            if answer is not None and not (is_late and (one.every or isinstance(answer, NoResponder))):
                _end(one.answer, answer)
        return rows

    def reply(self, event_id: str) -> AgentResponse | None:
        """Return the answer to a request that was published; None while there is none.

        Raises UnknownEvent, and RequestFailed when all who could have answered are dead.
        """
        with self._bus.ledger.database.reading() as connection:
            asked = connection.execute(select(events.c.type, events.c.targets).where(events.c.id == event_id)).first()
            if asked is None:
                raise UnknownEvent(f"the ledger has no request {event_id!r}")
            found = connection.execute(_ROWS.where(deliveries.c.event_id == event_id)).all()
        rows = {row[0]: Ended(*row) for row in found}
        agents = {id: row.agent for id, row in rows.items() if row.agent}
        ended = {id: row for id, row in rows.items() if row.outcome not in OPEN}
        answer = answered(agents, ended, self._meant(asked.type, targets_of(asked.targets)), every=False)
        if isinstance(answer, Exception):
            raise answer
        return next(iter(answer.values())) if answer else None


def answered(
    agents: Mapping[str, str], rows: Mapping[str, Ended], meant: Set[str], *, every: bool
) -> Answers | Exception | None:
    """Return what a request has come to; None while that is open.

    The first one counts that has returned something; one that is meant and has returned nothing, when no other is open.

    Arguments:
        agents: who may answer, by the delivery's id.
        rows: the deliveries that have ended.
        meant: the agents that answer also by returning nothing.
        every: whether all of them are waited for.

    """
    found = {agents[id]: _response(row) for id, row in rows.items() if id in agents and row.outcome not in _NEVER}
    is_over = all(id in rows for id in agents)
    if every:
        return found if is_over else None
    good = {name: one for name, one in found.items() if one.status == "success"}
    said = {name: one for name, one in good.items() if one.result is not None}
    if said:
        return said
    if not is_over or not agents:
        return None
    if done := {name: one for name, one in good.items() if name in meant}:
        return done
    failed = next((row for id, row in rows.items() if id in agents and row.outcome == Outcome.DEAD.value), None)
    if failed is None:
        heard = f"{' and '.join(sorted(good))} listened to it among others, and returned nothing" if good else ""
        return NoResponder(f"nobody has answered: {heard or 'filters, or the end of the wait, have kept it from all'}")
    code = (failed.error or "").partition(":")[0]
    return RequestFailed(
        f"agent {failed.agent} has failed: {failed.error}", code=code, retryable=code not in _PERMANENT
    )


def too_late(asked: Asked, rows: Mapping[str, Ended]) -> RequestTimeout:
    """Return what to tell somebody whose time is over, with the answers that have come; `rows` are as in answered()."""
    answers = answered({id: name for id, name in asked.agents.items() if id in rows}, rows, asked.meant, every=True)
    if not answers or not isinstance(answers, dict):
        return RequestTimeout(f"nobody has answered request {asked.event} in time")
    missing = sorted(name for name in asked.agents.values() if name not in answers)
    told = f"{len(answers)} of {len(asked.agents)} have answered request {asked.event} in time"
    return RequestTimeout(f"{told}, and not {' and '.join(missing)}", answers)


def _response(row: Ended) -> AgentResponse:
    is_good = row.outcome == Outcome.SUCCEEDED.value
    ended, started = row.ended or now(), row.started or row.ended or now()
    return AgentResponse(
        response_id=row.id,
        original_event_id=row.event_id,
        agent_id=row.agent,
        status="success" if is_good else "failure",
        result=orjson.loads(row.result or "null") if is_good else row.error,
        time=moment(ended),
        processing_time_ms=(ended - started) / 1000,
    )


def _end(answer: Future[Answers], found: Answers | Exception) -> None:
    if answer.set_running_or_notify_cancel():
        if isinstance(found, Exception):
            answer.set_exception(found)
        else:
            answer.set_result(found)
