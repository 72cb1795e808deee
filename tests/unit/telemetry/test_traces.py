"""Spans of one process: what is published, sent, handled, asked for and decided, and what they say."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from celery.exceptions import Retry as CeleryRetry
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from pipeline import Context, Event, NoResponder, Pipeline, Retry
from pipeline.core.event import new_event
from pipeline.core.ids import delivery_id
from pipeline.core.observe import Traced
from pipeline.delivery.short.way import SIGNALS
from tests.records import make_app
from tests.servers import wait_for
from tests.spans import as_data
from tests.tracing import sdk

GIVEN = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Seen:
    """What was traced."""

    def __init__(self, exporter: InMemorySpanExporter, tracer: Any) -> None:
        self._exporter, self.tracer = exporter, tracer

    def all(self) -> list[dict[str, Any]]:
        return [as_data(span) for span in self._exporter.get_finished_spans()]

    def named(self, name: str) -> list[dict[str, Any]]:
        return [span for span in self.all() if span["name"] == name]

    def one(self, name: str) -> dict[str, Any]:
        (found,) = self.named(name)
        return found


@pytest.fixture
def seen() -> Iterator[Seen]:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    with sdk(provider):
        yield Seen(exporter, provider.get_tracer("test"))


@pytest.fixture
def app(tmp_path: Path, no_settings: None) -> Iterator[Pipeline]:
    one = make_app(f"sqlite:///{tmp_path / 'ledger.db'}", tmp_path, agents=False)

    @one.agent(on="a.b", retry=Retry(max=1, base=0.01))
    def work(data: Any, ctx: Context) -> None:
        with trace.get_tracer("user").start_as_current_span("inner"):
            ctx.publish("from.inner", {})
        ctx.publish("from.outer", {})
        ctx.step("draft", lambda: 1)
        if isinstance(data, dict) and data.get("fails"):
            raise ValueError("no")

    one.ledger.subscribers.register({"work": (("a.b",), None)})
    yield one
    one.close()


def deliver(app: Pipeline, event: Event, agent: str = "work", **marks: Any) -> None:
    app.celery.finalize()
    task, id = app.celery.tasks[f"agent.{agent}"], delivery_id(event.key, agent)
    bus = {"ledger": app.ledger.id, "key": event.key, **marks}
    task.push_request(id=id, retries=0, called_directly=False, ignore_result=True, delivery_info={}, bus=bus)
    try:
        task.run(event.encode().decode())
    finally:
        task.pop_request()


def parent_of(event: Event) -> str:
    assert event.traceparent is not None
    return event.traceparent.split("-")[2]


def test_whatever_publishes_an_event_gives_it_its_context(seen: Seen, app: Pipeline) -> None:
    events = [
        app.publish("a.b", {}),
        asyncio.run(app.apublish("a.b", {})),
        app.publish("a.b", {}, delay=60),
        app.publish("a.b", {}, at=datetime.now(UTC) + timedelta(hours=1)),
    ]
    with app.ledger.database.session() as session:
        events.append(app.publish("a.b", {}, session=session))
        session.rollback()
    spans = seen.named("publish a.b")
    assert [parent_of(event) for event in events] == [span["id"] for span in spans]
    assert {span["attributes"]["messaging.operation.type"] for span in spans} == {"create"}


def test_many_events_are_one_span_and_one_that_sends_them(seen: Seen, app: Pipeline) -> None:
    events = app.publish_many([("a.b", {}), ("a.b", {}), ("c.d", {})])
    span, sent = seen.one("publish"), seen.one("send")
    assert {parent_of(event) for event in events} == {span["id"]}
    assert (
        span["attributes"]["messaging.batch.message_count"] == sent["attributes"]["messaging.batch.message_count"] == 3
    )
    assert sent["links"] == [span["id"]] * 3


def test_an_event_keeps_the_context_that_somebody_has_given_it(seen: Seen, app: Pipeline) -> None:
    event = app.publish(Event(id="e1", type="a.b", source="/elsewhere", traceparent=GIVEN, tracestate="v=1"))
    assert (event.traceparent, event.tracestate) == (GIVEN, "v=1")
    deliver(app, event)
    process = seen.one("process a.b")
    assert (process["trace"], process["parent"]) == (GIVEN.split("-")[1], GIVEN.split("-")[2])


def test_more_of_a_state_than_an_event_may_have_is_left_out_and_agents_get_the_event(seen: Seen, app: Pipeline) -> None:
    state = trace.TraceState([(f"vendor{n}", "x" * 250) for n in range(5)])
    given = trace.SpanContext(int(GIVEN.split("-")[1], 16), 7, True, trace.TraceFlags(1), state)
    with trace.use_span(trace.NonRecordingSpan(given)):
        event = app.publish("a.b", {})
        caused = new_event("c.d", {}, source="/shop", cause=event)
    assert (event.traceparent or "").split("-")[1] == GIVEN.split("-")[1] == (caused.traceparent or "").split("-")[1]
    assert (event.tracestate, caused.tracestate) == (None, None)
    deliver(app, event)
    assert seen.one("process a.b")["trace"] == GIVEN.split("-")[1]


def test_an_app_that_nobody_has_any_more_is_forgotten(seen: Seen, tmp_path: Path, no_settings: None) -> None:
    gone = weakref.ref(Pipeline("gone", directory=tmp_path).bus)
    assert Pipeline("next", directory=tmp_path), "Celery keeps the one that was made last"
    # Where another thread collects at this moment, collect() does nothing.
    wait_for(lambda: gc.collect() >= 0 and gone() is None, "the app that is gone")


def test_what_an_outbox_sends_later_keeps_its_publishers_context(seen: Seen, app: Pipeline) -> None:
    with app.ledger.database.session() as session:
        event = app.publish("a.b", {}, session=session)
        session.commit()
    assert seen.named("send a.b") == [], "nobody has sent it yet"
    app.bus.outbox.relay(app.bus.outbox.encode(app.ledger.events.unsent([event.key])))  # type: ignore[attr-defined]
    sent, published = seen.one("send a.b"), seen.one("publish a.b")
    assert (sent["parent"], sent["links"]) == (None, [published["id"]])
    assert next(iter(app.get_events(type="a.b"))).event.traceparent == event.traceparent


def test_what_a_handler_emits_carries_the_span_in_which_it_does(seen: Seen, app: Pipeline) -> None:
    deliver(app, app.publish("a.b", {}))
    found = {one.event.type: parent_of(one.event) for one in app.get_events()}
    assert found["from.inner"] == seen.one("inner")["id"]
    assert found["from.outer"] == seen.one("process a.b")["id"]


def test_a_step_is_a_span_once_and_not_where_its_result_is_there(seen: Seen, app: Pipeline) -> None:
    event = app.publish("a.b", {"fails": True})
    with pytest.raises(CeleryRetry):
        deliver(app, event)
    with pytest.raises(ValueError, match="no"):
        deliver(app, event, attempt=2)
    first, second = seen.named("process a.b")
    assert seen.one("step draft")["parent"] == first["id"]
    assert (first["attributes"]["pipeline.attempt"], second["attributes"]["pipeline.attempt"]) == (1, 2)
    assert second["attributes"]["pipeline.outcome"] == "dead"


def test_a_request_is_a_span_around_what_it_publishes(seen: Seen, app: Pipeline) -> None:
    app.ledger.subscribers.register({"work": (("a.b",), None)}, app.bus.worker_id)
    with pytest.raises(TimeoutError):
        app.request("a.b", {}, timeout=0.05)
    asked, published = seen.one("request a.b"), seen.one("publish a.b")
    assert published["parent"] == asked["id"]
    assert (asked["kind"], asked["status"]) == ("CLIENT", "ERROR")
    assert (asked["attributes"]["pipeline.timeout"], asked["attributes"]["pipeline.success"]) == (True, False)
    with pytest.raises(NoResponder):
        app.request("nobody.listens", {})
    assert seen.one("request nobody.listens")["attributes"]["pipeline.timeout"] is False


def test_who_listens_keeps_no_delivery_from_the_short_way(seen: Seen, app: Pipeline) -> None:
    app.publish("a.b", {})
    assert app.bus.spans.heard
    assert [signal.receivers for signal in SIGNALS] == [[]] * len(SIGNALS)


def test_a_decision_is_a_span(seen: Seen, app: Pipeline) -> None:
    proposed = app.publish("action.proposed", {"action_id": "1", "agent_id": "work", "action": "refund"})
    (waiting,) = app.approvals.list()
    app.approvals.approve(waiting.id, by="ada")
    span = seen.one("approval")["attributes"]
    assert (span["pipeline.approval.decision"], span["pipeline.approval.by"]) == ("approve", "ada")
    assert proposed.traceparent


def test_without_an_sdk_nothing_is_heard_and_nothing_carried(app: Pipeline) -> None:
    event = app.publish("a.b", {})
    assert (app.bus.spans.heard, event.traceparent, Traced.current) == (False, None, None)


def test_spans_of_a_web_request_are_around_what_it_publishes(seen: Seen, app: Pipeline) -> None:
    from fastapi import FastAPI
    from fastapi.testclient import TestClient
    from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor

    web = FastAPI()

    @web.post("/orders")
    def order() -> dict[str, str]:
        return {"id": app.publish("a.b", {}).id}

    FastAPIInstrumentor.instrument_app(web)
    with TestClient(web) as client:
        assert client.post("/orders").status_code == 200
    deliver(app, next(iter(app.get_events(type="a.b"))).event)
    server, published, process = seen.one("POST /orders"), seen.one("publish a.b"), seen.one("process a.b")
    assert (published["parent"], process["parent"]) == (server["id"], published["id"])


def test_what_pydantic_ai_does_nests_under_the_step_that_makes_it(seen: Seen, app: Pipeline) -> None:
    from pydantic_ai import Agent
    from pydantic_ai.capabilities import Instrumentation
    from pydantic_ai.models.test import TestModel

    model = Agent(TestModel(), capabilities=[Instrumentation()])

    @app.agent(on="ask.model")
    def asking(data: Any, ctx: Context) -> None:
        ctx.step("model", lambda: asyncio.run(model.run("hello")).output)

    deliver(app, app.publish("ask.model", {}), "asking")
    step = seen.one("step model")
    assert step["parent"] == seen.one("process ask.model")["id"]
    assert any(span["parent"] == step["id"] for span in seen.all())
    assert {span["trace"] for span in seen.all()} == {step["trace"]}


def test_requests_and_tool_calls_of_a_durable_agent_are_steps_within_its_own_spans(seen: Seen, app: Pipeline) -> None:
    from pydantic_ai import Agent
    from pydantic_ai.capabilities import Instrumentation
    from pydantic_ai.models.test import TestModel

    from pipeline.pydantic_ai import durable

    clerk = Agent(TestModel(), name="clerk", capabilities=[Instrumentation()])
    clerk.tool_plain(lambda: "found", name="look_up")

    @app.agent(on="ask.clerk")
    async def asking(data: Any, ctx: Context) -> None:
        await durable(clerk).run("hello")

    deliver(app, app.publish("ask.clerk", {}), "asking")
    spans = {span["id"]: span for span in seen.all()}
    first, second = seen.named("step clerk: model")
    (tool,) = (span for span in spans.values() if span["name"].startswith("step clerk: look_up"))
    assert [spans[span["parent"]]["name"].split()[0] for span in (first, tool, second)] == [
        "chat",
        "execute_tool",
        "chat",
    ]
    assert spans[spans[first["parent"]]["parent"]]["name"] == "invoke_agent clerk"
    assert seen.one("invoke_agent clerk")["parent"] == seen.one("process ask.clerk")["id"]
