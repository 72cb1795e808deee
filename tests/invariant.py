"""The one invariant of all fault tests: every message that a worker has taken is accounted for.

What it says of each event in the log and each agent that it is for: it has an outcome or a place in the ledger where it
waits, or it is a dead letter of the ledger or of the broker, or it is back in the agent's queue.
"""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import orjson
from kombu import Queue
from sqlalchemy import select

from pipeline import Pipeline
from pipeline.core.ids import foreign_id
from pipeline.core.outcome import Outcome
from pipeline.core.routing import reaches, targets_of
from pipeline.ledger.database.tables import agents, aside, deliveries, events, outbox, timers
from tests.harness import Broker
from tests.servers import wait_for


def nothing_has_disappeared(bus: Pipeline, broker: Broker) -> None:
    """Fail with the events, and the agents that will never see them; no worker runs any more."""
    left: dict[str, set[str]] = {}

    def is_accounted_for() -> bool:  # a broker needs a moment to see that a consumer has died
        left.clear()
        left.update({agent: missing for agent, missing in _without_an_end(bus, broker).items() if missing})
        for agent in list(left):
            left[agent] -= set(_in_the_broker(bus, broker, agent))
        return not any(left.values())

    try:
        wait_for(is_accounted_for, "every event to be accounted for", 60, interval=0.2)
    except AssertionError:
        lost = {agent: sorted(missing) for agent, missing in left.items() if missing}
        raise AssertionError(f"events have disappeared, by agent: {lost}") from None


def _without_an_end(bus: Pipeline, broker: Broker) -> dict[str, set[str]]:
    """Return for each agent the events that are for it, and of which the ledger knows neither an end nor a next try.

    What a worker on Redis has popped when it was killed, as at the end of a test, Redis knows nothing of:
    reconciliation sends it again, as long as it has no delivery yet.
    """
    with bus.ledger.database.reading() as connection:
        logged = connection.execute(select(events).where(events.c.replay.is_(None))).all()
        listeners = connection.execute(select(agents)).all()
        waiting = {*connection.execute(select(outbox.c.event_id)).scalars(), *_ids(connection, aside)}
        again = set(connection.execute(select(timers.c.id)).scalars())
        known = defaultdict(list)
        for row in connection.execute(select(deliveries)):
            known[row.event_id, row.agent].append(row)
    missing: dict[str, set[str]] = {}
    for listener in listeners:
        patterns = orjson.loads(listener.patterns)
        missing[listener.name] = {
            event.id
            for event in logged
            if (event.tx, event.seq) > (listener.tx, listener.seq)
            and reaches(listener.name, patterns, event.type, targets_of(event.targets))
            and event.id not in waiting
            and not any(_has_an_end(row, again) for row in known[event.id, listener.name])
            and (broker.name != "redis" or known[event.id, listener.name])
        }
    return missing


def _ids(connection: Any, table: Any) -> Iterator[str]:
    yield from connection.execute(select(table.c.id)).scalars()


def _has_an_end(row: Any, again: set[str]) -> bool:
    """Say whether a delivery has a state in which it needs no message."""
    return row.outcome != Outcome.RUNNING.value or row.id in again


def _in_the_broker(bus: Pipeline, broker: Broker, agent: str) -> Iterator[str]:
    """Yield the ids of the events in an agent's queue and among its dead letters, and leave them there."""
    names = bus.bus.names
    if broker.name == "embedded":  # the file says it all: also what a dead worker holds, until somebody takes it over
        queues = (names.queue_of(agent), f"{names.queue_of(agent)}.dead")
        with closing(sqlite3.connect(broker.url.removeprefix("sqlite:///"))) as file:
            for meta, body in file.execute("SELECT meta, body FROM messages WHERE queue IN (?, ?)", queues):
                yield _event_id(orjson.loads(meta).get("headers", {}), body)
        return
    taken = []
    with bus.celery.connection_for_read() as connection:
        for name in (names.queue_of(agent), f"{names.queue_of(agent)}.dead"):
            queue = Queue(name, no_declare=True)(connection.channel())
            try:
                while message := queue.get():
                    taken.append(message)
            except connection.channel_errors:
                continue  # nobody has declared it
        for message in taken:
            message.requeue()
    yield from (_event_id(message.headers, message.body) for message in taken)
    if broker.name == "redis":  # what a dead worker has taken stays there until the visibility timeout has passed
        from redis import Redis

        with Redis.from_url(broker.url) as client:
            for packed in client.hvals("unacked"):  # type: ignore[union-attr]  # the client is not an async one
                message = orjson.loads(packed)[0]
                yield _event_id(message["headers"], message["body"])


def _event_id(headers: dict[str, Any], body: Any) -> str:
    if isinstance(headers.get("bus"), dict) and "task" not in headers:
        return str(headers["id"])
    try:
        event = orjson.loads(body)
        return foreign_id(event["source"], event["id"])
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return ""
