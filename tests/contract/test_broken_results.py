"""What a result backend does not take ends no worker, and no message comes back for it."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from celery import chord

from pipeline import Pipeline
from tests.apps.chords_app import declare
from tests.harness import Broker, StartWorker, backlog
from tests.servers import wait_for

pytestmark = pytest.mark.usefixtures("nothing_disappears")

PAST = datetime(2020, 1, 1, tzinfo=UTC)


def test_a_worker_outlives_results_that_cannot_be_recorded_and_says_which(
    bus: Pipeline, broker: Broker, worker: StartWorker
) -> None:
    one = worker(app="broken_results_app", pool="prefork")
    tasks = declare(bus.celery)
    lost = [
        tasks.ok.apply_async((1,), expires=PAST),
        tasks.ok.apply_async((2,), expires=0.2, countdown=0.5),
        tasks.die.delay(),
        bus.celery.send_task("nobody.knows"),
        chord([tasks.ok.si(1).set(expires=PAST)] * 2, tasks.body.s()).apply_async().parent[0],
    ]
    for result in lost:
        if result is not lost[3]:
            line = f"[{result.id}]: how it ended could not be recorded"
            wait_for(lambda line=line: line in one.output(), line)  # type: ignore[misc]
    wait_for(lambda: "the results are broken" in one.output().partition("nobody.knows")[2], "the unknown task")
    assert tasks.ok.delay(7).get(timeout=60) == 7
    one.stop()
    assert backlog(bus, "celery") == 0
    assert "Unrecoverable error" not in one.output()
    assert "Pool callback raised" not in one.output()
