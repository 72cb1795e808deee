"""Settling: whether all that an event has caused is done, and waiting for that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, select

from ..core.errors import InvalidSelection, SettleTimeout
from ..core.outcome import OPEN, Outcome
from ..core.times import passed, pause
from ..ledger.aside import read_all
from ..ledger.database.rows import chunks
from ..ledger.database.tables import events, outbox, timers
from ..ledger.ledger import Ledger
from ..ledger.subscribers import Asked
from .events import unknown_event
from .trace import at_one_time, trace, tree_of
from .tree import DeliveryNode, EventNode, FlowNode, Trace

#: Things that a message lists.
_LISTED = 10


@dataclass(frozen=True)
class Settled:
    """Whether all that an event has caused is done; if not, what is open. Dead deliveries are done.

    Attributes:
        unsent: events that the broker does not have yet.
        timers: delayed events that are not due yet.
        deliveries: those that wait, run or are to be retried.
        undelivered: events on their way to an agent, with its name.
        flows: those that are not complete.

    """

    unsent: tuple[EventNode, ...] = ()
    timers: tuple[str, ...] = ()
    deliveries: tuple[tuple[EventNode, DeliveryNode], ...] = ()
    undelivered: tuple[tuple[EventNode, str], ...] = ()
    flows: tuple[FlowNode, ...] = ()

    def __bool__(self) -> bool:
        """Say whether nothing is open."""
        return not (self.unsent or self.timers or self.deliveries or self.undelivered or self.flows)

    def lines(self) -> list[str]:
        """Return one line for each thing that is open."""
        return [
            *(f"{event.type} {event.id} is not sent yet" for event in self.unsent),
            *(f"the delayed event {id} is not due yet" for id in self.timers),
            *(
                f"agent {delivery.agent!r} has {event.type} {event.id}: {_state(delivery)}"
                for event, delivery in self.deliveries
            ),
            *(f"agent {name!r} has not begun with {event.type} {event.id}" for event, name in self.undelivered),
            *(f"{flow.kind} {flow.name!r} of {flow.event} is not complete" for flow in self.flows),
        ]


def _state(delivery: DeliveryNode) -> str:
    """Return what a delivery is, and of one that waits until when and for what."""
    if delivery.outcome is not Outcome.PARKED:
        return delivery.outcome.value
    until = f" until {delivery.due.isoformat(sep=' ', timespec='seconds')}" if delivery.due else ""
    return f"{delivery.outcome.value}{until}, {delivery.error}"


def settled(ledger: Ledger, event_id: str) -> Settled:
    """Say what is still open of an event and of everything it has caused.

    Raises UnknownEvent.
    """
    with at_one_time(ledger) as connection:
        correlation, is_published = _place(connection, event_id)
        if correlation is None:
            raise unknown_event(ledger, connection, event_id)
        if not is_published:
            return Settled(timers=(event_id,))
        return _settled(ledger, connection, tree_of(connection, correlation, event_id))


def all_settled(ledger: Ledger, correlation: str) -> Settled:
    """Say what is still open of all events of a correlation; nothing is where there are none."""
    with at_one_time(ledger) as connection:
        return _settled(ledger, connection, tree_of(connection, correlation, None))


def _settled(ledger: Ledger, connection: Connection, tree: Trace) -> Settled:
    caused = list(tree)
    return Settled(
        unsent=_unsent(connection, caused),
        timers=_delayed(connection, tree.correlation, caused),
        deliveries=tuple(
            (event, delivery) for event in caused for delivery in event.deliveries if delivery.outcome in OPEN
        ),
        undelivered=_undelivered(ledger, connection, caused),
        flows=tuple(flow for flow in tree.flows if not flow.ended),
    )


def settle(ledger: Ledger, event_id: str, timeout: float, interval: float = 0.05) -> Trace:
    """Wait until everything that an event has caused is done, and return its trace.

    Arguments:
        timeout: seconds.
        interval: seconds between two looks.

    Raises SettleTimeout that lists what is still open, or UnknownEvent.

    """
    if not (timeout >= 0 and interval > 0):
        raise InvalidSelection(f"timeout: {timeout!r} and interval {interval!r} must be seconds of 0 or more")
    deadline = passed() + timeout
    while not (state := settled(ledger, event_id)):
        left = deadline - passed()
        if left <= 0:
            raise SettleTimeout(_still_open(event_id, timeout, state.lines()))
        pause(min(interval, left))  # between two looks: what settles is in other processes
    return trace(ledger, event_id)


def _still_open(event_id: str, timeout: float, lines: Sequence[str]) -> str:
    more = f"; and {len(lines) - _LISTED} more" if len(lines) > _LISTED else ""
    return f"after {timeout:g} s event {event_id} has not settled: {'; '.join(lines[:_LISTED])}{more}"


def _place(connection: Connection, event_id: str) -> tuple[str | None, bool]:
    """Return an event's correlation, and whether it is published: a delayed one is a timer until then."""
    correlation = connection.execute(select(events.c.correlation).where(events.c.id == event_id)).scalar()
    if correlation is not None:
        return correlation, True
    delayed = select(timers.c.correlation).where(timers.c.id == event_id, timers.c.kind == "publish")
    return connection.execute(delayed).scalar(), False


def _unsent(connection: Connection, caused: Sequence[EventNode]) -> tuple[EventNode, ...]:
    ids: set[str] = set()
    for some in chunks([event.id for event in caused]):
        ids.update(connection.execute(select(outbox.c.event_id).where(outbox.c.event_id.in_(some))).scalars())
    return tuple(event for event in caused if event.id in ids)


def _delayed(connection: Connection, correlation: str, caused: Sequence[EventNode]) -> tuple[str, ...]:
    """Return the delayed events that one of these events has caused; retries show as deliveries."""
    query = select(timers.c.id, timers.c.body).where(timers.c.correlation == correlation, timers.c.kind == "publish")
    causes = {event.given for event in caused}
    rows = connection.execute(query.order_by(timers.c.due)).all()
    return tuple(one.event.key for one in read_all(rows)[0] if one.event.causation_id in causes)


def _undelivered(
    ledger: Ledger, connection: Connection, caused: Sequence[EventNode]
) -> tuple[tuple[EventNode, str], ...]:
    """Return which agents are still to get which events.

    What lies before an agent's cursor in the log was never meant for it, or has a delivery already; what its filter
    keeps back and nobody records never has one.
    """
    have = {
        (event.id, one.agent) for event in caused for one in event.deliveries if one.replay is None and one.flow is None
    }
    missing = []
    for listener in ledger.subscribers.listeners(connection):
        awaited = [
            event
            for event in caused
            if event.replay is None
            and event.position > listener.position
            and (event.id, listener.name) not in have
            and listener.hears(event.type, event.targets)
        ]
        asked = (Asked(event.id, event.type, event.targets) for event in awaited)
        kept_back = ledger.subscribers.kept_back(connection, listener, asked)
        missing += [(event, listener.name) for event in awaited if event.id not in kept_back]
    return tuple(missing)
