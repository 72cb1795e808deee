"""One trace from a Django view through a worker to another server, beside the instrumentations of Django and httpx."""

from __future__ import annotations

import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("opentelemetry.instrumentation.django")
pytest.importorskip("opentelemetry.instrumentation.httpx")

from tests.harness import APPS, Broker, StartWorker
from tests.spans import Traces


@pytest.fixture
def traces(broker: Broker) -> Traces:
    return Traces(broker.directory / "spans.jsonl")


@pytest.fixture
def site(broker: Broker, traces: Traces) -> Iterator[str]:
    """Serve the site in a process of its own; give its address."""
    environment = broker.environment(TRACES=str(traces.path))
    environment["PYTHONPATH"] = f"{APPS}:{APPS.parents[1]}"
    command = [sys.executable, str(APPS / "traced_site_app.py")]
    with (broker.directory / "site.log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=log, text=True)
    assert process.stdout is not None
    with process.stdout as said:
        port = said.readline().strip()
        assert port, (broker.directory / "site.log").read_text()
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(timeout=30)


def one(traces: Traces, name: str) -> dict[str, Any]:
    (found,) = traces.wait(name)
    return found


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_view_what_it_publishes_and_whom_the_handler_calls_are_one_trace(
    broker: Broker, worker: StartWorker, traces: Traces, site: str, pool: str
) -> None:
    worker(app="traced_site_app", pool=pool, environment={"TRACES": str(traces.path)})
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(f"{site}/orders", timeout=30) as response:
        assert response.status == 200
    view, published = one(traces, "GET orders"), one(traces, "publish order.placed")
    process, called = one(traces, "process order.placed"), one(traces, "GET")
    served, last = one(traces, "GET prices"), one(traces, "process order.priced")
    assert view["parent"] is None
    assert (published["parent"], process["parent"]) == (view["id"], published["id"])
    assert (called["parent"], called["kind"]) == (process["id"], "CLIENT")
    assert (served["parent"], served["kind"]) == (called["id"], "SERVER")
    assert {span["trace"] for span in (published, process, called, served, last)} == {view["trace"]}
    assert view["pid"] == served["pid"] != process["pid"]
