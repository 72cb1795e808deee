"""The CloudEvents project's own SDK on both sides: it sends what is published, and reads what is answered and sent."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pytest

from pipeline import Pipeline
from tests.harness import StartWorker
from tests.http import Answer, Server
from tests.webhooks import NEARBY, hooked

pytest.importorskip("cloudevents.core", reason="the CloudEvents SDK is not installed")
from cloudevents.core.bindings.http import HTTPMessage, from_http, to_binary, to_structured
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent

FORMAT = JSONFormat()
BATCH = {"content-type": "application/cloudevents-batch+json"}


def made(id: str = "e1", data: Any = None, **more: Any) -> CloudEvent:
    given = {"id": id, "source": "/erp/Zoë", "type": "order.placed", "specversion": "1.0", "subject": "café 100%"}
    given |= {"time": datetime(2026, 1, 31, 9, 30, 0, 250_000, tzinfo=UTC), "datacontenttype": "application/json"}
    return CloudEvent({**given, "partitionkey": "p 1", **more}, data or {"order_id": "Ä1"})


def send(server: Server, message: HTTPMessage) -> Answer:
    return server.post("/events", headers=message.headers, body=message.body)


def read(headers: Mapping[str, str], body: bytes) -> CloudEvent:
    found = from_http(HTTPMessage(dict(headers), body), FORMAT)
    assert isinstance(found, CloudEvent)
    return found


def same(found: CloudEvent, sent: CloudEvent) -> bool:
    said = found.get_attributes()
    return found.get_data() == sent.get_data() and {name: said[name] for name in sent.get_attributes()} == (
        sent.get_attributes()
    )


@pytest.mark.parametrize("mode", [to_structured, to_binary])
def test_what_the_sdk_sends_is_published_as_it_is_and_it_reads_what_is_answered(server: Server, mode: Any) -> None:
    event = made(priority=2)
    said = send(server, mode(event, FORMAT))
    assert (said.status, said.data["status"]) == (201, "published")
    answer = server.get(said.headers["location"])
    assert same(read({"content-type": answer.headers["content-type"]}, answer.body), event)


def test_an_event_is_the_same_in_whatever_form_the_sdk_sends_it(app: Pipeline, server: Server) -> None:
    answers = [send(server, mode(made(), FORMAT)) for mode in (to_structured, to_binary, to_structured)]
    assert [one.status for one in answers] == [201, 201, 201]
    assert len({one.data["event_id"] for one in answers}) == 1
    assert len(list(app.get_events())) == 1


def test_what_the_sdk_writes_may_be_a_batch_and_it_reads_each_of_the_log(server: Server) -> None:
    events = [made(f"e{n}", {"order_id": n * "x", "total": n}) for n in range(1, 4)]
    body = b"[" + b",".join(FORMAT.write(event) for event in events) + b"]"
    assert server.post("/events", headers=BATCH, body=body).status == 201
    answered = server.get("/events").data["events"]
    found = [read({}, json.dumps(one).encode()) for one in answered]
    assert len(found) == 3
    assert all(map(same, found, events))


@pytest.mark.parametrize("mode", [to_structured, to_binary])
def test_data_that_is_no_json_is_refused_in_words(server: Server, mode: Any) -> None:
    event = made(data=b"\x00\xff", datacontenttype="application/octet-stream")
    said = send(server, mode(event, FORMAT))
    assert said.status in (415, 422)
    assert "JSON" in said.data["detail"]


@pytest.mark.parametrize("broker", ["embedded"], indirect=True)
def test_the_sdk_reads_what_a_webhook_is_called_with(bus: Pipeline, worker: StartWorker) -> None:
    with hooked() as hook:
        worker(app="pauses_app", pool="prefork", environment=NEARBY)
        bus.subscriptions.add("crm", on="order.*", url=hook.url)
        event = bus.publish("order.placed", {"n": 1, "name": "Zoë"}, subject="basket")
        (call,) = hook.wait(1)
    found = read(call.headers, call.body)
    assert (found.get_id(), found.get_type(), found.get_subject()) == (event.id, "order.placed", "basket")
    assert (found.get_source(), found.get_time(), found.get_data()) == (event.source, event.time, event.data)
