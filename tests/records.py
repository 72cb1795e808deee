"""A ledger with events and deliveries in it, for tests that need no worker."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

from kombu import Queue
from sqlalchemy import delete, select, update

from pipeline import Context, Event, Payload, Pipeline
from pipeline.core.event import new_event
from pipeline.core.ids import delivery_id, derived_id
from pipeline.core.times import SECOND
from pipeline.ledger.database.migrate import upgrade
from pipeline.ledger.database.tables import deliveries, events, outbox
from pipeline.ledger.facts import Delivery, Success


class Order(Payload, type="order.placed"):
    order_id: str
    total: float


AGENTS = {"billing": "order.#", "stock": "order.placed"}
AWAY = "amqp://guest:guest@127.0.0.1:1//"
HOUR = 3600 * SECOND


def make_app(ledger_url: str, directory: Path, *, agents: bool = True, **settings: Any) -> Pipeline:
    """Return an app on a ledger and on an embedded broker of its own; with `agents` it declares some."""
    options = {"broker_url": f"sqlite:///{directory / 'broker.db'}", **settings}
    app = Pipeline("t", ledger_url=ledger_url, directory=directory / "state", **options)
    upgrade(app.ledger.database)
    if agents:
        declare_agents(app)
    return app


def declare_agents(app: Pipeline) -> None:
    """Let an app have the AGENTS, and the ledger know them."""

    @app.agent(on="order.#")
    def billing(order: Order, ctx: Context) -> None: ...

    @app.agent(on="order.placed")
    def stock(order: Order) -> None: ...

    run_agents(app, AGENTS)


@contextmanager
def making_apps(ledger_url: str, directory: Path, **defaults: Any) -> Iterator[Callable[..., Pipeline]]:
    """Lend a function that makes apps, on this ledger or on another one; they are closed at the end."""
    with ExitStack() as made:

        def one(url: str = ledger_url, **settings: Any) -> Pipeline:
            return made.enter_context(closing(make_app(url, directory, **{**defaults, **settings})))

        yield one


def run_agents(app: Pipeline, patterns: dict[str, str]) -> None:
    """Let the ledger know agents, as workers do that start."""
    app.ledger.subscribers.register({name: ((pattern,), None) for name, pattern in patterns.items()})


def order(number: int = 1) -> Order:
    return Order(order_id=f"A{number}", total=number)


def die(app: Pipeline, event: Event, agent: str = "billing", *, error: str = "boom", replay: str | None = None) -> str:
    """Let an agent give up an event; return the delivery's id."""
    id = delivery_id(event.id, agent)
    if replay:
        id = derived_id(id, replay)
    claim = app.ledger.claim(Delivery(id, event, agent, replay=replay, broadcast=replay is None), worker="w")
    assert claim.attempt == 1
    assert app.ledger.die(id, 1, [], error=error, traceback=f"Traceback of {error}", due_in=0)
    return id


def died(app: Pipeline, number: int, **options: Any) -> list[str]:
    """Let an agent give up so many orders, one hour after the other; return the deliveries, the newest first."""
    ids = [die(app, app.publish(order(n)), **options) for n in range(number)]
    for hours, id in enumerate(reversed(ids)):
        backdate(app, id, hours * HOUR)
    return ids[::-1]


def succeed(app: Pipeline, event: Event, agent: str) -> str:
    """Let an agent handle an event; return the delivery's id."""
    id = delivery_id(event.id, agent)
    assert app.ledger.claim(Delivery(id, event, agent), worker="w").attempt
    app.ledger.succeed(Success(id, [], [], due_in=None))
    return id


def settle(app: Pipeline, events: Sequence[Event]) -> None:
    """Let every agent handle events."""
    for event in events:
        for agent in AGENTS:
            succeed(app, event, agent)


def rows(app: Pipeline, table: Any = deliveries, **like: Any) -> list[dict[str, Any]]:
    """Return the rows of a table with these values."""
    query = select(table).order_by(*(table.primary_key.columns))
    for name, value in like.items():
        query = query.where(table.c[name] == value)
    if table is outbox:
        app.bus.outbox.flush()
    with app.ledger.database.reading() as connection:
        return [dict(row) for row in connection.execute(query).mappings()]


def publish_to(app: Pipeline, agent: str, type: str, many: Sequence[dict[str, Any]]) -> list[Event]:
    """Publish events for one agent, in one go."""
    return app.publish_many([new_event(type, data, source="/test", targets=(agent,)) for data in many])


def event_ids(app: Pipeline) -> list[str]:
    """Return the ids of the events in the ledger, in their order."""
    return [row["id"] for row in rows(app, events)]


def everything(app: Pipeline) -> dict[str, list[dict[str, Any]]]:
    """Return all events and deliveries, without the transactions that wrote them."""
    return {
        "events": sorted(({**row, "tx": 0} for row in rows(app, events)), key=lambda row: row["seq"]),
        "deliveries": rows(app),
    }


def logged(app: Pipeline, type: str) -> list[Event]:
    """Return the events of a type in the log."""
    return [Event.decode(row["body"]) for row in rows(app, events, type=type)]


def backdate(app: Pipeline, id: str, micros: int, column: str = "ended") -> None:
    """Move a delivery's time into the past."""
    with app.ledger.database.transaction() as connection:
        changed = {column: deliveries.c[column] - micros}
        connection.execute(update(deliveries).where(deliveries.c.id == id).values(changed))


def age(app: Pipeline, found: Sequence[Event], micros: int) -> None:
    """Let events have been recorded longer ago."""
    app.bus.outbox.flush()
    with app.ledger.database.transaction() as connection:
        mine = events.c.id.in_([event.id for event in found])
        connection.execute(update(events).where(mine).values(recorded=events.c.recorded - micros))


def lose_outbox(app: Pipeline) -> None:
    """Let everything have been sent."""
    with app.ledger.database.transaction() as connection:
        connection.execute(delete(outbox))


def messages(app: Pipeline, agent: str) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Take all messages from an agent's queue; return for each the bus's header and the event's JSON."""
    found = []
    with app.celery.connection_for_read() as connection:
        queue = Queue(f"agent.{agent}", no_declare=True)(connection.default_channel)
        queue.queue_declare()
        while message := queue.get(no_ack=True):
            body = message.body if isinstance(message.body, str) else bytes(message.body).decode()
            found.append((message.headers["bus"], json.loads(body)))
    return found
