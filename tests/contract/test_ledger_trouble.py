"""Ledgers that are away, locked, full or damaged: one line says what to do, and nothing is half done."""

from __future__ import annotations

import os
import re
import signal
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import Connection, delete, select, text

from pipeline import Pipeline
from pipeline.core.errors import LedgerError, LedgerRefused, LedgerUnavailable
from pipeline.ledger.database.tables import deliveries, events
from tests.harness import Broker, fill_disk
from tests.ledgers import ON_POSTGRESQL, ON_SQLITE, append, claim, engine_on, locked, refused
from tests.records import order, rows, run_agents
from tests.servers import AT_MOST, PostgreSQL, Server, free_port, wait_for

pytestmark = pytest.mark.usefixtures("no_settings")

NOBODY = 65534


# -- away


def test_a_server_that_is_away_is_named_without_its_password(fresh: Callable[..., Pipeline]) -> None:
    url = f"postgresql://ada:s3cret@127.0.0.1:{free_port()}/shop"
    message = refused(fresh(url, ledger_timeout=0.3), LedgerUnavailable, "127.0.0.1", "PIPELINE_LEDGER_URL", "doctor")
    assert "s3cret" not in message


@ON_POSTGRESQL
def test_a_wrong_password_is_not_shown(
    fresh: Callable[..., Pipeline], ledger_url: str, servers: Callable[[str], Server]
) -> None:
    rules = servers("postgresql").directory / "data" / "pg_hba.conf"
    before = rules.read_text()
    with engine_on(ledger_url, isolation_level="AUTOCOMMIT") as engine, engine.connect() as connection:
        connection.execute(text("CREATE ROLE guarded LOGIN PASSWORD 'right'"))
        try:
            rules.write_text("host all guarded 127.0.0.1/32 scram-sha-256\n" + before)
            connection.execute(text("SELECT pg_reload_conf()"))
            url = ledger_url.replace("postgres@", "guarded:s3cret@")
            message = refused(fresh(url, ledger_timeout=3), LedgerUnavailable, "password authentication failed")
        finally:
            rules.write_text(before)
            connection.execute(text("SELECT pg_reload_conf()"))
            connection.execute(text("DROP ROLE guarded"))
    assert "s3cret" not in message


@ON_POSTGRESQL
def test_publishing_goes_on_after_a_restart_of_the_server(ready: Pipeline, servers: Callable[[str], Server]) -> None:
    server = servers("postgresql")
    run_agents(ready, {"billing": "order.#"})
    server.kill()
    try:
        refused(ready, LedgerUnavailable, "cannot be reached")
    finally:
        server.start()
    ready.publish(order())
    server.kill()
    server.start()
    ready.publish(order(), targets=("billing",))
    server.kill()
    server.start()
    assert ready.ledger.deliveries.state("unknown") == (None, 0)
    assert len(rows(ready, events)) == 3, "none that was accepted is lost, though a mark that it was sent may be"


@pytest.mark.pooled
@pytest.mark.parametrize("ledger_url", ["postgresql", "pgbouncer"], indirect=True)
def test_idle_connections_that_were_ended_are_noticed_before_they_are_used(
    ready: Pipeline, ledger_url: str, servers: Callable[[str], Server]
) -> None:
    event, database = ready.publish(order()), ready.ledger.database
    server = servers("postgresql")
    assert isinstance(server, PostgreSQL)

    def end_all() -> None:
        with engine_on(server.url, isolation_level="AUTOCOMMIT") as engine, engine.connect() as connection:
            others = f"pid <> pg_backend_pid() AND datname = '{ledger_url.rpartition('/')[2]}'"
            end = text(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {others}")
            # A thread that notes what was sent may be about to open one.
            wait_for(lambda: not connection.execute(end).all(), "the connections to end")

    end_all()
    with database.session() as session:  # whoever uses it would have to begin anew
        assert session.execute(text("SELECT 1")).scalar() == 1
    end_all()
    with database.transaction() as connection, database.reading() as other:
        assert connection.execute(text("SELECT 1")).scalar() == other.execute(text("SELECT 1")).scalar() == 1
    end_all()
    assert claim(ready.ledger, event).attempt == 1


@ON_POSTGRESQL
def test_a_time_limit_in_the_middle_of_a_statement_leaves_nothing_behind(
    ready: Pipeline, ledger_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    class TimeLimitError(Exception):
        pass

    def interrupt(*_: object) -> None:
        raise TimeLimitError

    event, ledger = ready.publish(order()), ready.ledger
    assert claim(ledger, event).attempt == 1
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with engine_on(ledger_url) as engine, engine.begin() as holder:
            holder.execute(select(deliveries).with_for_update())
            signal.setitimer(signal.ITIMER_REAL, 0.3)  # a row's lock is waited for longer than that
            with pytest.raises(TimeLimitError):
                claim(ledger, event, redelivered=True)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert claim(ledger, event, redelivered=True).attempt > 1
    assert not caplog.records


@ON_POSTGRESQL
def test_after_a_refused_statement_transactions_are_whole(ready: Pipeline, ledger_url: str) -> None:
    ledger, event = ready.ledger, ready.publish(order())
    with engine_on(ledger_url) as engine, engine.begin() as holder:
        assert claim(ledger, event).attempt == 1
        holder.execute(select(deliveries).with_for_update())
        with pytest.raises(LedgerUnavailable, match="locked"):
            claim(ledger, event, redelivered=True)

    def delete_and_fail(connection: Connection) -> None:
        connection.execute(delete(events))
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        ledger.database.run(delete_and_fail)
    assert event.id in [row["id"] for row in rows(ready, events)]


# -- refused


@pytest.mark.parametrize("wrong", [{"id": None}, {"id": "\ud800"}, {"recorded": 2**70}])
def test_what_the_database_cannot_hold_is_refused_at_once_and_nothing_of_it_is_kept(
    ready: Pipeline, wrong: dict[str, object]
) -> None:
    ledger = ready.ledger
    (known,) = rows(ready, events)
    new = {**known, "seq": known["seq"] + 1, "id": "new"}
    fine, bad = ({**new, "seq": known["seq"] + n, "id": f"new-{n}", **more} for n, more in ((1, {}), (2, wrong)))
    insert = ledger.database.insert(events)
    for write in (
        lambda: ledger.database.fast.all([(insert, fine), (insert, bad)]),
        lambda: ledger.database.run(lambda connection: connection.execute(insert, [fine, bad])),
    ):
        with pytest.raises(LedgerRefused, match="does not take what was to be written") as caught:
            write()
        assert "\n" not in str(caught.value)
    assert rows(ready, events) == [known]
    assert ready.publish(order()).sent


# -- locked, full, read-only, damaged


def test_a_locked_ledger_is_waited_for_no_longer_than_it_says(
    fresh: Callable[..., Pipeline], ready: Pipeline, ledger_url: str
) -> None:
    timeout = 1.0
    first = fresh(ledger_url, ledger_timeout=timeout)
    with locked(ledger_url):
        for app in (ready, first):
            started = time.monotonic()
            refused(app, LedgerUnavailable, f"was locked for {timeout:g} s by another process")
            assert time.monotonic() - started < AT_MOST
    for app in (ready, first):
        assert app.publish(order()).sent
    assert len(rows(ready, events)) == 3


@ON_SQLITE
def test_on_a_full_disk_no_event_is_accepted_until_there_is_room(
    ready: Pipeline, ledger_url: str, tmp_path: Path
) -> None:
    broker = Broker("embedded", f"sqlite:///{tmp_path / 'small.db'}", tmp_path, ledger=ledger_url)
    accepted = fill_disk(broker, "LedgerUnavailable", 1_500_000)
    assert accepted > 0
    assert len(rows(ready, events)) == accepted + 3


@ON_SQLITE
def test_a_ledger_at_its_page_limit_takes_nothing_and_goes_on_later(ready: Pipeline) -> None:
    with ready.ledger.database.transaction() as connection:  # the next one gets the same connection
        pages = connection.execute(text("PRAGMA page_count")).scalar()
        connection.execute(text(f"PRAGMA max_page_count = {pages + 2}"))
    with pytest.raises(LedgerUnavailable, match="free space on its disk"):
        ready.publish_many([("order.placed", "x" * 100_000), order()])
    assert len(rows(ready, events)) == 1
    ready.close()
    ready.publish("order.placed", "x" * 100_000)
    assert len(rows(ready, events)) == len({row["id"] for row in rows(ready, events)}) == 2


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a directory that not even root can write to")
def test_a_directory_that_cannot_be_written_is_named(fresh: Callable[..., Pipeline]) -> None:
    refused(fresh("sqlite:////proc/ledger.db"), LedgerError, "/proc/ledger.db", "check its directory's permissions")
    refused(fresh("sqlite:////proc/new/ledger.db"), LedgerError, "/proc/new/ledger.db", "cannot be opened")


@ON_SQLITE
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become nobody and come back")
def test_a_file_that_cannot_be_written_is_named(ready: Pipeline, ledger_url: str, tmp_path: Path) -> None:
    path = Path(ledger_url.removeprefix("sqlite:///"))
    ready.close()
    path.chmod(0o444)
    opened = [one for one in (*tmp_path.parents, tmp_path) if one.stat().st_mode & 0o005 != 0o005]
    modes = {one: one.stat().st_mode for one in opened}
    try:
        for one in opened:
            one.chmod(0o755)
        os.seteuid(NOBODY)
        message = refused(ready, LedgerUnavailable, "is read-only", "check the permissions")
    finally:
        os.seteuid(0)
        for one, mode in modes.items():
            one.chmod(mode)
    assert str(path) in message
    path.chmod(0o644)
    ready.publish(order())
    assert len(rows(ready, events)) == 2


def test_a_file_that_is_no_database_is_left_alone(fresh: Callable[..., Pipeline], tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(b"this is no database, and it is long enough to look like one" * 100)
    before = path.read_bytes()
    refused(fresh(f"sqlite:///{path}"), LedgerError, "damaged or no ledger", "restore it, or move it away", str(path))
    assert path.read_bytes() == before


def test_a_directory_instead_of_a_file_is_named(fresh: Callable[..., Pipeline], tmp_path: Path) -> None:
    refused(fresh(f"sqlite:///{tmp_path}"), LedgerError, str(tmp_path))


@ON_SQLITE
def test_a_damaged_file_is_reported(ready: Pipeline, fresh: Callable[..., Pipeline], ledger_url: str) -> None:
    append(ready.ledger, 200)
    ready.close()
    path = Path(ledger_url.removeprefix("sqlite:///"))
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    content = bytearray(path.read_bytes())
    content[4096:] = os.urandom(len(content) - 4096)
    path.write_bytes(content)
    message = refused(fresh(ledger_url), LedgerError, str(path))
    assert re.search(r"damaged|has no tables", message)
