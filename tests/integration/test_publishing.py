"""Publishing from web apps: threads, event loops, forks, wrong input, brokers that are not there."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

import pytest

from pipeline import BrokerUnavailable, EventTooLarge, InvalidEvent, Payload, Pipeline
from tests.harness import Broker, backlog, fill_disk, run
from tests.servers import AT_MOST, Server, free_port, wait_for


@pytest.fixture
def broker(broker: Broker) -> Broker:
    """The broker without a ledger: what is shown here is what it does by itself."""
    broker.ledger = ""
    return broker


FORK = """
import os, sys
from pipeline import Pipeline
app = Pipeline("forking")
first = app.publish("fork.test", {"who": "before"})
children = []
for _ in range(3):
    pid = os.fork()
    if pid == 0:
        for _ in range(20):
            app.publish("fork.test", {"who": "child"})
        app.close()
        os._exit(0)
    children.append(pid)
for _ in range(20):
    app.publish("fork.test", {"who": "parent"})
codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
app.publish("fork.test", {"who": "after"})
assert codes == [0, 0, 0], codes
"""

NO_AGENTS = """
import sys
from pipeline import Pipeline
app = Pipeline("web", agents=("no_such_module",))
app.publish("web.test", {})
assert "no_such_module" not in sys.modules
"""


def test_a_process_that_forks_publishes_on_both_sides(bus: Pipeline, broker: Broker) -> None:
    done = run([sys.executable, "-c", FORK], broker)
    assert done.returncode == 0, done.stderr
    wait_for(lambda: backlog(bus, "events.unrouted") == 82, "82 events")


def test_publishing_imports_no_agents(broker: Broker) -> None:
    done = run([sys.executable, "-c", NO_AGENTS], broker)
    assert done.returncode == 0, done.stderr


def test_apublish_never_blocks_the_event_loop(bus: Pipeline, broker: Broker) -> None:
    server: Server | None = broker.server
    if server is None:
        pytest.skip("the embedded broker cannot be paused")

    async def scenario() -> int:
        await bus.apublish("web.test", {"n": 1})
        server.pause()
        ticks = 0
        publishing = asyncio.create_task(bus.apublish("web.test", {"n": 2}, timeout=1))
        while not publishing.done():
            ticks += 1
            await asyncio.sleep(0.01)
        with pytest.raises(BrokerUnavailable):
            await publishing
        return ticks

    try:
        assert asyncio.run(scenario()) > 5
    finally:
        server.resume()


def test_async_publishers_run_at_once(bus: Pipeline, broker: Broker) -> None:
    async def scenario() -> list[str]:
        return [event.id for event in await asyncio.gather(*(bus.apublish("web.test", {"n": n}) for n in range(50)))]

    assert len(set(asyncio.run(scenario()))) == 50
    wait_for(lambda: backlog(bus, "events.unrouted") == 50, "50 events")


@pytest.mark.parametrize("scheme", ["amqp://guest:secret@127.0.0.1:{}//", "redis://:secret@127.0.0.1:{}/0"])
def test_a_broker_that_is_not_there_is_named_without_its_password(scheme: str) -> None:
    app = Pipeline("web", broker_url=scheme.format(free_port()), publish_timeout=0.5, ledger_url="")
    started = time.monotonic()
    with pytest.raises(BrokerUnavailable, match=r"within 0\.5 s") as caught:
        app.publish("web.test", {})
    assert time.monotonic() - started < AT_MOST
    assert "PIPELINE_BROKER_URL" in str(caught.value)
    assert "secret" not in str(caught.value)


class Order(Payload, type="order.placed"):
    n: int


def test_wrong_input_names_the_field_and_sends_nothing(bus: Pipeline, broker: Broker) -> None:
    cases = [
        (("not a type!", {}), {}, "type: 'not a type!'"),
        (("order.placed", {}), {"priority": 11}, "priority: "),
        (("order.placed", {"x": object()}), {}, "data.x: a object"),
        (("order.placed", "x" * 10_000_000), {}, "limit is 262,144"),
        ((Order(n=1), {"n": 2}), {}, "data: a typed payload"),
    ]
    for arguments, options, text in cases:
        with pytest.raises(InvalidEvent, match=text):
            bus.publish(*arguments, **options)  # type: ignore[arg-type]
    with pytest.raises(EventTooLarge):
        bus.publish_many([("order.placed", {}), ("order.placed", "x" * 300_000)])
    bus.publish("order.placed", {"n": 1})
    wait_for(lambda: backlog(bus, "events.unrouted") == 1, "the one good event")


def test_a_damaged_embedded_file_is_reported_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "broker.db"
    path.write_bytes(b"this is no database, and it is long enough to look like one" * 100)
    before = path.read_bytes()
    app = Pipeline("web", broker_url=f"sqlite:///{path}", ledger_url="")
    with pytest.raises(BrokerUnavailable, match=r"is damaged.*move the file away"):
        app.publish("web.test", {})
    assert path.read_bytes() == before


def test_a_full_disk_is_reported_and_publishing_goes_on_when_there_is_room(tmp_path: Path) -> None:
    broker = Broker("embedded", f"sqlite:///{tmp_path / 'broker.db'}", tmp_path, ledger="")
    accepted = fill_disk(broker, "BrokerUnavailable", 500_000)
    bus = Pipeline("check", broker_url=broker.url)
    assert backlog(bus, "events.unrouted") == accepted + 2
