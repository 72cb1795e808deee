"""A network that falls silent: connections stay open and say nothing; every wait ends, and workers go on."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from pipeline import BrokerUnavailable, Pipeline
from pipeline.ledger.status import status
from tests.harness import Broker, Worker
from tests.proxy import Proxy
from tests.servers import wait_for
from tests.threads import in_threads

#: Seconds that publishers wait here, and how many times that nothing may take which is bounded by it.
ASKED, FACTOR = 2.0, 4
#: The least that a worker may be set to.
SOON = {"PIPELINE_BROKER_TIMEOUT": "10"}
LOST = "Connection to broker lost"


@pytest.fixture
def far(behind: Broker, no_settings: None) -> Iterator[Pipeline]:
    """A publisher without a ledger behind the proxy."""
    app = Pipeline("far", broker_url=behind.url, directory=behind.directory / "state", ledger_url="")
    yield app
    app.close()


def publish(app: Pipeline) -> object:
    return app.publish("a.b", {}, timeout=ASKED)


def publish_many(app: Pipeline) -> object:
    return app.publish_many([("a.b", {})] * 3, timeout=ASKED)


def apublish(app: Pipeline) -> object:
    return asyncio.run(app.apublish("a.b", {}, timeout=ASKED))


def publish_more_than_sockets_hold(app: Pipeline) -> object:
    return app.publish_many([("a.b", {"text": "x" * 200_000})] * 50, timeout=ASKED)


def publish_in_threads(app: Pipeline) -> object:
    return in_threads(10, lambda _: app.publish("a.b", {}, timeout=ASKED))


def publish_in_tasks(app: Pipeline) -> object:
    async def main() -> object:
        return await asyncio.gather(*(app.apublish("a.b", {}, timeout=ASKED) for _ in range(10)))

    return asyncio.run(main())


VERBS = (publish, publish_many, apublish, publish_more_than_sockets_hold, publish_in_threads, publish_in_tasks)


def fails_in_time(verb: Callable[[Pipeline], object], app: Pipeline) -> None:
    start = time.monotonic()
    with pytest.raises(BrokerUnavailable, match="did not take the event"):
        verb(app)
    assert time.monotonic() - start < FACTOR * ASKED


@pytest.mark.parametrize("verb", VERBS)
def test_publish_timeout_bounds_the_whole_call_on_a_connection_that_fell_silent(
    far: Pipeline, proxy: Proxy, verb: Callable[[Pipeline], object]
) -> None:
    far.publish("a.b", {})
    proxy.fall_silent()
    fails_in_time(verb, far)
    proxy.speak()
    far.publish("a.b", {}, timeout=30)


@pytest.mark.parametrize("verb", VERBS)
def test_publish_timeout_bounds_the_whole_call_while_connecting(
    far: Pipeline, proxy: Proxy, verb: Callable[[Pipeline], object]
) -> None:
    proxy.fall_silent()
    fails_in_time(verb, far)


@pytest.mark.parametrize("scheme", ["amqps", "rediss"])
def test_publish_timeout_bounds_a_tls_handshake(broker: Broker, proxy: Proxy, scheme: str, no_settings: None) -> None:
    if not scheme.startswith({"rabbitmq": "amqp"}.get(broker.name, broker.name)):
        pytest.skip("another broker's scheme")
    proxy.fall_silent()
    with closing(Pipeline("far", broker_url=f"{scheme}://127.0.0.1:{proxy.port}/", ledger_url="")) as app:
        fails_in_time(publish, app)


def test_publish_timeout_is_shared_by_the_brokers_that_an_address_names(
    broker: Broker, proxy: Proxy, behind: Broker, no_settings: None
) -> None:
    proxy.fall_silent()
    with closing(Pipeline("far", broker_url=f"{behind.url};{broker.url}", ledger_url="")) as app:
        app.publish("a.b", {}, timeout=8)


def test_closing_is_bounded_on_a_connection_that_fell_silent(behind: Broker, proxy: Proxy, no_settings: None) -> None:
    app = Pipeline("far", broker_url=behind.url, ledger_url="", publish_timeout=ASKED)
    app.publish("a.b", {}, timeout=30)
    proxy.fall_silent()
    start = time.monotonic()
    app.close()
    assert time.monotonic() - start < FACTOR * ASKED


def test_publish_timeout_bounds_the_whole_call_on_a_file_that_is_locked(tmp_path: Path, no_settings: None) -> None:
    file = tmp_path / "broker.db"
    with closing(Pipeline("near", broker_url=f"sqlite:///{file}", directory=tmp_path, ledger_url="")) as app:
        app.publish("a.b", {})
        with closing(sqlite3.connect(file, isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            for verb in (*VERBS, lambda app: app.close() or publish(app)):
                fails_in_time(verb, app)


@pytest.mark.parametrize("pool", ["solo", "threads", "prefork"])
def test_a_worker_notices_that_its_broker_has_fallen_silent_and_goes_on(
    bus: Pipeline, broker: Broker, behind: Broker, proxy: Proxy, pool: str
) -> None:
    worker = Worker(behind, pool=pool, environment=SOON)
    try:
        worker.start()
        bus.publish("task.created", {"n": 1})
        broker.journal.wait(1, agent="alpha")
        proxy.fall_silent()
        wait_for(lambda: LOST in worker.output(), "the worker to notice", FACTOR * 10)
        bus.publish("task.created", {"n": 2, "alpha": "fail 1"})
        proxy.speak()
        broker.journal.wait(2, agent="alpha", data={"n": 2, "alpha": "fail 1"})  # the second time by its sweeper
        assert worker.is_running()
    finally:
        worker.kill()


def test_a_worker_that_starts_on_a_silent_network_waits_until_the_broker_speaks(
    bus: Pipeline, broker: Broker, behind: Broker, proxy: Proxy
) -> None:
    proxy.fall_silent()
    worker = Worker(behind, pool="solo", environment=SOON)
    try:
        worker.start(wait=False)
        wait_for(lambda: "Cannot connect to" in worker.output(), "the worker to give up its first attempt")
        proxy.speak()
        wait_for(worker._ready_or_dead, "the worker to be ready", 90)
        bus.publish("task.created", {"n": 1})
        broker.journal.wait(1, agent="alpha")
    finally:
        worker.kill()


@pytest.mark.usefixtures("nothing_disappears")
def test_a_handler_may_run_longer_than_a_broker_waits_for_heartbeats(
    bus: Pipeline, broker: Broker, worker: Callable[..., Worker]
) -> None:
    if broker.name != "rabbitmq":
        pytest.skip("only RabbitMQ wants heartbeats")
    one = worker(pool="solo", environment=SOON)
    bus.publish("task.created", {"alpha": "sleep 25"})
    bus.publish("task.created", {"n": 2})
    broker.journal.wait(2, agent="alpha")
    broker.journal.wait(2, agent="beta")
    assert LOST not in one.output()
    assert len(broker.journal.lines(agent="alpha")) == 2


HANGING = """
import time
from celery.worker.control import control_command
from contract_app import app, is_open

@control_command()
def hang(state):
    while not is_open("enough"):
        time.sleep(0.1)
"""


def test_a_worker_whose_loop_hangs_does_not_count_as_living(bus: Pipeline, broker: Broker) -> None:
    if broker.name == "redis":
        pytest.skip("its loop is RabbitMQ's")
    (broker.directory / "hanging_app.py").write_text(HANGING)
    worker = Worker(broker, app="hanging_app", pool="threads", environment=SOON)
    try:
        worker.start()
        assert status(bus.ledger.database).workers == 1
        bus.celery.control.broadcast("hang")
        wait_for(lambda: status(bus.ledger.database).workers == 0, "the worker to count as dead", 120)
        (broker.directory / "enough").touch()
        wait_for(lambda: status(bus.ledger.database).workers == 1, "the worker to count as living again")
    finally:
        worker.kill()
