"""Connections to the ledger's database: each thread keeps one, and gives it back when it ends."""

from __future__ import annotations

import os
import sqlite3
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from pipeline import Event, Pipeline
from pipeline.core.ids import delivery_id
from pipeline.ledger.database.kept import BESIDE, KEPT
from pipeline.ledger.facts import Success
from pipeline.ledger.ledger import Ledger
from tests.ledgers import ON_SQLITE, claim, engine_on, new_order
from tests.records import rows
from tests.servers import wait_for
from tests.threads import in_threads

pytestmark = [pytest.mark.usefixtures("living_worker"), pytest.mark.pooled]


def open_connections(ledger: Ledger) -> int:
    """Return how many connections to the ledger its pool knows."""
    pool: Any = ledger.database.engine.pool
    found: int = pool.checkedin() + pool.checkedout()
    return found


def deliver(ledger: Ledger) -> Event:
    """Claim a delivery and record its success."""
    event = new_order()
    assert claim(ledger, event).attempt == 1
    ledger.succeed(Success(delivery_id(event.id, "billing"), first=True))
    return event


def test_a_thread_has_one_connection_whatever_it_does(ledger: Ledger) -> None:
    for _ in range(3):
        deliver(ledger)
        with ledger.database.reading() as connection:
            assert connection.execute(text("SELECT 1")).scalar() == 1
        deliver(ledger)
        with ledger.database.session() as session:
            assert session.execute(text("SELECT 1")).scalar() == 1
    assert open_connections(ledger) == 1


@pytest.mark.parametrize("how", ["reading", "transaction"])
def test_a_connection_that_is_in_use_while_its_pool_is_closed_is_ended_and_not_forgotten(
    ledger: Ledger, how: str
) -> None:
    deliver(ledger)
    with getattr(ledger.database, how)() as connection:
        driver: Any = connection.connection.driver_connection
        connection.execute(text("SELECT 1"))
        ledger.close()
    assert has_ended(driver)
    deliver(ledger)


def has_ended(driver: Any) -> bool:
    if not isinstance(driver, sqlite3.Connection):
        return bool(driver.closed)
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        driver.execute("SELECT 1")
    return True


def test_a_connection_that_a_pool_opened_while_it_was_closed_is_ended_too(ledger: Ledger) -> None:
    deliver(ledger)
    before = ledger.database.engine.pool
    ledger.close()
    late = before.connect()  # by a thread that had got hold of the pool a moment ago
    driver = late.driver_connection
    late.close()
    assert has_ended(driver)


@pytest.mark.parametrize("ledger_url", ["sqlite", "postgresql"], indirect=True)
def test_of_pools_that_several_threads_close_at_once_none_keeps_a_connection(ledger: Ledger, ledger_url: str) -> None:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        in_threads(6, lambda n: [(deliver(ledger), ledger.close()) for _ in range(20)])
    finally:
        sys.setswitchinterval(interval)
    ledger.close()
    wait_for(lambda: number_of_connections(ledger_url) == 0, "the connections to end")


def test_threads_that_have_ended_have_given_their_connections_back(app: Pipeline, ledger: Ledger) -> None:
    pool: Any = ledger.database.engine.pool
    ledger.close()
    for _ in range(3):
        in_threads(KEPT - 1, lambda n: [deliver(ledger) for _ in range(3)])
        wait_for(lambda: pool.checkedout() == 0, "the threads' ends")
        assert open_connections(ledger) < KEPT
    assert len(rows(app, outcome="succeeded")) == 3 * 3 * (KEPT - 1)


def test_more_threads_than_may_keep_one_share_what_the_pool_has(app: Pipeline, ledger: Ledger) -> None:
    number = KEPT + BESIDE + 10
    counts = in_threads(number, lambda n: [(deliver(ledger), open_connections(ledger))[1] for _ in range(3)])
    assert max(max(each) for each in counts) <= KEPT + BESIDE
    assert len(rows(app, outcome="succeeded")) == 3 * number


@pytest.mark.parametrize("ledger_url", ["sqlite", "postgresql"], indirect=True)
def test_closing_ends_what_other_threads_keep_and_they_go_on(ledger: Ledger, ledger_url: str) -> None:
    with ThreadPoolExecutor(3) as threads:
        barrier = threading.Barrier(3)

        def work(_: int) -> None:
            deliver(ledger)
            barrier.wait(20)

        for _ in range(2):
            list(threads.map(work, range(3)))
            assert number_of_connections(ledger_url) >= 3
            ledger.close()
            wait_for(lambda: number_of_connections(ledger_url) == 0, "the connections to end")


def number_of_connections(url: str) -> int:
    """Return how many connections of this process, or to this database, there are."""
    if url.startswith("sqlite"):
        path = url.removeprefix("sqlite:///")
        return sum(os.path.realpath(each) == path for each in Path("/proc/self/fd").iterdir())
    with engine_on(url) as engine, engine.connect() as connection:
        others = "pid <> pg_backend_pid() AND datname = current_database() AND query LIKE '%pipeline_%'"
        return int(connection.execute(text(f"SELECT count(*) FROM pg_stat_activity WHERE {others}")).scalar() or 0)


def test_a_child_leaves_its_parents_connections_alone_and_has_its_own(app: Pipeline, ledger: Ledger) -> None:
    deliver(ledger)
    for _ in range(2):
        if (pid := os.fork()) == 0:
            try:
                deliver(ledger)
                ledger.close()
                os._exit(0)
            finally:
                os._exit(1)
        deliver(ledger)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        deliver(ledger)
    assert len(rows(app, outcome="succeeded")) == 7


@ON_SQLITE
def test_when_the_file_is_deleted_every_thread_goes_on_in_the_new_one(
    fresh: Callable[..., Pipeline], ledger: Ledger, ledger_url: str, tmp_path: Path
) -> None:
    with ThreadPoolExecutor(2) as threads:
        barrier = threading.Barrier(2)

        def work(_: int) -> Event:
            event = deliver(ledger)
            barrier.wait(20)
            return event

        list(threads.map(work, range(2)))
        first = ledger.id
        for file in tmp_path.glob("ledger.db*"):
            file.unlink()
        wait_for(lambda: ledger.id != first, "the ledger to look at its file")
        ledger.workers.heartbeat("w1")
        found = list(threads.map(work, range(2)))
    other = fresh(ledger_url)
    assert {row["event_id"] for row in rows(other, outcome="succeeded")} == {event.id for event in found}
