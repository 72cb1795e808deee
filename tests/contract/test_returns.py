"""What cannot be recorded goes back to its queue, ever more seldom, and is delivered when that has passed."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy import text

from pipeline import Pipeline
from pipeline.core.ids import delivery_id
from pipeline.delivery.process.returns import SHORTEST
from tests.harness import Broker, StartWorker, Worker, backlog
from tests.records import rows
from tests.servers import wait_for

pytestmark = pytest.mark.usefixtures("nothing_disappears")

EVENTS = 6
POOLS = pytest.mark.parametrize("pool", ["solo", "threads", "prefork"])


@contextmanager
def without_deliveries(bus: Pipeline) -> Iterator[None]:
    """Let the ledger refuse each claim, at once."""
    for one, other in (("pipeline_deliveries", "moved_away"), ("moved_away", "pipeline_deliveries")):
        if other == "pipeline_deliveries":
            yield
        with bus.ledger.database.transaction() as connection:
            connection.execute(text(f"ALTER TABLE {one} RENAME TO {other}"))


def comings(worker: Worker, delivery: str) -> int:
    """Return how often a delivery came to a worker."""
    return len(re.findall(rf"Task agent\.beta\[{delivery}\] received", worker.output()))


@POOLS
def test_a_ledger_that_refuses_is_asked_ever_more_seldom(
    bus: Pipeline, broker: Broker, worker: StartWorker, pool: str
) -> None:
    one = worker(pool=pool)
    with without_deliveries(bus):
        started = time.monotonic()
        ids = [delivery_id(bus.publish("extra.only", {}).id, "beta") for _ in range(EVENTS)]
        wait_for(lambda: min(comings(one, id) for id in ids) > 4, "each delivery to come again and again")
        most = max(comings(one, id) for id in ids)
        assert most <= 3 + math.log2((time.monotonic() - started) / SHORTEST)
    broker.journal.wait(EVENTS, agent="beta")
    wait_for(lambda: [row["outcome"] for row in rows(bus)] == ["succeeded"] * EVENTS, "the outcomes")
    assert set(broker.journal.count(agent="beta").values()) == {1}
    wait_for(lambda: backlog(bus, "agent.beta") == 0, "an empty queue")


@POOLS
def test_a_worker_that_is_stopped_in_a_pause_ends_and_loses_nothing(
    bus: Pipeline, broker: Broker, worker: StartWorker, pool: str
) -> None:
    one = worker(pool=pool)
    with without_deliveries(bus):
        id = delivery_id(bus.publish("extra.only", {}).id, "beta")
        wait_for(lambda: comings(one, id) > 5, "a pause of some seconds")
        one.stop()
        assert one.process is not None
        assert one.process.returncode == 0
        wait_for(lambda: backlog(bus, "agent.beta") == 1, "the message to be back in its queue")
    worker(pool=pool)
    broker.journal.wait(1, agent="beta")
