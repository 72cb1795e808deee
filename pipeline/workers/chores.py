"""What each worker does beside its deliveries. Any number of workers may: what one has taken, the others leave alone.

A new chore is a method, and its line in Chores.all().
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

import orjson
from celery.utils.log import get_logger

from ..agents.filters import Filter, parse
from ..brokers.topology import AgentQueue
from ..core.errors import BrokerUnavailable, InvalidFilter, ProjectionFailed
from ..core.event import Encoded, Event, new_event
from ..core.limits.limit import order_of
from ..core.observe import Log
from ..core.retry import SHED_OLDEST
from ..families import AgentBackpressure
from ..ledger.aside import Bad
from ..ledger.due import Look, Message
from ..publishing.apart import send_apart
from ..publishing.outbox import GRACE, PAUSE, Outbox
from ..publishing.publisher import Publisher
from ..publishing.queues import delete_queues
from .monitor import Monitor
from .vitals import lets_more

if TYPE_CHECKING:
    from ..agents.agent import Agent
    from ..bus import Bus, Flows
    from ..history.projections import Projection

logger = Log(get_logger(__name__))

#: Reconciliation looks this many times within `reconcile_after`, but not more often than once a second.
LOOKS = 4
#: Seconds between two looks for agents that somebody has paused.
PAUSES = 0.4
#: Seconds between two looks at how much waits for those agents that have a bound.
BOUNDS = 1.0
#: Seconds between two looks whether an agent that had a bound, a limit or an order is one without by now.
UNBOUNDED = 60.0
#: Seconds between two looks at who is there.
WATCH = 2.0
#: Seconds between two looks for slots that somebody has left behind, and for keys that nobody uses any more.
MEND, FORGET = 2.0, 600.0

NOTHING = Look(outbox=False, timers=False, waits=False, arrivals=False, pauses=False, turns=False, at_once=False)


@dataclass(frozen=True)
class Chore:
    """Something that is done again and again.

    Attributes:
        every: seconds between two times; 0 for each sweep.
        run: does what there is to do now, and returns how many things that were.
        sends: whether it uses the connection to the broker, beside which no fork may happen.
        has_more: whether it is to be run with the next sweep already, so that other chores come in between.

    """

    name: str
    every: float
    run: Callable[[], int]
    sends: bool = True
    has_more: Callable[[], bool] = lambda: False


class Chores:
    """The chores of a worker that has a ledger, with a connection of their own to the broker, opened when needed."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._ledger = bus.ledger
        self._publisher = Publisher(bus.celery, bus.settings, bus.names, bus.spans)
        self.outbox = Outbox(self._ledger, self._publisher, by_hand=bus.by_hand is not None)
        self.monitor = Monitor(bus, self._publisher, self.outbox)
        self._after = bus.settings.reconcile_after
        self._due = NOTHING
        self._has_more = self._lets_go = False
        self._failed: set[str] = set()
        self._deleted: set[tuple[str, int]] = set()

    def all(self) -> tuple[Chore, ...]:
        """Return them in the order in which they are done."""
        look = max(1.0, self._after / LOOKS)
        return (
            Chore("look", 0, self.look),
            Chore("come and go", 0, self.monitor.come_and_go),
            Chore("pauses", PAUSES, self.look_for_pauses),
            Chore("subscriptions", PAUSES, self.look_for_subscriptions),
            Chore("relay", 0, lambda: self.relay() if self._due.outbox else 0),
            Chore("timers", 0, lambda: self.fire() if self._due.timers else 0),
            Chore("release", 0, self.release),
            Chore("mend limits", MEND, lambda: self._ledger.limits.calling.mend() if self._due.held else 0),
            Chore("mend batches", MEND, lambda: self._mend_batches() if self._due.members else 0),
            Chore("flows", 0, lambda: self._end_flows(lambda flows: flows.look()) if self._due.flows else 0),
            Chore("mend flows", MEND, lambda: self._end_flows(lambda flows: flows.mend())),
            Chore("forget keys", FORGET, self._ledger.limits.calling.forget),
            Chore("forget notices", FORGET, self._ledger.notices.forget),
            Chore("send at once", 0, lambda: self.send_at_once() if self._due.at_once else 0),
            Chore("stop", 0, lambda: self.stop() if self._due.stops else 0),
            Chore("declare queues", look, self.declare),
            Chore("reconcile", look, self.reconcile, has_more=lambda: self._has_more),
            Chore("monitor", WATCH, self.monitor.watch),
            Chore("heartbeats", self._bus.settings.heartbeat_every, self.monitor.beat),
            Chore("bounds", BOUNDS, self.check_bounds),
            Chore("unbounded", UNBOUNDED, self.end_bounds),
            Chore("let go", UNBOUNDED, self.let_go, has_more=lambda: self._lets_go),
            Chore("removed subscriptions", UNBOUNDED, self.end_removed),
            Chore("project", 0, self.project, sends=False),
        )

    def look(self) -> int:
        """Find out what is due, for those that send it."""
        self._due = NOTHING  # so that nothing is done when this fails
        self._due = self._ledger.due.look()
        return 0

    def look_for_pauses(self) -> int:
        """Find out which agents are paused, for the loop, which does not consume their queues."""
        self._bus.pauses.look()
        return 0

    def look_for_subscriptions(self) -> int:
        """Find out which agents the ledger declares, for the loop; of those that are new the past is looked through."""
        subscribed = self._bus.subscribed
        if subscribed is not None and subscribed.is_on and subscribed.look():
            self._has_more = True
        return 0

    def end_removed(self) -> int:
        """See to what is left of subscriptions that were removed: what failed after that, and queues."""
        table = self._ledger.subscriptions
        for removed in table.removed():
            if removed not in self._deleted and delete_queues(self._publisher, self._bus.names, removed[0]):
                self._deleted.add(removed)
        return table.end_removed()

    def relay(self) -> int:
        """Send what publishers have accepted and not sent."""
        return self.outbox.relay(self._on_the_bus(self._ledger.events.take()))

    def fire(self) -> int:
        """Publish delayed events and send retries whose time has come."""
        records, retries, lease = self._ledger.timers.take(GRACE)

        def retry() -> int:
            done, waiting = self._send(retries, "retries")
            self._ledger.timers.release(waiting, lease, PAUSE)
            self._ledger.timers.finish(done, lease)
            return len(done)

        return each((lambda: self.outbox.relay(self._on_the_bus(records)), retry))

    def release(self) -> int:
        """Let parked deliveries go on whose time, event, decision, turn or batch has come, or whose pause is over."""
        waiting = self._ledger.waiting
        due, call_due = self._due, self._ledger.limits.calling.call_due
        looks: list[tuple[bool, Callable[[], int]]] = [
            (due.waits, waiting.waits.release_due),
            (due.arrivals, partial(waiting.arrivals.release, matches)),
            (due.approvals, partial(waiting.approvals.look, meets)),
            (due.pauses, waiting.pauses.release),
            (due.turns, call_due),
            (due.batches, waiting.batches.form),
        ]
        return each(partial(self._release, look) for is_due, look in looks if is_due)

    def _end_flows(self, end: Callable[[Flows], int]) -> int:
        """End flows whose time is over, or of which nothing is left to be done; the events that follow are due now."""
        done = 0 if self._bus.flows is None else end(self._bus.flows)
        self._due = self._due._replace(outbox=self._due.outbox or done > 0)
        return done

    def _mend_batches(self) -> int:
        return self._release(self._ledger.waiting.batches.mend)

    def _release(self, look: Callable[[], int]) -> int:
        """Let deliveries go on, which are sent then; return how many did."""
        if done := look():
            self._due = self._due._replace(at_once=True)
        return done

    def stop(self) -> int:
        """Let handlers of this worker end whose tree was stopped."""
        stops = self._ledger.waiting.trees.take_stops(self._bus.worker_id)
        if stops:
            self._bus.stop_running(stops)
        return 0

    def send_at_once(self) -> int:
        """Send deliveries that somebody asked for: requeued dead letters, a new agent's past, released ones."""
        return self._send_or_ask_again(self._ledger.due.at_once())

    def reconcile(self) -> int:
        """Send again what should have reached an agent and is neither in its queue nor in anybody's hands."""
        return each((self._check, self._send_lost))

    def _check(self) -> int:
        self._has_more = bool(self._ledger.reconciliation.check(self._after))
        return 0

    def _send_lost(self) -> int:
        return each(partial(self._send_lost_of, agent) for agent in self._ledger.due.agents_with_lost(self._after))

    def _send_lost_of(self, agent: str) -> int:
        # What waits in the queue is not lost; when the queue is empty, what has no outcome is.
        if self._waiting(agent):
            return 0
        lost = self._ledger.due.lost(agent, self._after)
        if lost:
            logger.warning("agent %s: %d deliveries were in no queue and are sent again", agent, len(lost))
        return self._send_or_ask_again(lost)

    def check_bounds(self) -> int:
        """See whether more waits for agents than may, and say so once."""
        bounded = [agent for agent in self._bus.agents if agent.bound and agent.bound.max_waiting]
        if not bounded:
            return 0
        full = self._ledger.waiting.bounds.full()
        return each(partial(self._check_bound, agent, agent.name in full) for agent in bounded)

    def _check_bound(self, agent: Agent, is_full: bool) -> int:
        bound, size, bounds = agent.bound, self._waiting(agent.name), self._ledger.waiting.bounds
        assert bound is not None
        assert bound.max_waiting is not None
        if not (is_full or size >= bound.max_waiting):
            return 0
        if lets_more(agent.name, bound.max_waiting, self._ledger.workers.roll()):
            return 0  # that version looks after it: else each would end what the other begins
        if is_full and size <= bound.low:
            bounds.end(agent.name)
            logger.info("agent %s: %d events wait, which is no longer too much", agent.name, size)
        elif is_full:
            bounds.allow(agent.name, bound.overflow, size - bound.low)
        else:
            excess = size - bound.low
            told = f"{size:,} events wait, and {bound.max_waiting:,} may"
            dropped = excess if bound.overflow == SHED_OLDEST else 0
            payload = AgentBackpressure(agent_id=agent.name, queue_size=size, dropped=dropped)
            event = new_event(payload, source=self._bus.source)
            record = self.outbox.encode([event])[0]
            if bounds.begin(agent.name, bound.overflow, told, excess, record):
                logger.warning("agent %s: %s (%s)", agent.name, told, bound.overflow)
        return 0

    def end_bounds(self) -> int:
        """End what was too much for agents that have no bound any more, or are gone: nobody else looks after it."""
        full = self._ledger.waiting.bounds.full()
        for name in self._ledger.waiting.bounds.end_gone(full):
            logger.info("agent %s: nobody runs it any more, any number may wait", name)
        for agent in self._bus.agents:
            if agent.name in full and not (agent.bound and agent.bound.max_waiting):
                self._ledger.waiting.bounds.end(agent.name)
                logger.info("agent %s: it has no max_waiting= any more, any number may wait", agent.name)
        return 0

    def let_go(self) -> int:
        """Let deliveries go on that wait for limits, or in an order, which this worker's agents have no more."""
        queues = tuple(self._bus.celery.amqp.queues.consume_from)
        mine = [agent for agent in self._bus.agents if self._bus.names.queue_of(agent.name) in queues]
        has = {agent.name: {*agent.rules, *([order_of(agent.name)] if agent.order else ())} for agent in mine}
        done = self._release(partial(self._ledger.limits.calling.let_go, has))
        self._lets_go = done > 0
        return done

    def declare(self) -> int:
        """Declare this worker's queues: a broker that has lost its data no longer knows who listens."""
        for queue in tuple(self._bus.celery.amqp.queues.consume_from.values()):  # agents come and go meanwhile
            try:
                if isinstance(queue, AgentQueue):
                    with self._publisher.channel() as channel:
                        queue.declare(channel=channel)
                        if agent := self._bus.names.agent_of(queue.name):
                            self._unbind(channel, agent)
            except self._publisher.recoverable as exc:
                logger.warning("the queue %s could not be declared again: %s", queue.name, exc)
                if self._publisher.kind.objection(exc) is None:
                    break  # the broker is away
        return 0

    def _unbind(self, channel: Any, agent: str) -> None:
        """Undo the bindings that no version of an agent wants any more.

        A worker that comes up at this moment declares its own again with its next chore, and reconciliation finds what
        it has missed meanwhile.
        """
        names = self._bus.names
        for patterns in self._ledger.subscribers.left_over([agent]).values():
            queue = names.agent_queue(agent)(channel)
            for pattern in patterns:
                queue.unbind_from(names.events, pattern)
                logger.info("agent %s: no version that runs listens to %s any more, it is unbound", agent, pattern)
            self._ledger.subscribers.unbound(agent, patterns)

    def project(self) -> int:
        """Keep read models up to date; one that fails does not stop the others."""
        if not self._bus.has_projections:
            return 0
        from ..history.projections import catch_up

        def project(projection: Projection) -> int:
            try:
                done = catch_up(self._ledger, projection)
            except ProjectionFailed as exc:
                if projection.name not in self._failed:
                    logger.error("%s", exc, exc_info=exc)
                self._failed.add(projection.name)
                return 0
            self._failed.discard(projection.name)
            return done

        return each(partial(project, projection) for projection in self._bus.projections)

    def close(self) -> None:
        """Close the connection to the broker; the next chore that sends something opens another."""
        self._publisher.close()

    # -- sending

    def _on_the_bus(self, records: Sequence[Encoded]) -> list[Encoded]:
        seal = self._ledger.seal
        bus = {"ledger": seal.ledger}
        return [record._replace(bus=bus, seal=seal) for record in records]

    def _send_or_ask_again(self, messages: Sequence[Message]) -> int:
        done, waiting = self._send(messages, "deliveries")
        self._ledger.due.sent(done)
        self._ledger.due.ask_again(waiting)
        return len(done)

    def _send(self, messages: Sequence[Message], what: str) -> tuple[list[str], list[str]]:
        """Send deliveries; return those that are done with, and those that wait for the broker."""
        ids = {id(message.encoded): message.id for message in messages}
        sent = send_apart(self._publisher, [message.encoded for message in messages])
        if sent.trouble is not None:
            logger.warning("%d %s wait for the broker: %s", len(sent.waiting), what, sent.trouble)
        self._ledger.due.refuse([Bad(ids[id(encoded)], reason) for encoded, reason in sent.refused])
        done = [*sent.taken, *(encoded for encoded, _ in sent.refused)]
        return [ids[id(encoded)] for encoded in done], [ids[id(encoded)] for encoded in sent.waiting]

    def _waiting(self, agent: str) -> int:
        """Return how many messages wait in an agent's queue."""
        try:
            with self._publisher.channel() as channel:
                queue = self._bus.names.agent_queue(agent)(channel)
                queue.declare()
                return int(channel.queue_declare(queue.name, passive=True).message_count)
        except self._publisher.recoverable as exc:
            unavailable = BrokerUnavailable(f"the queue of agent {agent} cannot be looked at: {exc!r}")
            unavailable.answered = self._publisher.kind.objection(exc) is not None
            raise unavailable from exc


def matches(condition: str, event: Event) -> bool | None:
    """Say whether an event is what the filter of a wait asks for, given as JSON; None when it is not understood."""
    return meets(condition, event.attributes())


def meets(condition: str, attributes: Mapping[str, Any]) -> bool | None:
    """Say the same of the attributes of an event, as decoded JSON."""
    filter = _filter(condition)
    return None if filter is None else filter.matches(attributes)


@lru_cache(maxsize=1024)
def _filter(condition: str) -> Filter | None:
    try:
        return parse(orjson.loads(condition))
    except (InvalidFilter, ValueError) as exc:
        logger.warning("a condition is left to a newer version, this one does not understand it: %s", exc)
        return None


def each(calls: Iterable[Callable[[], int]]) -> int:
    """Do several things, each whatever becomes of the others; return the sum, or raise the first error at the end."""
    done, trouble = 0, None
    for call in calls:
        try:
            done += call()
        except Exception as exc:
            if isinstance(exc, BrokerUnavailable) and not exc.answered:
                raise  # it is away for all of them
            trouble = trouble or exc
    if trouble is not None:
        raise trouble
    return done
