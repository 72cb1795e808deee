"""Logs that tests write without a broker: events, and what agents did with them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Connection

from pipeline.core.event import Encoded, Event, new_event
from pipeline.core.ids import delivery_id
from pipeline.history.tree import EventNode, Trace
from pipeline.ledger.database.rows import Write
from pipeline.ledger.facts import Delivery, Success
from pipeline.ledger.flows.rows import COMPLETED, Start
from pipeline.ledger.ledger import Ledger

START = datetime(2026, 1, 1, tzinfo=UTC)


def made(type: str = "order.created", data: Any = None, *, at: float = 0, agent: str = "", **options: Any) -> Event:
    """Return an event that happened some seconds after START."""
    source = f"/shop/agent/{agent}" if agent else "/shop"
    return new_event(type, data, source=source, **options).model_copy(update={"time": START + timedelta(seconds=at)})


def put(ledger: Ledger, *written: Event, connection: Connection | None = None, **more: Any) -> list[str]:
    """Append events to the log and return their ids; `more` are fields of Encoded."""
    ledger.append([Encoded(event, event.encode(), **more) for event in written], due_in=None, connection=connection)
    return [event.id for event in written]


def begin(ledger: Ledger, event: Event, agent: str) -> str:
    """Let an agent begin to handle an event; return the delivery's id."""
    id = delivery_id(event.id, agent)
    assert ledger.claim(Delivery(id, event, agent), worker="w1").attempt
    return id


def succeed(ledger: Ledger, event: Event, agent: str, *emitted: Event, joins: Sequence[Write] = ()) -> str:
    """Let an agent handle an event and emit others; return the delivery's id."""
    id = begin(ledger, event, agent)
    records = [Encoded(each, each.encode(), delivery=id) for each in emitted]
    ledger.succeed(Success(id, records, rows=joins, due_in=None))
    return id


def numbered(number: int, type: str = "order.created", **options: Any) -> Event:
    """Return an event with a number, which happened so many seconds after START."""
    return made(type, {"n": number}, **{"at": number, **options})


def numbers(found: Iterable[Any]) -> list[int]:
    """Return the numbers of events that were read."""
    return [each.event.data["n"] for each in found]


def outline(found: Trace) -> list[tuple[int, str]]:
    """Return the tree as depths and names, without saying of what that nobody listens to it."""
    named = [(depth, node.type if isinstance(node, EventNode) else node.agent) for depth, node in found.walk()]
    return [(depth, name) for depth, name in named if name]


def cascade(ledger: Ledger) -> dict[str, Event]:
    """An order is paid for and mailed about; the payment is booked; somebody else publishes an effect by hand."""
    order = made("order.created", {"n": 1}, priority=2)
    paid = made("order.paid", cause=order, agent="billing")
    mailed = made("mail.sent", cause=order, agent="mailer")
    booked = made("payment.booked", cause=paid, agent="books")
    note = made("note.made", cause=order)
    put(ledger, order)
    succeed(ledger, order, "billing", paid)
    succeed(ledger, order, "mailer", mailed)
    succeed(ledger, paid, "books", booked)
    put(ledger, note)
    return {event.type: event for event in (order, paid, mailed, booked, note)}


def started_join(event: Event, id: str | None = None) -> list[Write]:
    """Return what starts a join without members."""
    about = ("briefing", "join", event.key, event.correlation_id, b"{}")
    return Start(id or delivery_id(event.id, "join"), *about, members=()).rows()


def end_join(ledger: Ledger, id: str, done: Event) -> None:
    """Publish the event of a join."""

    def work(connection: Connection) -> None:
        ledger.append([Encoded(done, done.encode())], due_in=0, connection=connection)
        ledger.waiting.flows.finish(connection, id, COMPLETED, "all")

    ledger.database.run(work)
