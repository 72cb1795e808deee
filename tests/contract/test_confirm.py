"""Publishing without confirms: faster, and still nothing is lost when the process ends in good order."""

from __future__ import annotations

import sys
import time

import pytest

from pipeline import Pipeline
from tests.harness import Broker, backlog, run
from tests.servers import wait_for

pytestmark = pytest.mark.usefixtures("nothing_disappears")

PUBLISH_AND_END = """
from pipeline import Pipeline
app = Pipeline("fast", confirm=False)
for n in range(2000):
    app.publish("nobody.listens", {"n": n, "text": "x" * 500})
"""


def test_a_process_that_ends_right_after_unconfirmed_publishing_loses_nothing(bus: Pipeline, broker: Broker) -> None:
    bus.publish("nobody.listens", {})
    done = run([sys.executable, "-c", PUBLISH_AND_END], broker)
    assert done.returncode == 0, done.stderr

    wait_for(lambda: backlog(bus, "events.unrouted") == 2001, "2,001 events")


def test_a_broker_that_pauses_under_unconfirmed_publishing_loses_nothing(bus: Pipeline, broker: Broker) -> None:
    if broker.name != "rabbitmq" or broker.server is None:
        pytest.skip("only AMQP publishes without waiting for an answer")
    fast = Pipeline("fast", broker_url=broker.url, confirm=False, publish_timeout=30)
    fast.publish("nobody.listens", {})
    broker.server.pause()
    try:
        # Enough for the socket's buffer and too little to fill it: the kernel holds it for longer than a second.
        fast.publish_many([("nobody.listens", {"text": "x" * 500}) for _ in range(100)])
        wait_a_while()
    finally:
        broker.server.resume()
    fast.close()

    wait_for(lambda: backlog(bus, "events.unrouted") == 101, "101 events")


def wait_a_while() -> None:
    """Let three seconds pass: more than py-amqp's own limit for unread data."""
    end = time.monotonic() + 3
    wait_for(lambda: time.monotonic() >= end, "three seconds")
