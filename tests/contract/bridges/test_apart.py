"""Bridges that are apart: through TLS, with a ledger that is away, and the example of the page."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from pipeline import Pipeline
from tests.bridges import JetStream, Running, numbered
from tests.harness import Broker, StartWorker, run
from tests.natsserver import Nats
from tests.servers import PostgreSQL, Server, wait_for
from tests.tls import certificate

pytestmark = [
    pytest.mark.parametrize("broker", ["embedded"], indirect=True),
    pytest.mark.parametrize("other", ["jetstream"], indirect=True),
]
PAGE = Path(__file__).parents[3] / "docs" / "bridges.md"


def test_a_server_is_verified_by_the_authority_that_is_named(
    other: JetStream, bridge: Callable[..., Running], tmp_path: Path
) -> None:
    ours, theirs = certificate(tmp_path, "localhost"), certificate(tmp_path, "elsewhere")

    class Encrypted(Nats):
        def command(self) -> list[str]:
            return [*super().command(), "--tls", "--tlscert", str(ours), "--tlskey", str(ours.with_suffix(".key"))]

    server = Encrypted()
    try:
        server.start()
        url = f"tls://localhost:{server.port}"
        about = {"url": url, "stream": "", "max_reconnects": 1, "reconnect_wait": 0.01}
        refused = bridge(ready=False, options={**about, "tls_ca": str(theirs)})
        wait_for(refused.has_ended, "the bridge to give up")
        assert "CERTIFICATE_VERIFY_FAILED" in refused.output()
        bridge(options={**about, "tls_ca": str(ours)})
    finally:
        server.stop()


def test_messages_are_held_while_the_ledger_is_away_and_come_in_in_their_order(
    broker: Broker, other: JetStream, bridge: Callable[..., Running], servers: Callable[[str], Server]
) -> None:
    servers("postgresql")  # which skips the test where there is none
    server = PostgreSQL()
    try:
        server.start()
        broker.ledger = server.database()
        upgraded = run([sys.executable, "-m", "pipeline.cli.main", "ledger", "upgrade"], broker)
        assert upgraded.returncode == 0, upgraded.stderr
        server.kill()
        one = bridge(ready=False, soon=True)
        wait_for(lambda: one.said("the ledger is away"), "the bridge to wait for the ledger")
        server.start()
        other.put_many("stock.low", numbered(5))
        wait_for(lambda: other.left() == 0, "the first messages to be done", interval=0.1)
        server.kill()
        other.put_many("stock.low", {id: body for id, body in numbered(40).items() if id not in numbered(5)})
        wait_for(lambda: one.said("nothing is accepted now"), "the bridge to hold messages")
        assert other.left() == 35
        server.start()
        wait_for(lambda: other.left() == 0, "all messages to be done", interval=0.1)
        with closing(Pipeline("shop", broker_url=broker.url, ledger_url=broker.ledger)) as app:
            found = [record.event.data["n"] for record in app.get_events(type="stock.#")]
            app.celery.close()
        assert found == list(range(40))
    finally:
        server.stop()


def test_the_example_of_the_page_does_what_the_page_says(
    bus: Pipeline, broker: Broker, other: JetStream, worker: StartWorker
) -> None:
    example, *_ = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    (broker.directory / "shop.py").write_text(example)
    environment = {"NATS_URL": other.server.url, "PYTHONPATH": str(broker.directory)}  # type: ignore[attr-defined]
    one = worker(app="shop", environment=environment)
    bridge = Running(broker, environment, app="shop").start()
    try:
        event = bus.publish("order.placed", {"n": 1})
        wait_for(other.got, "the event on NATS", interval=0.1)
        assert json.loads(other.got()[0][1])["id"] == event.id
        other.put("stock.low", b'{"sku": "tea"}')
        wait_for(lambda: "order more of tea" in one.output(), "the agent")
    finally:
        bridge.kill()
