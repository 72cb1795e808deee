"""What tests have in common: an app on each ledger, and a proxy before each broker that has a server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline import Pipeline
from pipeline.history import projections
from pipeline.ledger.ledger import Ledger
from pipeline.operations.dead_letters import DeadLetters
from tests import readmodels
from tests.harness import Broker
from tests.proxy import Proxy
from tests.records import declare_agents, making_apps, order


@pytest.fixture
def make(ledger_url: str, tmp_path: Path, no_settings: None) -> Iterator[Callable[..., Pipeline]]:
    """Make apps without agents on the ledger under test, or on another one."""
    with making_apps(ledger_url, tmp_path, agents=False) as make:
        yield make


@pytest.fixture
def app(make: Callable[..., Pipeline]) -> Pipeline:
    """An app on an empty ledger."""
    return make()


@pytest.fixture
def ledger(app: Pipeline) -> Ledger:
    """An empty ledger."""
    return app.ledger


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Callable[..., Pipeline]]:
    """Make apps that have not looked at their ledger yet."""
    options = {"broker_url": f"sqlite:///{tmp_path / 'broker.db'}", "directory": tmp_path / "state"}
    with ExitStack() as made:
        yield lambda url, **settings: made.enter_context(
            closing(Pipeline("t", ledger_url=url, **{**options, **settings}))
        )


@pytest.fixture
def ready(make: Callable[..., Pipeline]) -> Pipeline:
    """An app on a ledger that works, with one event in it."""
    app = make(ledger_timeout=1)
    app.publish(order())
    return app


@pytest.fixture
def living_worker(ledger: Ledger) -> None:
    """Let the worker w1 live."""
    ledger.workers.heartbeat("w1")


@pytest.fixture
def read_model(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the tables of tests.readmodels, and let the size of a batch not depend on the speed of the machine."""
    with ledger.database.transaction() as connection:
        readmodels.model.create_all(connection)
        readmodels.Base.metadata.create_all(connection)
    monkeypatch.setattr(projections, "BATCH_SECONDS", 3600)


@pytest.fixture
def agents(app: Pipeline) -> None:
    """Let the app have the agents of tests.records."""
    declare_agents(app)


@pytest.fixture
def letters(app: Pipeline) -> DeadLetters:
    """The app's dead letters."""
    return app.dead_letters


@pytest.fixture
def proxy(broker: Broker) -> Iterator[Proxy]:
    """A proxy before the broker's server."""
    if broker.server is None:
        pytest.skip("there is no network before the embedded broker")
    with Proxy(broker.server.port) as one:
        yield one


@pytest.fixture
def behind(broker: Broker, proxy: Proxy) -> Broker:
    """The broker, as it is reached through the proxy."""
    assert broker.server is not None
    return replace(broker, url=broker.url.replace(f":{broker.server.port}/", f":{proxy.port}/"))
