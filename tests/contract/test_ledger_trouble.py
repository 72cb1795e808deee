"""Ledgers that are wrong, away, locked, full or damaged: one line says what to do, and nothing is half done."""

from __future__ import annotations

import builtins
import os
import re
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Engine, create_engine, inspect, text

from pipeline import Pipeline
from pipeline.errors import ConfigError, LedgerError, LedgerUnavailable, PipelineError
from pipeline.ledger import migrate, tables
from pipeline.ledger.migrate import HEAD, VERSION_TABLE, upgrade
from pipeline.ledger.store import Store
from pipeline.ledger.tables import events
from pipeline.sweeper import SweeperStep
from tests.harness import Broker, Worker, run
from tests.ledgers import append
from tests.records import make_app, order, rows, run_agents
from tests.servers import Server, free_port

ON_POSTGRESQL = pytest.mark.parametrize("ledger_url", ["postgresql"], indirect=True)
ON_SQLITE = pytest.mark.parametrize("ledger_url", ["sqlite"], indirect=True)
NOBODY = 65534


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("PIPELINE_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Pipeline]]:
    """Make apps that have not looked at their ledger yet."""
    made: list[Pipeline] = []

    def one(url: str, **settings: Any) -> Pipeline:
        broker = f"sqlite:///{tmp_path / 'broker.db'}"
        made.append(Pipeline("t", broker_url=broker, directory=tmp_path / "state", ledger_url=url, **settings))
        return made[-1]

    yield one
    for app in made:
        app.close()


@pytest.fixture
def ready(ledger_url: str, tmp_path: Path) -> Iterator[Pipeline]:
    """An app on a ledger that works, with one event in it."""
    app = make_app(ledger_url, tmp_path, agents=False, ledger_timeout=1)
    app.publish(order())
    yield app
    app.close()


@contextmanager
def engine_on(url: str, **options: Any) -> Iterator[Engine]:
    """Somebody else's way to the ledger's database."""
    engine = create_engine(url, **options)
    yield engine
    engine.dispose()


def refused(app: Pipeline, kind: type[PipelineError], *words: str) -> str:
    """Publish in vain; return what the error says, which is one line with these words."""
    with pytest.raises(kind) as caught:
        app.publish(order())
    message = str(caught.value)
    assert type(caught.value) is kind
    assert "\n" not in message
    for word in words:
        assert word in message
    return message


# -- wrong addresses

WRONG = [
    ("nonsense", "ledger_url"),
    ("mysql://localhost/x", "ledger_url"),
    ("postgres", "ledger_url"),
    ("sqlite://", "needs a file"),
    ("sqlite:///:memory:", "needs a file"),
    ("sqlite:///x.db?synchronus=full", "there is no synchronus=full"),
    ("sqlite:///x.db?synchronous=FULL", "SQLite takes synchronous=normal or =full"),
    ("postgresql://localhost:port/x", "is no database address"),
    ("postgresql://ada:s3@cret@localhost/x", "%40"),
    ("mysql://ada:s3@cret@localhost/x", "ledger_url"),
]


@pytest.mark.parametrize(("url", "words"), WRONG)
def test_a_wrong_address_is_refused_without_its_password(url: str, words: str, tmp_path: Path) -> None:
    for attempt in (lambda: Store(url), lambda: Pipeline("t", ledger_url=url, directory=tmp_path).publish(order())):
        with pytest.raises(ConfigError) as caught:
            attempt()
        message = str(caught.value)
        assert words in message or "ledger_url" in message
        assert "\n" not in message
        assert "cret" not in message
        assert "s3" not in message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("scheme", ["sqlite", "sqlite+pysqlite", "sqlite+aiosqlite"])
def test_an_address_with_another_driver_works_all_the_same(
    make: Callable[..., Pipeline], tmp_path: Path, scheme: str
) -> None:
    assert make(f"{scheme}:///{tmp_path / 'ledger.db'}").publish(order()).sent
    assert Store("postgres://localhost/x").url.drivername == "postgresql+psycopg"


def test_the_options_of_an_address_are_kept() -> None:
    assert Store("sqlite:////x.db?synchronous=full")._synchronous == "FULL"
    url = "postgresql://localhost/x?options=-csearch_path%3Dshop&sslmode=require"
    _, arguments = Store(url).engine.dialect.create_connect_args(Store(url).url)
    assert arguments["sslmode"] == "require"


@ON_POSTGRESQL
def test_what_the_address_asks_of_the_server_is_not_lost(ledger_url: str) -> None:
    with engine_on(ledger_url) as engine, engine.begin() as connection:
        connection.execute(text("CREATE SCHEMA shop"))
    store = Store(ledger_url + "?options=-csearch_path%3Dshop", timeout=3)
    upgrade(store)
    with store.reading() as connection:
        assert inspect(connection).get_table_names(schema="shop")
        assert connection.execute(text("SHOW lock_timeout")).scalar() == "3s"
    store.close()


def test_a_driver_that_is_missing_is_named(make: Callable[..., Pipeline], monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any) -> Any:
        if name.partition(".")[0] == "psycopg":
            raise ModuleNotFoundError("No module named 'psycopg'")
        return real(name, *args)

    monkeypatch.setattr(builtins, "__import__", without)
    refused(make("postgresql://localhost/x"), ConfigError, "psycopg", "pip install 'pipeline[postgres]'")


@pytest.mark.parametrize("error", [ConfigError, LedgerError, LedgerUnavailable])
def test_a_worker_whose_ledger_is_wrong_ends_with_one_line(
    make: Callable[..., Pipeline], tmp_path: Path, error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong() -> None:
        raise error("the ledger is wrong")

    app = make(f"sqlite:///{tmp_path / 'ledger.db'}")
    monkeypatch.setattr(app, "_open_ledger", wrong)
    worker = SimpleNamespace(app=app.celery)
    with pytest.raises(SystemExit, match=r"^pipeline: the ledger is wrong$"):
        SweeperStep(worker).start(worker)


# -- away


def test_a_server_that_is_away_is_named_without_its_password(make: Callable[..., Pipeline]) -> None:
    url = f"postgresql://ada:s3cret@127.0.0.1:{free_port()}/shop"
    message = refused(make(url, ledger_timeout=0.3), LedgerUnavailable, "127.0.0.1", "PIPELINE_LEDGER_URL", "doctor")
    assert "s3cret" not in message


@ON_POSTGRESQL
def test_a_wrong_password_is_not_shown(
    make: Callable[..., Pipeline], ledger_url: str, servers: Callable[[str], Server]
) -> None:
    rules = servers("postgresql").directory / "data" / "pg_hba.conf"
    before = rules.read_text()
    with engine_on(ledger_url, isolation_level="AUTOCOMMIT") as engine, engine.connect() as connection:
        connection.execute(text("CREATE ROLE guarded LOGIN PASSWORD 'right'"))
        try:
            rules.write_text("host all guarded 127.0.0.1/32 scram-sha-256\n" + before)
            connection.execute(text("SELECT pg_reload_conf()"))
            url = ledger_url.replace("postgres@", "guarded:s3cret@")
            message = refused(make(url, ledger_timeout=0.5), LedgerUnavailable, "password authentication failed")
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
    assert ready.ledger.state("unknown") == (None, 0)
    assert len(rows(ready, events)) == 3, "none that was accepted is lost, though a mark that it was sent may be"


# -- the schema


def set_version(url: str, version: str) -> None:
    with engine_on(url) as engine, engine.begin() as connection:
        connection.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '{version}'"))


def schema(url: str) -> dict[str, Any]:
    """Return what is in a database: its tables, the version, the number of events."""
    with engine_on(url) as engine, engine.connect() as connection:
        found = {table: inspect(connection).get_columns(table) for table in inspect(connection).get_table_names()}
        version = migrate.version(connection)
        number = connection.execute(text("SELECT count(*) FROM pipeline_events")).scalar()
    return {"tables": {name: str(columns) for name, columns in found.items()}, "version": version, "events": number}


def test_a_newer_schema_is_refused_and_left_as_it_is(
    make: Callable[..., Pipeline], ready: Pipeline, ledger_url: str
) -> None:
    set_version(ledger_url, "9999")
    before = schema(ledger_url)
    app = make(ledger_url)
    refused(app, LedgerError, "has schema 9999, newer than " + HEAD, "upgrade pipeline")
    with pytest.raises(LedgerError, match="the ledger was left as it is"):
        upgrade(app.ledger.store)
    assert schema(ledger_url) == before
    set_version(ledger_url, HEAD)
    make(ledger_url).publish(order())


def test_a_worker_does_not_start_on_a_newer_schema(ready: Pipeline, ledger_url: str, tmp_path: Path) -> None:
    set_version(ledger_url, "9999")
    worker = Worker(Broker("embedded", f"sqlite:///{tmp_path / 'b.db'}", tmp_path, ledger=ledger_url))
    worker.start(wait=False)
    assert worker.process is not None
    assert worker.process.wait(60) != 0
    assert "has schema 9999, newer than" in worker.output()
    assert "Traceback" not in worker.output()


@ON_POSTGRESQL
def test_a_database_without_tables_is_not_touched(make: Callable[..., Pipeline], ledger_url: str) -> None:
    app = make(ledger_url)
    refused(app, LedgerError, "has no tables yet", "run `pipeline ledger upgrade`")
    with engine_on(ledger_url) as engine:
        assert inspect(engine).get_table_names() == []
    assert upgrade(app.ledger.store) == (None, HEAD)
    assert upgrade(app.ledger.store) == (HEAD, HEAD)
    app.publish(order())


CREATE = """
import sys
from pipeline.ledger import Ledger
from pipeline.ledger.migrate import upgrade
from pipeline import Pipeline
app = Pipeline("new", ledger_url=sys.argv[1], broker_url=sys.argv[2])
print("ready", flush=True)
sys.stdin.readline()
if sys.argv[3] == "upgrade":
    upgrade(app.ledger.store)
app.publish("order.placed", {})
app.close()
"""


@pytest.mark.parametrize("how", ["upgrade", "publish"])
def test_processes_that_make_one_ledger_at_once_agree(
    make: Callable[..., Pipeline], ledger_url: str, tmp_path: Path, how: str
) -> None:
    if how == "publish" and ledger_url.startswith("postgresql"):
        upgrade(make(ledger_url).ledger.store)
    command = [sys.executable, "-c", CREATE, ledger_url, f"sqlite:///{tmp_path / 'broker.db'}", how]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    processes = [subprocess.Popen(command, **pipes) for _ in range(4)]
    for process in processes:
        assert process.stdout.readline() == b"ready\n"
    for process in processes:
        process.stdin.write(b"\n")
        process.stdin.flush()
    errors = [process.communicate(timeout=60)[1].decode() for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, "\n".join(errors)
    app = make(ledger_url)
    assert len(rows(app, events)) == 4
    assert len(rows(app, tables.meta)) == 1


def test_the_migrations_make_the_tables_that_the_code_knows(ready: Pipeline) -> None:
    with ready.ledger.store.transaction() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE, "compare_type": True})
        assert compare_metadata(context, tables.metadata) == []


# -- locked, full, read-only, damaged


@contextmanager
def locked(url: str) -> Iterator[None]:
    """Let somebody else hold the whole ledger."""
    with engine_on(url) as engine, engine.connect() as connection:
        if url.startswith("sqlite"):
            connection.connection.dbapi_connection.isolation_level = None  # type: ignore[union-attr]
            connection.execute(text("BEGIN IMMEDIATE"))
        else:
            connection.execute(text("LOCK TABLE pipeline_events, pipeline_deliveries, pipeline_outbox"))
        yield
        connection.rollback()


def test_a_locked_ledger_is_waited_for_no_longer_than_it_says(
    make: Callable[..., Pipeline], ready: Pipeline, ledger_url: str
) -> None:
    timeout = 1.0
    first = make(ledger_url, ledger_timeout=timeout)
    with locked(ledger_url):
        for app in (ready, first):
            started = time.monotonic()
            refused(app, LedgerUnavailable, f"was locked for {timeout:g} s by another process")
            assert time.monotonic() - started < 5 * timeout
    for app in (ready, first):
        assert app.publish(order()).sent
    assert len(rows(ready, events)) == 3


FULL = """
import resource, signal, sys
from pipeline import Pipeline
from pipeline.errors import LedgerUnavailable
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a file at its size limit fails like a file on a full disk
app = Pipeline("web", ledger_timeout=0.3)
app.publish("order.placed", {"n": 0})
resource.setrlimit(resource.RLIMIT_FSIZE, (1_500_000, resource.RLIM_INFINITY))
accepted = 0
try:
    while True:
        app.publish("order.placed", "x" * 50_000)
        accepted += 1
except LedgerUnavailable as exc:
    print(accepted, exc)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
app.publish("order.placed", {"n": 1})
app.close()
"""


@ON_SQLITE
def test_on_a_full_disk_no_event_is_accepted_until_there_is_room(
    ready: Pipeline, ledger_url: str, tmp_path: Path
) -> None:
    broker = Broker("embedded", f"sqlite:///{tmp_path / 'small.db'}", tmp_path, ledger=ledger_url)
    done = run([sys.executable, "-c", FULL], broker)
    assert done.returncode == 0, done.stderr
    accepted, _, message = done.stdout.partition(" ")
    assert "cannot grow" in message
    assert "free space" in message
    assert int(accepted) > 0
    assert len(rows(ready, events)) == int(accepted) + 3


@ON_SQLITE
def test_a_ledger_at_its_page_limit_takes_nothing_and_goes_on_later(ready: Pipeline) -> None:
    with ready.ledger.store.transaction() as connection:  # the next one gets the same connection
        pages = connection.execute(text("PRAGMA page_count")).scalar()
        connection.execute(text(f"PRAGMA max_page_count = {pages + 2}"))
    with pytest.raises(LedgerUnavailable, match="free space on its disk"):
        ready.publish_many([("order.placed", "x" * 100_000), order()])
    assert len(rows(ready, events)) == 1
    ready.close()
    ready.publish("order.placed", "x" * 100_000)
    assert len(rows(ready, events)) == len({row["id"] for row in rows(ready, events)}) == 2


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a directory that not even root can write to")
def test_a_directory_that_cannot_be_written_is_named(make: Callable[..., Pipeline]) -> None:
    refused(make("sqlite:////proc/ledger.db"), LedgerError, "/proc/ledger.db", "check its directory's permissions")
    refused(make("sqlite:////proc/new/ledger.db"), LedgerError, "/proc/new/ledger.db", "cannot be opened")


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
        message = refused(ready, LedgerError, "check its directory's permissions")
    finally:
        os.seteuid(0)
        for one, mode in modes.items():
            one.chmod(mode)
    assert str(path) in message
    path.chmod(0o644)
    ready.publish(order())
    assert len(rows(ready, events)) == 2


def test_a_file_that_is_no_database_is_left_alone(make: Callable[..., Pipeline], tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(b"this is no database, and it is long enough to look like one" * 100)
    before = path.read_bytes()
    refused(make(f"sqlite:///{path}"), LedgerError, "damaged or no ledger", "restore it, or move it away", str(path))
    assert path.read_bytes() == before


def test_a_directory_instead_of_a_file_is_named(make: Callable[..., Pipeline], tmp_path: Path) -> None:
    refused(make(f"sqlite:///{tmp_path}"), LedgerError, str(tmp_path))


@ON_SQLITE
def test_a_damaged_file_is_reported(ready: Pipeline, make: Callable[..., Pipeline], ledger_url: str) -> None:
    append(ready.ledger, 200)
    ready.close()
    path = Path(ledger_url.removeprefix("sqlite:///"))
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    content = bytearray(path.read_bytes())
    content[4096:] = os.urandom(len(content) - 4096)
    path.write_bytes(content)
    message = refused(make(ledger_url), LedgerError, str(path))
    assert re.search(r"damaged|has no tables", message)


def test_a_foreign_database_keeps_its_own_tables(make: Callable[..., Pipeline], ledger_url: str) -> None:
    with engine_on(ledger_url) as engine, engine.begin() as connection:
        connection.execute(text("CREATE TABLE accounts (name TEXT)"))
        connection.execute(text("INSERT INTO accounts VALUES ('ada')"))
    app = make(ledger_url)
    upgrade(app.ledger.store)
    assert app.publish(order()).sent
    with engine_on(ledger_url) as engine, engine.connect() as connection:
        assert connection.execute(text("SELECT name FROM accounts")).scalars().all() == ["ada"]
