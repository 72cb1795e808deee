"""A database that takes no writes for a while, as after a failover: waited for like one that is away."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

import pytest
from sqlalchemy import text

from pipeline import Pipeline
from pipeline.core.errors import LedgerUnavailable
from pipeline.ledger.database.tables import events
from tests.harness import Broker, Worker
from tests.ledgers import ON_POSTGRESQL, ON_SQLITE, claim, engine_on, refused
from tests.pooler import Standby
from tests.records import order, rows
from tests.servers import PostgreSQL, Server, wait_for

pytestmark = pytest.mark.usefixtures("no_settings")


@pytest.fixture
def server(servers: Callable[[str], Server]) -> PostgreSQL:
    """The server that the session's tests share."""
    found = servers("postgresql")
    assert isinstance(found, PostgreSQL)
    return found


@contextmanager
def read_only(server: PostgreSQL, of: str = "SYSTEM") -> Iterator[None]:
    """Let transactions be read-only: those of all connections, or those of connections to a database that are new."""
    with engine_on(server.url, isolation_level="AUTOCOMMIT") as engine, engine.connect() as connection:

        def say(*statements: str) -> None:
            for statement in statements:
                connection.execute(text(statement))

        say(f"ALTER {of} SET default_transaction_read_only = on", "SELECT pg_reload_conf()")
        try:
            yield
        finally:
            say(f"ALTER {of} RESET default_transaction_read_only", "SELECT pg_reload_conf()")


def is_read_only(app: Pipeline) -> bool:
    with app.ledger.database.reading() as connection:
        return connection.execute(text("SHOW transaction_read_only")).scalar() == "on"


@pytest.mark.pooled
@pytest.mark.parametrize("ledger_url", ["postgresql", "pgbouncer"], indirect=True)
@pytest.mark.parametrize("broker", ["embedded"], indirect=True)
def test_while_the_server_is_read_only_a_worker_waits_and_loses_counts_and_repeats_nothing(
    ready: Pipeline, broker: Broker, ledger_url: str, server: PostgreSQL, make: Callable[..., Pipeline]
) -> None:
    bus = make(ledger_timeout=1, broker_url=broker.url)
    on = Broker(broker.name, broker.url, broker.directory, ledger=ledger_url)
    worker = Worker(on, app="durable_app", pool="prefork", environment={"PIPELINE_LEDGER_TIMEOUT": "0.5"})
    worker.start()
    assert worker.process is not None
    try:
        bus.settle(bus.publish("order.first", {"n": 0}), timeout=60)
        os.killpg(worker.process.pid, signal.SIGSTOP)
        sent = bus.publish_many([("order.next", {"n": n}) for n in range(10)])
        with read_only(server):
            wait_for(lambda: is_read_only(bus), "the server to be read-only")
            refused(bus, LedgerUnavailable, "is read-only", "PIPELINE_LEDGER_URL")
            os.killpg(worker.process.pid, signal.SIGCONT)
            for part in ("the heartbeat goes on", " goes on in 1 s", "Reject"):
                wait_for(lambda part=part: part in worker.output(), f"{part} in the worker's log")  # type: ignore[misc]
            assert worker.is_running()
        for event in sent:
            bus.settle(event, timeout=60)
        ids = {event.id for event in sent}
        attempts = [(line["id"], line["attempt"]) for line in on.journal.lines(agent="order", type="order.next")]
        assert sorted(attempts) == sorted((id, 1) for id in ids)
        echoes = on.journal.count(agent="echo")
        assert set(echoes.values()) == {1}
        assert ids <= {line["causation"] for line in on.journal.lines(agent="echo")}
        assert bus.dead_letters.count() == {}
    finally:
        worker.kill()


@ON_POSTGRESQL
def test_connections_that_were_opened_while_the_server_was_read_only_are_not_kept(
    ready: Pipeline, fresh: Callable[..., Pipeline], ledger_url: str, server: PostgreSQL
) -> None:
    event = ready.publish(order())
    with read_only(server, of=f"DATABASE {ledger_url.rpartition('/')[2]}"):
        late = fresh(ledger_url, ledger_timeout=2)
        ready.close()
        for app in (late, ready):
            refused(app, LedgerUnavailable, "is read-only")
            with pytest.raises(LedgerUnavailable, match="is read-only"):
                app.ledger.workers.heartbeat("w1")  # by SQLAlchemy's own way
            with app.ledger.database.reading():
                assert is_read_only(app), "and two connections are open"
    for app in (late, ready):
        app.ledger.workers.heartbeat("w1")
        assert claim(app.ledger, app.publish(order())).attempt == 1
        assert not is_read_only(app)
    assert event.id in [row["id"] for row in rows(ready, events)]


@ON_SQLITE
def test_a_connection_to_a_file_that_is_read_only_is_replaced(ready: Pipeline) -> None:
    with ready.ledger.database.transaction() as connection:
        connection.execute(text("PRAGMA query_only = on"))  # which a connection keeps, as one to such a file does
    ready.publish(order())
    assert len(rows(ready, events)) == 2


@pytest.fixture
def standby(server: PostgreSQL) -> Iterator[Standby]:
    """A hot standby of the server."""
    one = Standby(server)
    one.start()
    yield one
    one.stop()


@ON_POSTGRESQL
def test_a_standby_can_be_read_and_takes_events_as_soon_as_it_is_promoted(
    ready: Pipeline, fresh: Callable[..., Pipeline], ledger_url: str, standby: Standby
) -> None:
    (logged,) = rows(ready, events)
    url = standby.instead(ledger_url)
    with closing(fresh(url, ledger_timeout=2)) as app:
        wait_for(lambda: rows(app, events) == [logged], "the standby to have the event")
        refused(app, LedgerUnavailable, "is read-only", "PIPELINE_LEDGER_URL")
        with pytest.raises(LedgerUnavailable, match="is read-only"):
            app.ledger.events.take()
        standby.promote()
        wait_for(lambda: not is_read_only(app), "the standby to be the first server")
        assert app.publish(order()).sent
        assert len(rows(app, events)) == 2
