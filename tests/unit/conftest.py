"""What the tests of several modules build on: apps for commands, and a store."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pipeline.brokers.embedded.store import Store
from pipeline.cli.main import cli
from tests.commands import WITH_LEDGER, WITH_OPTIONS, Shop, write_module
from tests.records import run_agents


@pytest.fixture
def empty_directory(tmp_path: Path, no_settings: None, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty directory to work in and to import from, without settings."""
    for name in ("PIPELINE_CONFIG", "PIPELINE_BROKER_URL", "PIPELINE_LEDGER_URL"):
        monkeypatch.setenv(name, "")  # commands set them; so they are gone afterwards
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


@pytest.fixture
def shop(empty_directory: Path) -> Iterator[Shop]:
    """An app with a ledger that knows its agents, and the command on it."""
    shop = Shop(write_module(empty_directory, WITH_LEDGER))
    run_agents(shop.app, {"billing": "order.#", "stock": "order.placed"})
    yield shop
    shop.app.close()


@pytest.fixture
def module(empty_directory: Path) -> Iterator[str]:
    """The name of a module with an app that no worker has run."""
    name = write_module(empty_directory, WITH_OPTIONS)
    yield name
    if name in sys.modules:
        sys.modules[name].app.close()


@pytest.fixture
def run(module: str) -> Callable[..., Any]:
    """Run the command on that app, or on another one."""

    def call(*arguments: str, app: str = module, stdin: str | None = None) -> Any:
        return CliRunner().invoke(cli, ["--app", app, *arguments], input=stdin)

    return call


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The embedded broker's file, which is not there yet."""
    return tmp_path / "state" / "broker.db"


@pytest.fixture
def open_store(file: Path) -> Iterator[Callable[[], Store]]:
    """Open stores on the file, which are closed with the test."""
    stores: list[Store] = []

    def open_one() -> Store:
        stores.append(Store(file))
        return stores[-1]

    yield open_one
    for store in stores:
        store.close()


@pytest.fixture
def store(open_store: Callable[[], Store]) -> Store:
    """A store with queues `q` and `r`, both bound to `events`; `q` has dead letters."""
    one = open_store()
    one.declare_exchange("events", "topic", {"alternate-exchange": "lost"})
    one.declare_exchange("lost", "fanout", {})
    one.declare_exchange("dead", "direct", {})
    one.declare_queue("q", {"x-dead-letter-exchange": "dead", "x-dead-letter-routing-key": "q.dead"})
    for queue in ("r", "q.dead", "lost"):
        one.declare_queue(queue, {})
    one.bind("dead", "q.dead", "q.dead")
    one.bind("lost", "", "lost")
    one.bind("events", "a.#", "q")
    one.bind("events", "a.*", "r")
    return one
