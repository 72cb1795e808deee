"""PostgreSQL through PgBouncer: each transaction may be on another of the server's processes, and nothing is special.

What the tests of ledgers that are marked "pooled" show on it is not repeated here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import text

from pipeline import Pipeline
from pipeline.core.errors import LedgerUnavailable
from pipeline.ledger.database.migrate import upgrade
from pipeline.ledger.database.tables import events
from tests.ledgers import append, claim, engine_on, refused, sweep
from tests.pooler import PgBouncer
from tests.records import order, rows
from tests.servers import AT_MOST, Server

pytestmark = pytest.mark.usefixtures("no_settings")


@pytest.fixture(params=["transaction", "session"])
def pooler(request: pytest.FixtureRequest, servers: Callable[[str], Server]) -> Iterator[PgBouncer]:
    """A pooler in each mode."""
    shared = servers("pgbouncer")
    assert isinstance(shared, PgBouncer)
    if request.param == "transaction":
        yield shared
        return
    other = PgBouncer(shared.behind, "session")
    other.start()
    yield other
    other.stop()


@pytest.fixture
def url(pooler: PgBouncer) -> Iterator[str]:
    """The address of an empty database, through a pooler."""
    found = pooler.behind.database()
    yield pooler.through(found)
    pooler.behind.drop(found)


@pytest.fixture
def pooled(url: str, fresh: Callable[..., Pipeline]) -> Pipeline:
    """An app on an empty ledger, through a pooler."""
    app = fresh(url, ledger_timeout=2)
    upgrade(app.ledger.database)
    return app


def test_the_bounds_of_a_transaction_stay_in_it(pooled: Pipeline, pooler: PgBouncer, url: str) -> None:
    settings = "SELECT current_setting('lock_timeout'), current_setting('idle_in_transaction_session_timeout')"
    append(pooled.ledger)
    for begin in (pooled.ledger.database.reading, pooled.ledger.database.transaction):
        with begin() as connection:
            assert connection.execute(text(settings)).one() == ("2s", "0")
    with pooled.ledger.database.session() as session:
        assert session.execute(text(settings)).one() == ("2s", "0")
    with engine_on(url) as engine, engine.connect() as other:
        assert other.execute(text(settings)).one() == ("0", "0"), (
            "another client of the same server process has its own"
        )


def test_a_lock_is_waited_for_no_longer_than_it_says(pooled: Pipeline, url: str) -> None:
    event = pooled.publish(order())
    with engine_on(url) as engine, engine.connect() as holder:
        holder.execute(text("LOCK TABLE pipeline_events, pipeline_deliveries"))
        started = time.monotonic()
        refused(pooled, LedgerUnavailable, "was locked for 2 s")
        with pytest.raises(LedgerUnavailable, match="was locked for 2 s"):
            claim(pooled.ledger, event)
        assert time.monotonic() - started < AT_MOST
        holder.rollback()
    assert claim(pooled.ledger, event).attempt == 1


def test_many_clients_share_a_few_server_processes_and_no_statement(
    pooled: Pipeline, url: str, fresh: Callable[..., Pipeline]
) -> None:
    # Each client would prepare its statements under the same names, after it has run them five times.
    apps = [pooled, *(fresh(url, ledger_timeout=AT_MOST) for _ in range(5))]

    def work(app: Pipeline) -> list[str]:
        mine = []
        for n in range(12):
            event = app.publish(order(n))
            assert claim(app.ledger, event).attempt == 1
            app.ledger.mark_sent([event.id])
            mine.append(event.id)
        return mine

    with ThreadPoolExecutor(len(apps)) as threads:
        published = [id for ids in threads.map(work, apps) for id in ids]
    assert sorted(published) == sorted(row["id"] for row in rows(pooled, events))
    with engine_on(url) as engine, engine.connect() as other:
        assert other.execute(text("SELECT name FROM pg_prepared_statements")).all() == []


def test_connections_that_the_pooler_has_cut_are_replaced(pooled: Pipeline, pooler: PgBouncer) -> None:
    pooled.publish(order())
    pooler.kill()
    try:
        refused(pooled, LedgerUnavailable, "cannot be reached")
    finally:
        pooler.start()
    pooled.publish(order())
    assert len(rows(pooled, events)) == 2
    sweep(pooled)


def test_a_pooler_that_takes_no_more_clients_is_waited_for(pooled: Pipeline, pooler: PgBouncer) -> None:
    pooled.publish(order())
    pooled.close()
    pooler.command_to("SET max_client_conn = 1")
    try:
        with engine_on(pooler.url) as engine, engine.connect():
            refused(pooled, LedgerUnavailable, "no more connections allowed")
    finally:
        pooler.kill()  # its console would be one client too many
        pooler.start()
    pooled.publish(order())
    assert len(rows(pooled, events)) == 2
