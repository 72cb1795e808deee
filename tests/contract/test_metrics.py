"""What a worker tells Prometheus of itself: right whatever becomes of the processes of its pool."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Callable

import pytest
from prometheus_client.parser import text_string_to_metric_families as families
from sqlalchemy import func, select

from pipeline import Pipeline
from pipeline.ledger.database.tables import deliveries
from tests.harness import Broker, StartWorker
from tests.servers import free_port, wait_for

pytestmark = pytest.mark.bare
Read = Callable[..., float]


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def read(port: int) -> Read:
    """Return the value of a series of the worker; 0 for one that is not there."""

    def read(sample: str, **labels: str) -> float:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            found = [one for family in families(answer.read().decode()) for one in family.samples]
        return sum(one.value for one in found if one.name == sample and labels.items() <= one.labels.items())

    return read


def settings(port: int, **more: str) -> dict[str, str]:
    return {"PIPELINE_METRICS_PORT": str(port), **more}


@pytest.mark.usefixtures("nothing_disappears")
def test_totals_are_right_after_processes_of_the_pool_were_killed(
    bus: Pipeline, broker: Broker, worker: StartWorker, port: int, read: Read
) -> None:
    worker(app="telemetry_app", pool="prefork", environment=settings(port))
    bus.publish_many([("tell.killing", {"n": n, "kills": n % 5 == 0}) for n in range(20)])

    def ended(outcome: str) -> float:
        return read("pipeline_worker_deliveries_total", agent="killing", outcome=outcome)

    wait_for(lambda: ended("succeeded") >= 20, "all to be counted", 60)
    assert ended("dead") == 0
    assert 1 <= ended("retrying") <= 4, "of several that a process had nobody knows which has ended it"
    if bus.has_ledger:
        assert ended("succeeded") == 20
        with bus.ledger.database.reading() as connection:
            attempts = connection.execute(select(func.sum(deliveries.c.attempts))).scalar()
        assert attempts >= 20 + ended("retrying"), "others were begun, too, in a process that was killed"
    # Without a ledger one that had succeeded beside the one that was killed is handled again.
    wait_for(
        lambda: read("pipeline_worker_run_seconds_count", agent="killing") == ended("succeeded"),
        "those that have ended to be counted, and not those that were killed",
    )


@pytest.mark.parametrize("pool", ["solo", "threads", "prefork"])
def test_how_attempts_end_is_counted_by_agent(
    pool: str, bus: Pipeline, broker: Broker, worker: StartWorker, port: int, read: Read
) -> None:
    worker(app="telemetry_app", pool=pool, environment=settings(port))
    bus.publish_many([("tell.plain", {"n": n, "emits": "tell.slowly"}) for n in range(7)])
    bus.publish("tell.failing", {})
    bus.publish_many([("tell.picky", {"n": n}) for n in (1, 2, 30)])
    wanted = {
        ("plain", "succeeded"): 7, ("slowly", "succeeded"): 7, ("failing", "retrying"): 1, ("failing", "dead"): 1,
        ("picky", "filtered"): 2, ("picky", "succeeded"): 1,
    }  # fmt: skip

    def found() -> dict[tuple[str, str], float]:
        return {
            (agent, outcome): read("pipeline_worker_deliveries_total", agent=agent, outcome=outcome)
            for agent, outcome in wanted
        }

    wait_for(lambda: found() == wanted, f"{wanted}", 60)
    # What is measured of an attempt comes with other processes' next words, and may come after its end.
    for sample, of, number in (
        ("pipeline_worker_published_total", {"type": "tell.slowly"}, 7),
        ("pipeline_worker_run_seconds_count", {"agent": "failing"}, 2),
        ("pipeline_worker_run_seconds_count", {"agent": "plain"}, 7),
    ):
        wait_for(lambda sample=sample, of=of, number=number: read(sample, **of) == number, f"{number} of {sample}")  # type: ignore[misc]
    assert read("pipeline_worker_queue_seconds_count", agent="failing") == 1, "the first attempt alone has waited"
    assert 0 <= read("pipeline_worker_run_seconds_sum", agent="plain") < 30


def test_a_port_that_is_taken_ends_the_worker_with_a_word(broker: Broker, worker: StartWorker, port: int) -> None:
    worker(app="telemetry_app", environment=settings(port))
    second = worker(app="telemetry_app", name="w2", environment=settings(port), wait=False)
    wait_for(lambda: not second.is_running(), "the second worker to end", 60)
    assert "each worker on a machine needs a port of its own" in second.output()


def test_without_the_setting_nobody_listens(broker: Broker, worker: StartWorker, port: int) -> None:
    worker(app="telemetry_app", environment={"PIPELINE_METRICS_PORT": "0"})
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=2)
