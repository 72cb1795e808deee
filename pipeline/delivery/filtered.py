"""(2) Events that an agent's filter keeps from it: no task is made of them, and what became of them is recorded.

The worker's loop says which they are; a thread writes them down, as many as have come meanwhile, and only then their
messages are acknowledged. What another version of the agent wants that runs waits for that one.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from time import sleep
from typing import TYPE_CHECKING, Any, NamedTuple

from celery.utils.log import get_logger

from ..agents.agent import Agent
from ..agents.filters import Failed
from ..agents.wanting import Wanting, wants
from ..core import routing
from ..core.errors import LedgerError, LedgerRefused, line_of
from ..core.event import Encoded, Event
from ..core.ids import delivery_id, derived_id, is_sampled
from ..core.observe import Fact, Log
from ..core.outcome import NO_MATCH, Outcome
from ..core.times import SECOND, now
from ..ledger.database.rows import timer_row
from ..ledger.timers import RETRY
from ..ledger.workers import Version, json, versions_of
from .strays import ELSEWHERE, at_first

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from ..bus import Bus
    from ..ledger.ledger import Ledger

logger = Log(get_logger(__name__))

#: Deliveries that are written down at once, and seconds after which a ledger that is away is asked again.
MOST, PAUSE = 500, 1.0
#: Marks of messages that ask for one delivery, which the consumer does not filter: a step of the delivery does.
ASKED = frozenset({"attempt", "requeued", "goes_on", "flow"})


class PassedBy(NamedTuple):
    """A delivery whose agent does not want the event.

    Attributes:
        id: the delivery's.
        event_id: the event's key.
        replay, broadcast: as of any delivery.
        error: why not.

    """

    id: str
    event_id: str
    agent: str
    replay: str | None
    broadcast: bool
    error: str


class Waiting(NamedTuple):
    """A message of which it is still to be written down that its event was kept back.

    Attributes:
        foreign: the event when it is another program's, which the log does not have yet.
        own: what the filter that has kept it back says, as a JSON list.
        recorded: whether that is written down.
        asked: whether the ledger has sent it, where its delivery may wait: then that ends.

    """

    message: Any
    row: PassedBy
    foreign: Encoded | None
    type: str
    correlation: str
    own: str
    recorded: bool
    asked: bool

    def is_wanted(self, versions: Sequence[Version]) -> bool:
        """Say whether one of some versions of the agent may want the event."""
        others = [one for one in versions if one.filters != self.own and routing.wants(one.patterns, self.type)]
        return bool(others) and any(wants(one.filters, self.type, self.message.body) for one in others)


class FilteredOut:
    """Tells what an agent's filter keeps from it, and sees to what is left to do with that.

    Arguments:
        ack: acknowledges a message, in the thread that may use the connection.
        set_aside: rejects a message with a reason, there too.

    """

    def __init__(self, bus: Bus, ack: Callable[[Any], None], set_aside: Callable[[Any, object], None]) -> None:
        self._bus, self._ack, self._set_aside = bus, ack, set_aside
        self._own: dict[str, tuple[Wanting, str]] = {}
        #: How often each agent's filter could not be evaluated, by what was wrong.
        self.errors: Counter[tuple[str, Failed]] = Counter()
        self._waiting: deque[Waiting] = deque()
        self._has_some = threading.Event()
        self._clerk: threading.Thread | None = None
        self._ended = False

    def takes(self, message: Any, event: Mapping[str, Any], agent: Agent) -> bool:
        """Say whether the agent's filter keeps an event from it; then the rest is done here.

        What names the agent as its target reaches it, whatever its patterns and its filter.
        """
        bus, wanting = event["bus"], agent.wanting
        if wanting is None or event["targets"] or ASKED & bus.keys() or message.delivery_info.get("redelivered"):
            return False  # of what may have begun before, whoever claims it decides
        if not routing.reaches(agent.name, agent.patterns, event["type"]):
            return False  # for another version of the agent, perhaps
        body = message.body
        try:
            result = wanting.test(event["type"], body)
            if result is True:
                return False
            foreign = None
            if not bus and self._bus.has_ledger:  # another program's, which the log does not have yet
                found = Event.decode(body if isinstance(body, str) else bytes(body), None)
                foreign = Encoded(found, found.encode())
        except Exception:  # no event: who tries to deliver it says so
            return False
        reason = self._failed(agent, result) if isinstance(result, Failed) else NO_MATCH
        if self._bus.has_ledger:
            row = self._passed_by(event, agent, reason)
            correlation = event.get("correlationid") or event["id"]
            recorded = is_sampled(event["id"], self._bus.settings.filtered_share)
            own = self._said(agent)
            self._put(Waiting(message, row, foreign, event["type"], correlation, own, recorded, "direct" in bus))
        else:
            self._ack(message)
            self._count([agent.name])
        return True

    def _count(self, agents: Sequence[str]) -> None:
        if self._bus.spans.count is not None:
            self._bus.spans.count([Fact("ended", (agent, Outcome.FILTERED.value)) for agent in agents])

    def _said(self, agent: Agent) -> str:
        """Return what an agent's filter says, as other workers find it."""
        known = self._own.get(agent.name)
        if known is None or known[0] is not agent.wanting:  # it may have been changed while the worker runs
            assert agent.wanting is not None
            known = agent.wanting, json([agent.wanting.as_data(self._bus.settings.filtered_share)])
            self._own[agent.name] = known
        return known[1]

    def _failed(self, agent: Agent, failed: Failed) -> str:
        """Return why an event is kept from an agent whose filter errs; say so now and then, with how often that was."""
        self.errors[agent.name, failed] += 1
        number = self.errors[agent.name, failed]
        if number in (1, 10, 100) or number % 1000 == 0:
            logger.warning(
                "agent %s: its filter cannot be evaluated, so the event is not for it (%d so far; see `pipeline "
                "explain`): %s", agent.name, number, failed,
            )  # fmt: skip
        return f"its filter cannot be evaluated: {failed}"

    @staticmethod
    def _passed_by(event: Mapping[str, Any], agent: Agent, reason: str) -> PassedBy:
        bus = event["bus"]
        id, replay = delivery_id(event["id"], agent.name), bus.get("replay")
        if replay is not None:
            id = derived_id(id, replay)
        return PassedBy(id, event["id"], agent.name, replay, bus.get("broadcast", replay is None), reason)

    def _put(self, one: Waiting) -> None:
        if self._bus.by_hand is not None:
            self._write([one])
            return
        self._waiting.append(one)
        if self._clerk is None:
            self._clerk = threading.Thread(target=self._serve, name="pipeline-filtered", daemon=True)
            self._clerk.start()
        self._has_some.set()

    def _write_apart(self, some: list[Waiting], error: Exception) -> None:
        """Write each by itself, because one of them cannot be written; that one is set aside."""
        if len(some) == 1:
            self._set_aside(some[0].message, f"that it was filtered cannot be recorded: {line_of(error)}")
            return
        for one in some:
            self._write([one])

    def close(self) -> None:
        """Forget what waits: its connection has ended, and the broker gives it again."""
        self._waiting.clear()

    def end(self) -> None:
        """Write down no more: the worker has ended."""
        self.close()
        self._ended = True
        self._has_some.set()

    def _serve(self) -> None:
        while not self._ended:
            self._has_some.wait()
            self._has_some.clear()
            while self._waiting:
                try:
                    some = [self._waiting.popleft() for _ in range(min(len(self._waiting), MOST))]
                except IndexError:  # the connection has ended just now
                    break
                self._write(some)

    def _write(self, some: list[Waiting]) -> None:
        while True:
            try:
                passed_by = _record(self._bus.ledger, some)
            except LedgerError as exc:
                if isinstance(exc, LedgerRefused):  # it would be so again
                    self._write_apart(some, exc)
                    return
                logger.warning("%d filtered event(s) wait until they can be recorded: %s", len(some), exc)
                sleep(PAUSE)
                continue
            except Exception as exc:
                self._write_apart(some, exc)
                return
            for one in some:
                self._ack(one.message)
            self._count([one.row.agent for one in passed_by])
            return


def _record(ledger: Ledger, some: Sequence[Waiting]) -> Sequence[Waiting]:
    """Write them down in one transaction; what was claimed, or has ended, stays as it is.

    Returns those that no other version of their agents wants.
    """
    running = ledger.subscribers.versions({one.row.agent for one in some})
    elsewhere = {one.row.id: one for one in some if one.is_wanted(versions_of(one.row.agent, running))}
    here = [one for one in some if one.row.id not in elsewhere]
    foreign = [one.foreign for one in some if one.foreign is not None]
    recorded = {one.row.id: one.row._asdict() for one in here if one.recorded}
    waiting = {one.row.id for one in here if one.asked and not one.recorded}

    def work(connection: Connection) -> None:
        if foreign:
            ledger.append(foreign, due_in=None, connection=connection, checked=True)
        if recorded:
            ledger.deliveries.pass_by(connection, list(recorded.values()))
        ledger.deliveries.pass_queued(connection, sorted(waiting), NO_MATCH)
        if elsewhere:
            _hand_over(ledger, connection, elsewhere)

    if foreign or recorded or waiting or elsewhere:
        ledger.database.run(work)
    if elsewhere:
        logger.info("%d event(s): each %s", len(elsewhere), ELSEWHERE)
    return here


def _hand_over(ledger: Ledger, connection: Connection, some: Mapping[str, Waiting]) -> None:
    """Let events come again in a moment, for a worker whose version of the agent wants them."""
    pause = at_first()
    due = now() + round(pause.delay * SECOND)
    rows = [{**one.row._asdict(), "error": pause.reason} for one in some.values()]
    handed = ledger.deliveries.hand_over(connection, rows, due)
    ledger.timers.add([timer_row(id, RETRY, due, some[id].correlation) for id in sorted(handed)], connection)
