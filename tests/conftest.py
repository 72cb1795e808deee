"""Fixtures: the brokers and ledgers under test, and workers that end with the test."""

from __future__ import annotations

import compileall
import gc
import os
import re
import signal
import sys
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest
from kombu import pools

from pipeline import Pipeline
from tests import loops
from tests.harness import Broker, Worker, delete_queues, flush
from tests.invariant import nothing_has_disappeared
from tests.kafkaserver import Kafka
from tests.natsserver import Nats
from tests.pooler import PgBouncer
from tests.processes import children, end_processes
from tests.servers import PostgreSQL, RabbitMQ, Redis, Server, ServerMissingError, wait_for
from tests.templates import Templates

#: "bare" is the embedded broker without a ledger, "watched" one with workers whose tasks somebody hears of: each for
#: the tests that are marked so.
BROKERS = ("embedded", "rabbitmq", "redis", "bare", "watched")
#: "pgbouncer" is PostgreSQL through a pooler in transaction mode, for the tests that are marked "pooled".
LEDGERS = ("sqlite", "postgresql", "pgbouncer")
#: Seconds for a test that is marked "faults"; the others have what pyproject.toml says.
LONG = 3600
SERVERS: dict[str, type[Server]] = {
    "rabbitmq": RabbitMQ, "redis": Redis, "postgresql": PostgreSQL, "nats": Nats, "kafka": Kafka,
}  # fmt: skip


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--brokers", default=",".join(BROKERS), help="brokers to test on, comma-separated")
    parser.addoption("--ledgers", default=",".join(LEDGERS), help="ledgers to test on, comma-separated")


def pytest_configure(config: pytest.Config) -> None:
    loops.watch()
    if not hasattr(config, "workerinput"):
        # Thousands of processes import the package; where PYTHONDONTWRITEBYTECODE is set each would compile it, too.
        root = Path(__file__).parents[1]
        for directory in (root / "pipeline", root / "tests"):
            compileall.compile_dir(directory, quiet=2)
    # A shell without job control starts what runs in the background with these ignored, and children inherit that.
    for number in (signal.SIGINT, signal.SIGQUIT):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if number is signal.SIGINT else signal.SIG_DFL)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for option, fixture in (("--brokers", "broker"), ("--ledgers", "ledger_url")):
        wanted = config.getoption(option).split(",")
        items[:] = [item for item in items if _parameter(item, fixture, wanted[0]) in wanted]
    marked = (("broker", "bare", "bare"), ("broker", "watched", "watched"), ("ledger_url", "pgbouncer", "pooled"))
    for fixture, kind, marker in marked:
        items[:] = [item for item in items if _parameter(item, fixture, "") != kind or item.get_closest_marker(marker)]
    if "faults" not in (config.getoption("-m") or ""):
        items[:] = [item for item in items if not item.get_closest_marker("faults")]
    for item in items:
        if item.get_closest_marker("faults"):
            item.add_marker(pytest.mark.timeout(LONG))


def pytest_collection_finish() -> None:
    """Leave what was imported and collected to itself: looking through all of it for garbage takes a second."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show with a test that failed what its workers have said last."""
    report = yield
    broker = getattr(item, "funcargs", {}).get("broker")
    if report.failed and isinstance(broker, Broker):
        for log in sorted(broker.directory.glob("*.log")):
            report.sections.append((f"the end of {log.name}", log.read_text(errors="replace")[-6000:]))
    return report


def _parameter(item: pytest.Item, fixture: str, default: str) -> str:
    """Return what a test gets from a fixture of several kinds, and the default when it does not use it."""
    return str(item.callspec.params.get(fixture, default)) if hasattr(item, "callspec") else default


@pytest.fixture(scope="session")
def running() -> Iterator[dict[str, Server]]:
    """Give the servers that run, by their names; whatever else was started for several tests ends with the last one."""
    yield {}
    end_processes(children())


@pytest.fixture(autouse=True)
def no_process_outlives_its_test(running: dict[str, Server]) -> Iterator[None]:
    """Kill what a test has started and not ended, and say so."""
    before = children()
    yield
    left = end_processes(children() - before - {server.process.pid for server in running.values() if server.process})
    if left:
        pytest.fail(f"the test has left running: {left}")


@pytest.fixture(autouse=True)
def no_loop_outlives_its_test() -> Iterator[None]:
    """Let a test fail that has left an event loop open, and not the one in which it is collected."""
    before = loops.left_open()
    yield
    wait_for(lambda: not loops.left_open() - before, "the event loops that the test has made to be closed")


@pytest.fixture(scope="session")
def servers(running: dict[str, Server]) -> Iterator[Callable[[str], Server]]:
    """Start each server when a test first asks for it; a missing one skips, or fails where TESTS_REQUIRE names it."""

    def get(name: str) -> Server:
        if name not in running:
            server = PgBouncer(get("postgresql")) if name == "pgbouncer" else SERVERS[name]()  # type: ignore[arg-type]
            try:
                running[name] = server.start()
            except ServerMissingError as exc:
                server.stop()
                if name in os.environ.get("TESTS_REQUIRE", "").split(","):
                    pytest.fail(str(exc))
                pytest.skip(str(exc))
        return running[name]

    yield get
    for server in reversed(running.values()):  # what stands before another is stopped before it
        server.stop()


@pytest.fixture(scope="session")
def templates(tmp_path_factory: pytest.TempPathFactory) -> Templates:
    """Migrated ledgers, to be copied."""
    return Templates(tmp_path_factory.mktemp("templates"))


@pytest.fixture(params=BROKERS)
def broker(request: pytest.FixtureRequest, tmp_path: Path, servers: Callable[[str], Server]) -> Iterator[Broker]:
    """An empty broker of each kind."""
    if request.param in ("embedded", "bare", "watched"):
        ledger, watched = "" if request.param == "bare" else None, request.param == "watched"
        url = f"sqlite:///{tmp_path / 'state' / 'broker.db'}"
        yield Broker("embedded", url, tmp_path, ledger=ledger, watched=watched)
        return
    server = servers(request.param)
    found = Broker(request.param, server.url, tmp_path, server)  # type: ignore[attr-defined]
    _empty(found)
    yield found
    _empty(found)


def _empty(broker: Broker) -> None:
    """Remove what a test left on a shared server."""
    if broker.name == "redis":
        flush(broker)
        return
    from tests.apps import contract_app

    sys.modules["contract_app"] = contract_app  # the workers' apps import each other by their bare names
    from tests.apps import durable_app

    queues = {*contract_app.app.celery.amqp.queues, *durable_app.app.celery.amqp.queues, "events.unrouted"}
    for log in broker.directory.glob("*.log"):  # a worker says first what it consumes from
        said = log.read_text(errors="replace")
        queues.update(re.findall(r"\.> (\S+) +exchange=", said))
        queues.update(f"agent.{id}" for id in re.findall(r"subscription (\S+): this worker runs it", said))
    delete_queues(broker, queues)


@pytest.fixture(params=LEDGERS)
def ledger_url(
    request: pytest.FixtureRequest, tmp_path: Path, servers: Callable[[str], Server], templates: Templates
) -> Iterator[str]:
    """The address of an empty ledger of each kind; where `make` would migrate it first of all, it is migrated."""
    is_migrated = "make" in request.fixturenames
    if request.param == "sqlite":
        if is_migrated:
            templates.copy_to(tmp_path / "ledger.db")
        yield f"sqlite:///{tmp_path / 'ledger.db'}"
        return
    server = servers("postgresql")
    assert isinstance(server, PostgreSQL)
    url = templates.database(server) if is_migrated else server.database()
    yield url if request.param == "postgresql" else servers(request.param).through(url)  # type: ignore[attr-defined]
    server.drop(url)


@pytest.fixture
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the settings of whoever runs the tests out of the environment."""
    for name in [name for name in os.environ if name.startswith("PIPELINE_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def bus(broker: Broker, no_settings: None) -> Iterator[Pipeline]:
    """A publisher on the broker under test, which knows no agents."""
    app = Pipeline("publisher", broker_url=broker.url, directory=broker.directory / "state", ledger_url=broker.ledger)
    yield app
    app.close()
    app.celery.close()
    pools.reset()  # Kombu shares pooled connections by address, also those to a server that a test has killed


@pytest.fixture
def nothing_disappears(bus: Pipeline, broker: Broker) -> Iterator[None]:
    """Check, when the workers of a test have ended, that every event is accounted for.

    To be asked for with `usefixtures`: what is set up first is torn down last.
    """
    yield
    if bus.has_ledger:
        nothing_has_disappeared(bus, broker)


@pytest.fixture
def worker(request: pytest.FixtureRequest, broker: Broker) -> Iterator[Callable[..., Worker]]:
    """Start workers that end with the test: `worker(pool="prefork", name="w2")`."""
    if "nothing_disappears" in request.fixturenames:  # whose check comes when they have ended
        request.getfixturevalue("nothing_disappears")
    started: list[Worker] = []

    def start(**options: object) -> Worker:
        wait = bool(options.pop("wait", True))
        one = Worker(broker, **{"name": f"w{len(started) + 1}", **options})  # type: ignore[arg-type]
        started.append(one)
        return one.start(wait=wait)

    yield start
    for one in started:
        one.kill()
