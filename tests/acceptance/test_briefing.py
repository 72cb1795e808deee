"""The briefing example with a worker of Celery's command: a durable join, and a chord that ends in an event."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline import Pipeline
from tests.harness import Broker, StartWorker
from tests.records import logged
from tests.servers import wait_for


@pytest.mark.parametrize("broker", ["embedded"], indirect=True)
def test_the_join_answers_and_the_chord_ends_in_an_event(
    bus: Pipeline, worker: StartWorker, broker: Broker, tmp_path: Path
) -> None:
    places = {"BRIEFING_STATE": str(tmp_path / "state"), "BRIEFING_OUTBOX": str(tmp_path / "outbox")}
    worker(app="pipeline", pool="prefork", environment=places)
    for user in ("ada", "bob"):
        bus.settle(bus.publish("user.query", {"user_id": user, "query": "What is a decorator?"}), timeout=90)
    assert len(logged(bus, "research.complete")) == len(logged(bus, "email.sent")) == 2
    due = bus.publish("digest.due", {})
    wait_for(lambda: logged(bus, "digest.ready"), "the chord's event", 60)
    (ready,) = logged(bus, "digest.ready")
    assert (ready.data, ready.correlation_id) == ({"results": [2, 2]}, due.id)
