"""What a process remembers is bounded, and what SQLite keeps on disk shrinks again."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from pipeline import Pipeline
from pipeline.brokers.embedded.store import Store
from pipeline.core.files import WAL_LIMIT
from pipeline.ledger import subscribers
from pipeline.publishing import link as link_module
from tests.ledgers import append, new_order, record
from tests.records import make_app
from tests.stores import message


@pytest.fixture
def app(tmp_path: Path) -> Pipeline:
    return make_app(f"sqlite:///{tmp_path / 'ledger.db'}", tmp_path, agents=False)


def test_types_without_an_end_are_not_all_remembered(app: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subscribers, "MOST_ROUTES", 10)
    monkeypatch.setattr(subscribers, "FRESH", 3600.0)
    known = app.ledger.subscribers
    for number in range(100):
        assert known.miss(new_order(f"order.{number}"))
    assert len(known._routes) == 10
    app.close()


def test_queues_without_an_end_are_not_all_remembered(app: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "MOST_DECLARED", 10)
    for number in range(30):
        app.bus.publisher.deliver(f"a{number}", [(new_order(), {})], app.ledger.seal)
    (link,) = app.bus.publisher._idle
    assert 0 < len(link._declared) <= 10
    app.close()


def test_the_ledgers_wal_shrinks_after_a_long_reader(app: Pipeline, tmp_path: Path) -> None:
    app.ledger.database.check()
    wal = tmp_path / "ledger.db-wal"
    large = [record(new_order().evolve(data="x" * 100_000)) for _ in range(200)]
    with closing(sqlite3.connect(tmp_path / "ledger.db", isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM pipeline_events").fetchone()
        app.ledger.append(large, due_in=None)
        append(app.ledger)
        assert wal.stat().st_size > WAL_LIMIT
    for _ in range(3):
        append(app.ledger)
    assert wal.stat().st_size <= WAL_LIMIT
    app.close()


def test_the_embedded_brokers_wal_shrinks_after_a_long_reader(tmp_path: Path) -> None:
    path = tmp_path / "broker.db"
    with closing(Store(path)) as store, closing(sqlite3.connect(path, isolation_level=None)) as reader:
        store.declare_queue("q", {})
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM messages").fetchone()
        for _ in range(200):
            store.publish([message("q", b"x" * 100_000)])
        assert (tmp_path / "broker.db-wal").stat().st_size > WAL_LIMIT
        reader.execute("COMMIT")
        for _ in range(3):
            store.publish([message("q")])
        assert (tmp_path / "broker.db-wal").stat().st_size <= WAL_LIMIT
