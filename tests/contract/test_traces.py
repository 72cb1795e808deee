"""One trace from whoever publishes to the last handler, in whatever process each of them runs."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

from pipeline import Pipeline
from tests.harness import Broker, StartWorker, backlog
from tests.servers import wait_for
from tests.spans import IntoFile, Traces
from tests.tracing import sdk

pytestmark = pytest.mark.bare


@pytest.fixture
def traces(broker: Broker) -> Traces:
    return Traces(broker.directory / "spans.jsonl")


@pytest.fixture
def tracer(traces: Traces) -> Iterator[Any]:
    """This process's tracer: publishing here is traced into the same file."""
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(IntoFile(traces.path)))
    with sdk(provider):
        yield provider.get_tracer("test")


def traced(traces: Traces, **more: str) -> dict[str, str]:
    return {"TRACES": str(traces.path), **more}


def only(found: list[dict[str, Any]]) -> dict[str, Any]:
    assert len(found) == 1, found
    return found[0]


@pytest.mark.parametrize("pool", ["solo", "threads", "prefork"])
@pytest.mark.usefixtures("nothing_disappears")
def test_a_trace_goes_on_through_workers_of_every_pool(
    pool: str, bus: Pipeline, broker: Broker, worker: StartWorker, traces: Traces, tracer: Any
) -> None:
    one = worker(app="telemetry_app", pool=pool, environment=traced(traces))
    with tracer.start_as_current_span("checkout") as root:
        event = bus.publish("tell.plain", {"n": 1, "emits": "tell.slowly"}, subject="order/1")
    process = only(traces.wait("process tell.plain"))
    last = only(traces.wait("process tell.slowly"))
    published = only(traces.wait("publish tell.plain"))
    assert published["parent"] == f"{root.get_span_context().span_id:016x}"
    assert (published["kind"], process["kind"], last["kind"]) == ("PRODUCER", "CONSUMER", "CONSUMER")
    assert {span["trace"] for span in (published, process, last)} == {f"{root.get_span_context().trace_id:032x}"}
    assert (process["parent"], last["parent"]) == (published["id"], process["id"])
    sent = only(traces.wait("send tell.plain"))
    assert (sent["kind"], sent["parent"], sent["links"]) == ("CLIENT", published["id"], [published["id"]])
    said = process["attributes"]
    assert said["messaging.message.id"] == event.id
    assert said["messaging.message.conversation_id"] == event.correlation_id
    assert said["messaging.system"] == {"embedded": "sqlite"}.get(broker.name, broker.name)
    assert (said["messaging.destination.name"], said["messaging.consumer.group.name"]) == ("tell.plain", "plain")
    assert (said["messaging.operation.type"], said["messaging.operation.name"]) == ("process", "process")
    assert said["messaging.message.body.size"] > len('{"n": 1}')
    assert (said["pipeline.agent"], said["pipeline.attempt"], said["pipeline.success"]) == ("plain", 1, True)
    assert (said["pipeline.outcome"], said["pipeline.event.subject"]) == ("succeeded", "order/1")
    assert (pool == "prefork") is (process["pid"] != one.process.pid)  # type: ignore[union-attr]


def test_each_attempt_is_a_span_with_its_error(bus: Pipeline, worker: StartWorker, traces: Traces, tracer: Any) -> None:
    worker(app="telemetry_app", pool="prefork", environment=traced(traces))
    bus.publish("tell.failing", {})
    first, second = traces.wait("process tell.failing", 2)
    assert first["parent"] == second["parent"] == only(traces.wait("publish tell.failing"))["id"]
    assert (first["attributes"]["pipeline.outcome"], second["attributes"]["pipeline.outcome"]) == ("retrying", "dead")
    assert (first["status"], first["attributes"]["error.type"]) == ("ERROR", "ValueError")
    assert first["attributes"]["pipeline.success"] is first["attributes"]["pipeline.timeout"] is False
    error = only(first["events"])
    assert (error["name"], error["exception.type"]) == ("exception", "ValueError")
    assert "went away" in error["exception.message"]
    assert "secret" not in str(first)


def test_an_sdk_that_each_process_of_the_pool_configures_is_found(
    bus: Pipeline, worker: StartWorker, traces: Traces, tracer: Any
) -> None:
    worker(app="telemetry_app", pool="prefork", environment=traced(traces, TRACES_IN_CHILDREN="1"))
    bus.publish_many([("tell.plain", {"n": n}) for n in range(5)])
    assert len({span["trace"] for span in traces.wait("process tell.plain", 5)}) == 1


def test_deliveries_are_linked_where_that_is_wanted(
    bus: Pipeline, worker: StartWorker, traces: Traces, tracer: Any
) -> None:
    worker(app="telemetry_app", pool="prefork", environment=traced(traces, PIPELINE_TRACE_LINKS="link"))
    bus.publish("tell.plain", {"n": 1, "emits": "tell.slowly"})
    process, last = only(traces.wait("process tell.plain")), only(traces.wait("process tell.slowly"))
    published = only(traces.wait("publish tell.plain"))
    assert (process["parent"], process["links"]) == (None, [published["id"]])
    assert (last["parent"], last["links"]) == (None, [process["id"]])
    assert len({span["trace"] for span in (published, process, last)}) == 3


def test_celerys_own_instrumentation_is_part_of_the_trace(
    bus: Pipeline, worker: StartWorker, traces: Traces, tracer: Any
) -> None:
    worker(app="telemetry_app", pool="prefork", environment=traced(traces, TRACES_OF_CELERY="1"))
    bus.publish("tell.plain", {"n": 1})
    task, process = only(traces.wait("run/agent.plain")), only(traces.wait("process tell.plain"))
    published = only(traces.wait("publish tell.plain"))
    assert (task["parent"], process["parent"]) == (published["id"], task["id"])
    assert process["links"] == [published["id"]]


def test_nothing_is_traced_where_it_is_turned_off(
    bus: Pipeline, worker: StartWorker, broker: Broker, traces: Traces, tracer: Any
) -> None:
    one = worker(app="telemetry_app", environment=traced(traces, PIPELINE_TRACES="false"))
    bus.publish("tell.plain", {"n": 1})
    wait_for(lambda: backlog(bus, "agent.plain") == 0 and "succeeded" in one.output(), "it to be handled", 30)
    assert traces.so_far("process tell.plain") == []


def test_a_batch_is_linked_with_all_its_events_and_no_span_waits(
    bus: Pipeline, worker: StartWorker, traces: Traces, tracer: Any
) -> None:
    if not bus.has_ledger:
        pytest.skip("batches need a ledger")
    worker(app="telemetry_app", pool="prefork", environment=traced(traces))
    for n in range(3):
        bus.publish("tell.many", {"n": n})
    (last,) = traces.wait("process tell.many", pipeline_outcome="succeeded")
    assert last["attributes"]["messaging.batch.message_count"] == 3
    assert set(last["links"]) == {span["id"] for span in traces.wait("publish tell.many", 3)}
    parked = traces.wait("process tell.many", 2, pipeline_outcome="parked")
    assert all(span["seconds"] < 30 for span in (last, *parked))


def test_steps_and_waits_of_one_delivery_are_spans_of_its_trace(
    bus: Pipeline, worker: StartWorker, traces: Traces, tracer: Any
) -> None:
    if not bus.has_ledger:
        pytest.skip("steps need a ledger")
    worker(app="telemetry_app", pool="prefork", environment=traced(traces))
    bus.publish("tell.stepping", {"n": 1, "fails": True, "sleeps": 0.2})
    last = only(traces.wait("process tell.plain"))
    attempts = traces.wait("process tell.stepping", 3)
    assert [span["attributes"]["pipeline.outcome"] for span in attempts] == ["retrying", "parked", "succeeded"]
    assert only(traces.wait("step first"))["parent"] == attempts[0]["id"]
    assert last["parent"] == attempts[-1]["id"]
    assert len({span["trace"] for span in (*attempts, last)}) == 1


@pytest.fixture
def collector() -> Iterator[tuple[str, list[Any]]]:
    """A collector that takes OTLP over HTTP: its address, and the names and traces of the spans that it has."""
    taken: list[Any] = []

    class Takes(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            request = ExportTraceServiceRequest.FromString(body)
            for resource in request.resource_spans:
                for scope in resource.scope_spans:
                    taken.extend((span.name, span.trace_id.hex()) for span in scope.spans)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Takes) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/v1/traces", taken
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("pool", ["solo", "prefork"])
def test_a_collector_has_what_processes_traced_last_when_they_end(
    pool: str, bus: Pipeline, worker: StartWorker, collector: tuple[str, list[Any]], traces: Traces, tracer: Any
) -> None:
    address, taken = collector
    one = worker(app="telemetry_app", pool=pool, environment={"TRACES_TO": address})
    event = bus.publish("tell.plain", {"n": 1, "emits": "tell.slowly"})
    wait_for(lambda: "slowly says 1" in one.output(), "both to be handled", 60)
    one.stop()
    assert event.traceparent is not None
    expected = {(f"process tell.{name}", event.traceparent.split("-")[1]) for name in ("plain", "slowly")}
    assert expected <= set(taken)
