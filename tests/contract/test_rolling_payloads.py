"""While payload classes change, old and new workers share a queue: what either version publishes, each one reads."""

from __future__ import annotations

import sys

import pytest

from pipeline import Pipeline
from tests.harness import APPS, Broker, StartWorker, run
from tests.servers import wait_for

COMMON = {"order_id", "to", "customer_id"}


def publish(broker: Broker, version: str) -> None:
    done = run([sys.executable, str(APPS / "payloads_app.py")], broker, VERSION=version)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("broker", ["embedded"], indirect=True)  # no broker looks at data
def test_old_and_new_workers_read_what_old_and_new_publishers_send(
    bus: Pipeline, broker: Broker, worker: StartWorker
) -> None:
    versions = ("old", "new")
    for version in versions:
        worker(app="payloads_app", name=version, environment={"VERSION": version})

    def read() -> set[tuple[str, str]]:
        """Return which version has read what which one has published; publish more until there is each pair."""
        for version in versions:
            publish(broker, version)
        sent = {
            one.event.id: "new" if "gift" in one.event.data else "old" for one in bus.get_events(type="order.placed")
        }
        wait_for(lambda: len(broker.journal.lines()) == len(sent), "all to be read")
        return {(line["version"], sent[line["id"]]) for line in broker.journal.lines()}

    pairs = {(one, other) for one in versions for other in versions}
    wait_for(lambda: read() == pairs, "each version's of each", 180)  # each look starts two programs
    assert list(bus.dead_letters.list()) == []
    for line in broker.journal.lines():
        data = line["data"]
        assert data["customer_id"] == "7", "renamed, and read under both names"
        assert data["to"]["street"] == "Main"
        assert data.keys() == COMMON | ({"coupon"} if line["version"] == "old" else {"gift"})
