"""The PostgreSQL server of the tests: what they build on when they use a ledger there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import psutil
import psycopg
import pytest

from tests.servers import PostgreSQL, Server, wait_for


@pytest.fixture
def server(servers: Callable[[str], Server]) -> PostgreSQL:
    """The server that the session's tests share."""
    found = servers("postgresql")
    assert isinstance(found, PostgreSQL)
    return found


@pytest.fixture
def own(server: PostgreSQL) -> Iterator[PostgreSQL]:
    """A server that may be stopped for good."""
    one = PostgreSQL()
    one.start()
    yield one
    one.stop()


def connect(url: str) -> psycopg.Connection:
    return psycopg.connect(url.replace("+psycopg", ""), autocommit=True, connect_timeout=20)


def ask(url: str, question: str) -> list[tuple]:
    with connect(url) as connection:
        return connection.execute(question).fetchall()


def tables(url: str) -> list[tuple]:
    return ask(url, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'")


def processes(server: PostgreSQL) -> list[psutil.Process]:
    """Return the server's first process and all it has started."""
    assert server.process is not None
    first = psutil.Process(server.process.pid)
    return [first, *first.children(recursive=True)]


def running(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_the_server_keeps_the_promises_of_a_real_one(server: PostgreSQL) -> None:
    assert server.url == f"postgresql+psycopg://postgres@127.0.0.1:{server.port}/postgres"
    assert ask(server.url, "SHOW synchronous_commit") == ask(server.url, "SHOW full_page_writes") == [("on",)]
    # Only a machine that stops would lose by it, and no test stops one: what a killed server wrote, the kernel has.
    assert ask(server.url, "SHOW fsync") == [("off",)]
    assert ask(server.url, "SHOW server_encoding") == [("UTF8",)]
    assert ask(server.url, "SHOW data_directory") == [(str(server.directory / "data"),)]


def test_each_database_is_empty_and_separate(server: PostgreSQL) -> None:
    first, second = server.database(), server.database()
    try:
        with connect(first) as connection:
            connection.execute("CREATE TABLE here (n int)")
            assert tables(first) == [("here",)]
            assert tables(second) == tables(server.url) == []
            server.drop(first)  # while a client is connected
        with pytest.raises(psycopg.OperationalError, match="does not exist"):
            connect(first)
    finally:
        server.drop(second)


def test_a_killed_server_comes_back_with_what_was_committed(server: PostgreSQL) -> None:
    url = server.database()
    with connect(url) as connection:
        connection.execute("CREATE TABLE kept (n int)")
        connection.execute("INSERT INTO kept VALUES (1)")
        before = processes(server)
        server.kill()
        assert not any(running(process) for process in before)
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")
    server.start()
    assert ask(url, "SELECT n FROM kept") == [(1,)]
    server.drop(url)


def test_a_paused_server_answers_nobody_until_it_is_resumed(server: PostgreSQL) -> None:
    with closing(connect(server.url)) as connection, ThreadPoolExecutor(1) as thread:
        server.pause()
        try:
            answer = thread.submit(connection.execute, "SELECT 1")
            assert not server.is_ready()
            assert not answer.done(), "who was connected before is frozen too"
        finally:
            server.resume()
        assert answer.result(timeout=60).fetchall() == [(1,)]
    wait_for(server.is_ready, "the server to serve again")


@pytest.mark.parametrize("state", ["idle", "serving", "paused", "killed"])
def test_stop_leaves_no_process_and_no_directory_behind(own: PostgreSQL, state: str) -> None:
    with closing(connect(own.url)) as connection:
        before = processes(own)
        assert len(before) > 2
        if state == "serving":
            connection.pgconn.send_query(b"SELECT pg_sleep(60)")
        if state == "paused":
            own.pause()
            assert not own.is_ready()  # and a client is left at the door
        if state == "killed":
            own.kill()
        own.stop()
        assert not any(running(process) for process in before)
    assert not own.directory.exists()


def test_the_fixture_gives_an_empty_ledger(ledger_url: str) -> None:
    if ledger_url.startswith("postgresql+psycopg://"):
        assert tables(ledger_url) == []
    else:
        assert ledger_url.endswith("/ledger.db")
