"""A cluster of workers through pytest-celery's API, on local processes instead of containers."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest
from pytest_celery.api.broker import CeleryBrokerCluster, CeleryTestBroker
from pytest_celery.api.setup import CeleryTestSetup
from pytest_celery.api.worker import CeleryTestWorker, CeleryWorkerCluster
from pytest_celery.vendors.rabbitmq.container import RabbitMQContainer
from pytest_celery.vendors.redis.container import RedisContainer
from pytest_celery.vendors.worker.container import CeleryWorkerContainer

from pipeline import Pipeline
from tests.harness import SOON, Broker, Worker
from tests.servers import wait_for

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


class LocalProcess:
    """What pytest-celery wants of a container, on a process of this machine."""

    def __init__(self, name: str) -> None:
        """Skip the Docker container's constructor."""
        self._name = name

    @property
    def name(self) -> str:
        return self._name

    @property
    def id(self) -> str:
        return self._name

    def reload(self) -> None:
        """Nothing is cached."""

    def teardown(self) -> None:
        """The fixtures of the processes end them."""


class LocalServer(LocalProcess):
    """A broker's server."""

    def __init__(self, broker: Broker) -> None:
        super().__init__(broker.name)
        self.broker = broker

    @property
    def celeryconfig(self) -> dict[str, Any]:
        return {"url": self.broker.url, "host_url": self.broker.url, "vhost": "/"}

    @property
    def status(self) -> str:
        return "running"

    def logs(self) -> str:
        assert self.broker.server is not None
        return (self.broker.server.directory / "output.log").read_text()

    def ready(self) -> bool:
        assert self.broker.server is not None
        return self.broker.server.is_ready()


class LocalRabbitMQ(LocalServer, RabbitMQContainer):
    """RabbitMQ."""


class LocalRedis(LocalServer, RedisContainer):
    """Redis."""


class LocalWorker(LocalProcess, CeleryWorkerContainer):
    """A worker."""

    def __init__(self, worker: Worker) -> None:
        super().__init__(worker.name)
        self.worker = worker

    @property
    def status(self) -> str:
        assert self.worker.process is not None
        return "running" if self.worker.process.poll() is None else "exited"

    def logs(self) -> str:
        return self.worker.output()

    def ready(self) -> bool:
        return f"{self.name}@test ready." in self.logs()

    def kill(self, signal: str | int = "SIGKILL") -> None:
        number = getattr(__import__("signal"), signal) if isinstance(signal, str) else signal
        assert self.worker.process is not None
        os.killpg(self.worker.process.pid, number)
        self.worker.process.wait(timeout=20)

    def restart(self, timeout: float = 0) -> None:
        self.worker.stop()
        self.worker.log.unlink()
        self.worker.start()


@pytest.fixture
def setup(broker: Broker, bus: Pipeline, worker: Any) -> Iterator[CeleryTestSetup]:
    """Two workers and their broker."""
    if broker.server is None:
        pytest.skip("the embedded broker has no server process")
    container = {"rabbitmq": LocalRabbitMQ, "redis": LocalRedis}[broker.name](broker)
    workers = [CeleryTestWorker(LocalWorker(worker(name=f"node{n}", environment=SOON)), bus.celery) for n in (1, 2)]
    setup = CeleryTestSetup(
        worker_cluster=CeleryWorkerCluster(*workers),
        broker_cluster=CeleryBrokerCluster(CeleryTestBroker(container, bus.celery)),
        backend_cluster=None,  # type: ignore[arg-type]  # joins keep their results in the embedded backend
        app=bus.celery,
    )
    yield setup
    setup.teardown()


def test_a_cluster_goes_on_when_one_of_its_workers_is_killed_and_restarted(
    setup: CeleryTestSetup, bus: Pipeline, broker: Broker
) -> None:
    assert setup.ready(control=True)
    events = bus.publish_many([("task.created", {"alpha": "hold gate"}) for _ in range(60)])
    broker.journal.wait(2, agent="alpha")  # both workers hold one now
    setup.worker_cluster[0].kill(signal.SIGKILL)
    (broker.directory / "gate").touch()
    assert setup.worker_cluster[0].container.status == "exited"
    setup.worker_cluster[0].restart()
    ids = {event.id for event in events}
    for agent in ("alpha", "beta", "gamma"):
        wait_for(lambda agent=agent: set(broker.journal.count(agent=agent)) == ids, f"all events at {agent}", 120)
    setup.worker_cluster[1].assert_log_exists("agent.alpha")
    assert setup.ready(control=True)
