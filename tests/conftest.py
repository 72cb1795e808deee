"""Fixtures: the brokers under test, and workers that end with the test."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from kombu import pools

from pipeline import Pipeline
from tests.harness import Broker, Worker
from tests.servers import RabbitMQ, Redis, Server, ServerMissingError

BROKERS = ("embedded", "rabbitmq", "redis")
SERVERS: dict[str, type[Server]] = {"rabbitmq": RabbitMQ, "redis": Redis}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--brokers", default=",".join(BROKERS), help="brokers to test on, comma-separated")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    wanted = config.getoption("--brokers").split(",")
    items[:] = [item for item in items if not hasattr(item, "callspec") or _broker_of(item, wanted[0]) in wanted]
    if "faults" not in (config.getoption("-m") or ""):
        items[:] = [item for item in items if not item.get_closest_marker("faults")]


def _broker_of(item: pytest.Item, default: str) -> str:
    return str(item.callspec.params.get("broker", default))  # type: ignore[attr-defined]


@pytest.fixture(scope="session")
def servers() -> Iterator[Callable[[str], Server]]:
    """Start each server when a test first asks for it; a missing one skips, or fails where TESTS_REQUIRE names it."""
    running: dict[str, Server] = {}

    def get(name: str) -> Server:
        if name not in running:
            server = SERVERS[name]()
            try:
                running[name] = server.start()
            except ServerMissingError as exc:
                server.stop()
                if name in os.environ.get("TESTS_REQUIRE", "").split(","):
                    pytest.fail(str(exc))
                pytest.skip(str(exc))
        return running[name]

    yield get
    for server in running.values():
        server.stop()


@pytest.fixture(params=BROKERS)
def broker(request: pytest.FixtureRequest, tmp_path: Path, servers: Callable[[str], Server]) -> Iterator[Broker]:
    """An empty broker of each kind."""
    if request.param == "embedded":
        yield Broker("embedded", f"sqlite:///{tmp_path / 'state' / 'broker.db'}", tmp_path)
        return
    server = servers(request.param)
    found = Broker(request.param, server.url, tmp_path, server)  # type: ignore[attr-defined]
    _empty(found)
    yield found
    _empty(found)


def _empty(broker: Broker) -> None:
    """Remove what a test left on a shared server."""
    if broker.name == "redis":
        import redis

        with redis.Redis.from_url(broker.url) as client:
            client.flushall()
        return
    from tests.apps import contract_app

    with contract_app.app.celery.connection_for_write(broker.url) as connection:
        channel = connection.channel()
        for queue in (*contract_app.app.celery.amqp.queues, "events.unrouted"):
            channel.queue_delete(queue)
            channel.queue_delete(queue + ".dead")
        for exchange in ("events", "events.unrouted", "agents", "agents.dead"):
            channel.exchange_delete(exchange)


@pytest.fixture
def bus(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pipeline]:
    """A publisher on the broker under test, which knows no agents."""
    for name in [name for name in os.environ if name.startswith("PIPELINE_")]:
        monkeypatch.delenv(name)
    app = Pipeline("publisher", broker_url=broker.url, directory=broker.directory / "state")
    yield app
    app.close()
    app.celery.close()
    pools.reset()  # Kombu shares pooled connections by address, also those to a server that a test has killed


@pytest.fixture
def worker(broker: Broker) -> Iterator[Callable[..., Worker]]:
    """Start workers that end with the test: `worker(pool="prefork", name="w2")`."""
    started: list[Worker] = []

    def start(**options: object) -> Worker:
        wait = bool(options.pop("wait", True))
        one = Worker(broker, **{"name": f"w{len(started) + 1}", **options})  # type: ignore[arg-type]
        started.append(one)
        return one.start(wait=wait)

    yield start
    for one in started:
        one.kill()
