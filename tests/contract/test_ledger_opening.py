"""Ledgers that are opened: wrong addresses, schemas of other versions, and several processes that make one at once."""

from __future__ import annotations

import builtins
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import inspect, text

from pipeline import Pipeline
from pipeline.core.errors import ConfigError, LedgerError, LedgerUnavailable, to_install
from pipeline.ledger.database import migrate, tables
from pipeline.ledger.database.database import Database
from pipeline.ledger.database.migrate import HEAD, VERSION_TABLE, upgrade
from pipeline.ledger.database.tables import events
from pipeline.workers.step import SweeperStep
from tests.harness import Broker, Worker
from tests.ledgers import ON_POSTGRESQL, engine_on, refused
from tests.records import order, rows
from tests.servers import wait_for

pytestmark = pytest.mark.usefixtures("no_settings")


# -- wrong addresses


WRONG = [
    ("nonsense", "ledger_url"),
    ("mysql://localhost/x", "ledger_url"),
    ("postgres", "ledger_url"),
    ("sqlite://", "needs a file"),
    ("sqlite:///:memory:", "needs a file"),
    ("sqlite:///x.db?synchronus=full", "there is no synchronus=full"),
    ("sqlite:////tmp/why?/x.db", "in a path write ? as %3F"),
    ("sqlite:///x.db?synchronous=FULL", "SQLite takes synchronous=normal or =full"),
    ("postgresql://localhost:port/x", "is no database address"),
    ("postgresql://ada:s3@cret@localhost/x", "%40"),
    ("postgresql://ada:s3cret/x", "is no database address"),
    ("mysql://ada:s3@cret@localhost/x", "ledger_url"),
]


@pytest.mark.parametrize(("url", "words"), WRONG)
def test_a_wrong_address_is_refused_without_its_password(url: str, words: str, tmp_path: Path) -> None:
    for attempt in (lambda: Database(url), lambda: Pipeline("t", ledger_url=url, directory=tmp_path).publish(order())):
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
    fresh: Callable[..., Pipeline], tmp_path: Path, scheme: str
) -> None:
    assert fresh(f"{scheme}:///{tmp_path / 'ledger.db'}").publish(order()).sent
    assert Database("postgres://localhost/x").url.drivername == "postgresql+psycopg"


def test_the_options_of_an_address_are_kept() -> None:
    assert Database("sqlite:////x.db?synchronous=full")._synchronous == "FULL"
    url = "postgresql://localhost/x?options=-csearch_path%3Dshop&sslmode=require"
    _, arguments = Database(url).engine.dialect.create_connect_args(Database(url).url)
    assert arguments["sslmode"] == "require"


@ON_POSTGRESQL
def test_what_the_address_asks_of_the_server_is_not_lost(ledger_url: str) -> None:
    with engine_on(ledger_url) as engine, engine.begin() as connection:
        connection.execute(text("CREATE SCHEMA shop"))
    database = Database(ledger_url + "?options=-csearch_path%3Dshop", timeout=3)
    upgrade(database)
    with database.reading() as connection:
        assert inspect(connection).get_table_names(schema="shop")
        assert connection.execute(text("SHOW lock_timeout")).scalar() == "3s"
    database.close()


def test_a_driver_that_is_missing_is_named(fresh: Callable[..., Pipeline], monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any) -> Any:
        if name.partition(".")[0] == "psycopg":
            raise ModuleNotFoundError("No module named 'psycopg'")
        return real(name, *args)

    monkeypatch.setattr(builtins, "__import__", without)
    refused(fresh("postgresql://localhost/x"), ConfigError, "psycopg", to_install("postgres"))


def test_a_file_that_another_has_taken_the_place_of_is_another_ledger(
    fresh: Callable[..., Pipeline], tmp_path: Path
) -> None:
    app = fresh(f"sqlite:///{tmp_path / 'ledger.db'}")
    first = app.ledger.id
    for file in tmp_path.glob("ledger.db*"):
        file.unlink()
    wait_for(lambda: app.ledger.id != first, "the ledger to look at its file")
    assert app.ledger.id == fresh(f"sqlite:///{tmp_path / 'ledger.db'}").ledger.id


def test_a_ledger_is_named_without_its_password_wherever_that_stands() -> None:
    shown = str(Database("postgresql://ada:s3cret@host/x?password=s3cret&sslpassword=s3cret&sslmode=require"))
    assert "s3cret" not in shown
    assert "sslmode=require" in shown


@pytest.mark.parametrize("error", [ConfigError, LedgerError, LedgerUnavailable])
def test_a_worker_whose_ledger_is_wrong_ends_with_one_line(
    fresh: Callable[..., Pipeline],
    tmp_path: Path,
    error: type[Exception],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def wrong(*_: Any, **__: Any) -> None:
        raise error("the ledger is wrong")

    app = fresh(f"sqlite:///{tmp_path / 'ledger.db'}")
    monkeypatch.setattr("pipeline.ledger.ledger.Ledger", wrong)
    worker = SimpleNamespace(app=app.celery)
    with pytest.raises(SystemExit, match=r"^1$"):
        SweeperStep(worker).start(worker)
    assert [(one.levelname, one.getMessage()) for one in caplog.records] == [
        ("CRITICAL", "pipeline: the ledger is wrong")
    ]


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
    fresh: Callable[..., Pipeline], ready: Pipeline, ledger_url: str
) -> None:
    set_version(ledger_url, "9999")
    before = schema(ledger_url)
    app = fresh(ledger_url)
    refused(app, LedgerError, "has schema 9999, newer than " + HEAD, "upgrade pipeline")
    with pytest.raises(LedgerError, match="the ledger was left as it is"):
        upgrade(app.ledger.database)
    assert schema(ledger_url) == before
    set_version(ledger_url, HEAD)
    fresh(ledger_url).publish(order())


def test_a_worker_does_not_start_on_a_newer_schema(ready: Pipeline, ledger_url: str, tmp_path: Path) -> None:
    set_version(ledger_url, "9999")
    worker = Worker(Broker("embedded", f"sqlite:///{tmp_path / 'b.db'}", tmp_path, ledger=ledger_url))
    worker.start(wait=False)
    assert worker.process is not None
    assert worker.process.wait(60) != 0
    assert "has schema 9999, newer than" in worker.output()
    assert "Traceback" not in worker.output()


@ON_POSTGRESQL
def test_a_database_without_tables_is_not_touched(fresh: Callable[..., Pipeline], ledger_url: str) -> None:
    app = fresh(ledger_url)
    refused(app, LedgerError, "has no tables yet", "run `pipeline ledger upgrade`")
    with engine_on(ledger_url) as engine:
        assert inspect(engine).get_table_names() == []
    assert upgrade(app.ledger.database) == (None, HEAD)
    assert upgrade(app.ledger.database) == (HEAD, HEAD)
    app.publish(order())


@ON_POSTGRESQL
def test_an_upgrade_waits_for_another_one_longer_than_a_ledger_is_waited_for(
    fresh: Callable[..., Pipeline], ledger_url: str
) -> None:
    app = fresh(ledger_url, ledger_timeout=0.1)
    longer = "wait_event = 'advisory' AND clock_timestamp() - query_start > '1 s'"
    waiting = text(f"SELECT count(*) FROM pg_stat_activity WHERE {longer}")
    with engine_on(ledger_url) as engine, ThreadPoolExecutor() as threads, engine.connect() as connection:
        other = connection.execution_options(isolation_level="AUTOCOMMIT")
        other.execute(text(f"SELECT pg_advisory_lock({migrate._LOCK})"))
        upgrading = threads.submit(upgrade, app.ledger.database)
        wait_for(lambda: upgrading.done() or other.execute(waiting).scalar(), "it to wait")
        other.execute(text("SELECT pg_advisory_unlock_all()"))
        assert upgrading.result(60) == (None, HEAD)


CREATE = """
import sys
from pipeline.ledger.ledger import Ledger
from pipeline.ledger.database.migrate import upgrade
from pipeline import Pipeline
app = Pipeline("new", ledger_url=sys.argv[1], broker_url=sys.argv[2])
print("ready", flush=True)
sys.stdin.readline()
if sys.argv[3] == "upgrade":
    upgrade(app.ledger.database)
app.publish("order.placed", {})
app.close()
"""


@pytest.mark.parametrize("how", ["upgrade", "publish"])
def test_processes_that_make_one_ledger_at_once_agree(
    fresh: Callable[..., Pipeline], ledger_url: str, tmp_path: Path, how: str
) -> None:
    if how == "publish" and ledger_url.startswith("postgresql"):
        upgrade(fresh(ledger_url).ledger.database)
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
    app = fresh(ledger_url)
    assert len(rows(app, events)) == 4
    assert [row["name"] for row in rows(app, tables.meta)] == ["id", "secret"]


#: Opens several ledgers at once, each in a thread, in a process that logs everything at INFO.
AT_ONCE = """
import logging, sys, threading
logging.basicConfig(level=logging.INFO)
from pipeline import Pipeline
apps = [Pipeline(name, directory=f"{sys.argv[1]}/{name}") for name in ("a", "b", "c", "d")]
threads = [threading.Thread(target=lambda own=app: list(own.get_events())) for app in apps]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print([list(app.get_events()) for app in apps])
"""


def test_threads_that_make_several_ledgers_at_once_do_so_and_alembic_says_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-c", AT_ONCE, str(tmp_path)]
    found = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (found.stdout, found.stderr) == ("[[], [], [], []]\n", "")


def test_the_migrations_make_the_tables_that_the_code_knows(ready: Pipeline) -> None:
    with ready.ledger.database.transaction() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE, "compare_type": True})
        assert compare_metadata(context, tables.metadata) == []


def test_a_foreign_database_keeps_its_own_tables(fresh: Callable[..., Pipeline], ledger_url: str) -> None:
    with engine_on(ledger_url) as engine, engine.begin() as connection:
        connection.execute(text("CREATE TABLE accounts (name TEXT)"))
        connection.execute(text("INSERT INTO accounts VALUES ('ada')"))
    app = fresh(ledger_url)
    upgrade(app.ledger.database)
    assert app.publish(order()).sent
    with engine_on(ledger_url) as engine, engine.connect() as connection:
        assert connection.execute(text("SELECT name FROM accounts")).scalars().all() == ["ada"]
