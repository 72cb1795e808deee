"""The configurations in which an effect is promised to happen exactly once, each empty."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline.ledger.database.migrate import upgrade
from pipeline.ledger.ledger import Ledger
from tests.effects import AGENTS
from tests.harness import Broker, delete_queues, flush
from tests.servers import Server


@pytest.fixture
def report(capsys: pytest.CaptureFixture[str]) -> Callable[[str], None]:
    """Show the figures of a test that succeeds too."""

    def show(line: str) -> None:
        with capsys.disabled():
            sys.stdout.write(f"\n{line}\n")

    return show


@pytest.fixture(params=["embedded+sqlite", "rabbitmq+postgresql"])
def durable(request: pytest.FixtureRequest, tmp_path: Path, servers: Callable[[str], Server]) -> Iterator[Broker]:
    """A broker and a ledger; a test may ask for "redis+sqlite" too."""
    if request.param == "embedded+sqlite":
        yield embedded(tmp_path)
        return
    if request.param == "redis+sqlite":
        yield empty_redis(servers("redis"), tmp_path)
        return
    server, database = servers("rabbitmq"), servers("postgresql")
    ledger = database.database()  # type: ignore[attr-defined]  # it is a PostgreSQL
    upgrade_ledger(ledger)
    found = Broker("rabbitmq", server.url, tmp_path, server, ledger)  # type: ignore[attr-defined]  # it has an address
    delete_own_queues(found)
    yield found
    delete_own_queues(found)
    database.drop(ledger)  # type: ignore[attr-defined]  # it is a PostgreSQL


def embedded(directory: Path) -> Broker:
    """Return an embedded broker, with the ledger that it has by default."""
    return Broker("embedded", f"sqlite:///{directory / 'state' / 'broker.db'}", directory)


def empty_redis(server: Server, directory: Path) -> Broker:
    """Return an empty Redis, with the ledger that it has by default."""
    found = Broker("redis", server.url, directory, server)  # type: ignore[attr-defined]  # it has an address
    flush(found)
    return found


def upgrade_ledger(url: str) -> None:
    """Make the tables of a ledger."""
    ledger = Ledger(url)
    upgrade(ledger.database)
    ledger.close()


def delete_own_queues(broker: Broker) -> None:
    """Remove what a test left on a shared RabbitMQ."""
    delete_queues(broker, [*(f"agent.{agent}" for agent in AGENTS), "agents.emit", "events.unrouted"])
