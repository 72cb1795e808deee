"""The HTTP front: what goes in and comes out, with real workers where agents have to act."""

from __future__ import annotations

import http.client
import json
from contextlib import closing, suppress
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from pipeline import Limit, Payload, Pipeline
from pipeline.core.event import new_event
from tests.harness import Broker, StartWorker
from tests.http import Server, served, serving
from tests.records import run_agents, succeed
from tests.servers import wait_for

STRUCTURED = {"Content-Type": "application/cloudevents+json"}
BATCH = {"Content-Type": "application/cloudevents-batch+json"}


class Placed(Payload, type="order.placed"):
    order_id: str
    total: float = 1.0


def cloud(id: str = "e1", **more: object) -> dict[str, object]:
    return {"specversion": "1.0", "id": id, "source": "/erp", "type": "order.placed", "data": {"order_id": "A"}, **more}


# -- publishing


def test_an_event_is_published_and_has_an_id_under_which_it_is_found(server: Server) -> None:
    said = server.post("/events", {"type": "order.placed", "data": {"order_id": "A"}, "metadata": {"user": "u1"}})
    assert (said.status, said.data["status"]) == (201, "published")
    found = server.get(said.headers["location"]).data
    assert (found["id"], found["data"]) == (said.data["event_id"], {"order_id": "A"})
    assert [one["outcome"] for one in found["deliveries"]] == ["unrouted"]
    assert json.loads(found["metadata"]) == {"user": "u1"}
    assert server.get("/events?metadata=user=u1").data["events"][0]["id"] == found["id"]


@pytest.mark.parametrize(
    ("sent", "field"),
    [
        ({"type": "order.placed", "data": {"total": 1}}, "order_id"),
        ({"type": "order placed"}, "type"),
        ({"type": "a.b", "prio": 3}, "prio"),
        ({"type": "a.b", "priority": 11}, "priority"),
        ({"data": 1}, "type"),
        ([], "body"),
    ],
)
def test_what_is_wrong_is_answered_with_its_field_and_nothing_is_kept(
    app: Pipeline, server: Server, sent: object, field: str
) -> None:
    said = server.post("/events", sent)
    assert (said.status, said.data["field"], said.headers["content-type"]) == (422, field, "application/problem+json")
    assert field in said.data["detail"]
    assert list(app.get_events()) == []


@pytest.mark.parametrize("when", [{"delay": 3600}, {"at": "2090-01-01T00:00:00Z"}])
def test_what_is_published_later_is_scheduled(app: Pipeline, server: Server, when: dict[str, object]) -> None:
    said = server.post("/events", {"type": "a.b", **when})
    assert (said.status, said.data["status"], "location" in said.headers) == (202, "scheduled", False)
    assert app.cancel(said.data["event_id"])


def test_a_cloudevent_keeps_its_id_and_source_and_is_published_once_however_often_it_comes(
    app: Pipeline, server: Server
) -> None:
    event = cloud(partitionkey="p1")
    first, second = (server.post("/events", event, STRUCTURED) for _ in range(2))
    assert (first.status, second.status, first.data) == (201, 201, second.data)
    (record,) = app.get_events()
    assert record.event.attributes() == event
    other = server.post("/events", {**event, "data": {"order_id": "B"}}, STRUCTURED)
    assert (other.status, other.data["type"]) == (409, "urn:pipeline:problem:id-taken")


def test_a_cloudevent_in_binary_form_has_its_attributes_in_headers(app: Pipeline, server: Server) -> None:
    headers = {
        f"ce-{name}": str(value) for name, value in cloud(subject="caf%C3%A9", priority=2).items() if name != "data"
    }
    said = server.post("/events", {"order_id": "A"}, headers)
    assert said.status == 201
    (record,) = app.get_events()
    event = record.event
    assert (event.id, event.subject, event.priority, event.data) == ("e1", "café", 2, {"order_id": "A"})


def test_a_batch_is_published_as_a_whole_or_not_at_all(app: Pipeline, server: Server) -> None:
    wrong = server.post("/events", [cloud("e1"), cloud("e2", data={})], BATCH)
    assert (wrong.status, wrong.data["field"]) == (422, "[1].order_id")
    assert list(app.get_events()) == []
    right = server.post("/events", [cloud("e1"), cloud("e2")], BATCH)
    assert (right.status, [one["status"] for one in right.data["events"]]) == (201, ["published"] * 2)
    assert [record.event.id for record in app.get_events()] == ["e1", "e2"]


@pytest.mark.parametrize(
    ("event", "field"),
    [
        ({"source": ""}, "source"),
        ({"specversion": "0.3"}, "specversion"),
        ({"type": None}, "type"),
        ({"time": "x"}, "time"),
    ],
)
def test_a_broken_cloudevent_is_answered_with_the_attribute(
    server: Server, event: dict[str, object], field: str
) -> None:
    said = server.post("/events", cloud(**event), STRUCTURED)
    assert (said.status, said.data["field"]) == (422, field)


@pytest.mark.parametrize("body", [b"{", b"\xff", b"[1, 2", b"null", b'"text"'])
@pytest.mark.parametrize("kind", ["application/json", STRUCTURED["Content-Type"], BATCH["Content-Type"]])
def test_what_is_no_event_is_no_error_of_the_server(server: Server, body: bytes, kind: str) -> None:
    assert server.post("/events", headers={"Content-Type": kind}, body=body).status == 422


def test_what_is_too_large_is_refused_before_it_is_read(server: Server, app: Pipeline) -> None:
    huge = server.post("/events", headers={"Content-Type": "application/json"}, body=b" " * 5_000_000)
    large = server.post("/events", {"type": "a.b", "data": "x" * 300_000})
    assert (huge.status, large.status, large.data["field"]) == (413, 413, "data")
    assert list(app.get_events()) == []


def test_other_content_than_json_is_not_taken(server: Server) -> None:
    said = server.post("/events", headers={"Content-Type": "text/plain"}, body=b"hello")
    assert said.status == 415
    assert "application/json" in said.data["detail"]


def test_while_the_broker_is_away_an_event_is_accepted_and_is_in_the_ledger(tmp_path: Path, no_settings: None) -> None:
    app = Pipeline("shop", directory=tmp_path, broker_url="amqp://127.0.0.1:9//")
    with served(app) as server:
        said = server.post("/events", {"type": "order.placed", "data": {}})
        assert (said.status, said.data["status"]) == (202, "accepted")
        assert server.get(f"/events/{said.data['event_id']}").status == 200
        assert server.get("/readyz").status == 200  # what is published is kept
    app.close()


def test_without_a_ledger_the_broker_that_is_away_is_said_so_and_what_needs_one_too(
    tmp_path: Path, no_settings: None
) -> None:
    app = Pipeline("shop", directory=tmp_path, broker_url="amqp://127.0.0.1:9//", ledger_url="")
    with served(app) as server:
        said = server.post("/events", {"type": "order.placed", "data": {}})
        assert (said.status, said.headers["retry-after"]) == (503, "5")
        assert server.get("/events").status == 501
        assert server.get("/stream").status == 501
        assert server.get("/readyz").status == 503
        assert server.get("/healthz").status == 200
    app.close()


@pytest.mark.parametrize(
    ("path", "sent"),
    [
        ("/events", {"type": "a.b", "at": "9999-12-31T23:59:59-10:00"}),
        ("/agents/x/register", {"url": "http://[::1/x", "event_types": ["a.*"]}),
        ("/agents/x/register", {"url": "http://127.0.0.1/x", "event_types": ["a.*"]}),
        ("/explain", {"type": "a b"}),
    ],
)
def test_odd_values_are_the_callers_mistake(server: Server, path: str, sent: object) -> None:
    assert server.post(path, sent).status == 422


def test_what_is_nested_too_deeply_is_named_in_a_batch(server: Server) -> None:
    deep = b"[" * 300 + b"]" * 300
    body = json.dumps([cloud("e1"), cloud("e2", data=None)]).encode().replace(b"null", deep)
    said = server.post("/events", headers=BATCH, body=body)
    assert (said.status, said.data["detail"].startswith("[1]: ")) == (422, True)


def test_a_batch_has_an_end(server: Server) -> None:
    assert server.post("/events", [cloud(f"e{n}") for n in range(1001)], BATCH).status == 413


@pytest.mark.parametrize("path", ["/events", "/requests", "/dead-letters/drop", "/ui/send"])
def test_what_is_too_large_is_refused_in_whatever_pieces_it_comes(server: Server, path: str) -> None:
    with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)) as connection:
        kind = "application/x-www-form-urlencoded" if path.startswith("/ui") else "application/json"
        pieces = (b" " * 1_000_000 for _ in range(5))
        with suppress(BrokenPipeError, ConnectionResetError):
            connection.request("POST", path, pieces, {"Content-Type": kind}, encode_chunked=True)
        assert connection.getresponse().status == 413


# -- reading


def test_the_log_is_read_page_by_page(app: Pipeline, server: Server) -> None:
    published = [event.id for event in app.publish_many([("tick.one", n) for n in range(25)])]
    found, after = [], ""
    while after is not None:
        page = server.get(f"/events?type=tick.*&limit=10&after={after}").data
        found += [event["id"] for event in page["events"]]
        after = page["next"]
    assert found == published


def test_a_part_of_the_log_is_read_by_numbers_and_by_times(app: Pipeline, server: Server) -> None:
    app.publish_many([("tick.one", n) for n in range(20)])

    def numbers(query: str) -> list[int]:
        return [event["data"] for event in server.get(f"/events?{query}").data["events"]]

    assert numbers("since=5&up_to=8") == [4, 5, 6, 7]
    assert numbers("since=2020-01-01T00:00:00Z&up_to=2020-01-02T00:00:00Z") == []
    assert len(numbers("since=2020-01-01T00:00:00Z")) == 20


def test_what_another_program_leaves_out_is_shown_all_the_same(app: Pipeline, server: Server) -> None:
    for number, more in enumerate(({"time": 1700000000}, {"time": "1700000000"}, {})):
        event = {name: value for name, value in cloud(f"e{number}", type="a.b", **more).items() if name != "data"}
        assert server.post("/events", event, STRUCTURED).status == 201
    for found in server.get("/events").data["events"]:
        assert found["time"].endswith("Z")
        assert server.get(f"/ui/events/{found['key']}").status == 200
    assert server.get("/ui/").status == 200
    assert len(list(app.get_events())) == 3


def test_an_events_page_is_renewed_until_whoever_gets_it_is_done(app: Pipeline, server: Server) -> None:
    run_agents(app, {"billing": "order.*"})
    event = app.publish("order.placed", {"order_id": "A"})

    def page() -> str:
        return server.get(f"/ui/events/{event.id}").body.decode()

    assert "data-settled" not in page(), "its agent has not begun yet"
    succeed(app, event, "billing")
    assert "data-settled" in page()
    app.publish(new_event("order.late", {}, source="/shop", cause=event), delay=60)
    assert "data-settled" not in page()


def test_what_an_event_has_caused_and_who_would_get_one_is_answered(app: Pipeline, server: Server) -> None:
    event = app.publish("tick.one", 1)
    assert server.get(f"/events/{event.id}/trace").data == app.trace(event).as_data()
    assert server.get(f"/events/{event.id}/explain").data == {"answers": []}
    assert server.post("/explain", {"type": "tick.one"}).data == {"answers": []}


def test_an_event_says_where_its_schema_is_and_that_is_where_it_is(tmp_path: Path, no_settings: None) -> None:
    app = Pipeline("shop", directory=tmp_path, schemas_url="https://bus.example.com/schemas")
    app.types.add(Placed)
    with served(app) as server:
        events = [app.publish(Placed(order_id="A")), app.publish("order.placed", {"order_id": "B"}), app.publish("a.b")]
        said = [event.attributes().get("dataschema") for event in events]
        assert said == ["https://bus.example.com/schemas/order.placed/1.0.0"] * 2 + [None]
        assert server.get(said[0].removeprefix("https://bus.example.com")).data["properties"].keys() == {
            "order_id",
            "total",
        }
        assert server.get("/schemas/order.placed/latest").data == server.get("/schemas/order.placed/1.0.0").data
        assert server.get("/schemas").data == {"types": {"order.placed": ["1.0.0"]}}
        assert [server.get(f"/schemas/{one}").status for one in ("order.placed/9.0.0", "a.b/1.0.0")] == [404, 404]
        assert server.get("/asyncapi.json").data["asyncapi"].startswith("3.")
    app.close()


@pytest.mark.parametrize(
    "path",
    ["/events/x", "/events/x/trace", "/agents/x/status", "/dead-letters/x", "/flows/x", "/approvals/x", "/nothing"],
)
def test_what_is_not_there_is_not_found(server: Server, path: str) -> None:
    said = server.get(path)
    assert (said.status, said.headers["content-type"]) == (404, "application/problem+json")


@pytest.mark.parametrize(
    "query", ["after=x", "limit=0", "since=yesterday", "metadata=x", "type=a..b", "up_to=2026-01-01"]
)
def test_a_question_that_cannot_be_understood_says_what_is_wrong(server: Server, query: str) -> None:
    said = server.get(f"/events?{query}")
    assert (said.status, said.data["detail"] != "") == (422, True)


# -- with workers


@pytest.mark.parametrize("short", [True, False])
def test_what_agents_emit_says_where_its_schema_is_too(
    bus: Pipeline, broker: Broker, worker: StartWorker, short: bool
) -> None:
    options = () if short else ("-E",)
    worker(pool="threads", options=options, environment={"PIPELINE_SCHEMAS_URL": "https://bus.example.com/schemas"})
    event = bus.publish("task.created", {"beta": "emit some.thing; next 1"})
    bus.settle(event, 60)
    found = {one.event.type: one.event.attributes().get("dataschema") for one in bus.get_events()}
    step = "https://bus.example.com/schemas/step.done/1.0.0"
    assert found == {"task.created": None, "some.thing": None, "step.done": step}


def measured(server: Server) -> dict[tuple[str, str], float]:
    """Return what Prometheus would read, by the name and the agent, scope or nothing that it is about."""
    said = server.get("/metrics")
    assert said.headers["content-type"].startswith("text/plain")
    return {
        (one.name, one.labels.get("agent") or one.labels.get("name", "")): one.value
        for family in text_string_to_metric_families(said.body.decode())
        for one in family.samples
    }


def test_agents_are_seen_asked_paused_and_mended(bus: Pipeline, broker: Broker, worker: StartWorker) -> None:
    running = worker(app="durable_app", pool="threads")
    with serving(broker, "durable_app") as server:
        wait_for(lambda: server.get("/agents/order/status").data.get("state") == "online", "the agent to be there")
        status = server.get("/agents/order/status").data
        assert (status["agent_id"], status["active_tasks"], status["event_types"]) == (
            "order",
            0,
            ["order.#", "late.#"],
        )
        sent = server.post("/events", {"type": "order.placed", "data": {"amount": -1}}).data["event_id"]
        wait_for(lambda: server.get("/dead-letters?agent=order").data["letters"], "the dead letter")
        (letter,) = server.get("/dead-letters?agent=order").data["letters"]
        assert letter["event_id"] == sent
        assert "negative amount" in server.get(f"/dead-letters/{letter['id']}").data["traceback"]
        assert measured(server)["pipeline_dead_letters", "order"] == 1
        done = server.post("/dead-letters/requeue", {"ids": [letter["id"]], "data": {"amount": 1}})
        assert done.data == {"requeued": 1, "skipped": 0}
        wait_for(lambda: not server.get("/dead-letters?agent=order").data["letters"], "it to be mended")
        bus.settle(sent, 30)
        outcomes = {one["agent"]: one["outcome"] for one in server.get(f"/events/{sent}").data["deliveries"]}
        assert outcomes["order"] == "succeeded"
        assert server.post("/agents/order/pause", {"reason": "looked at"}).data["changed"] is True
        (row,) = (one for one in server.get("/agents").data["agents"] if one["agent"] == "order")
        assert row["paused"]["reason"] == "looked at"
        # What comes before the worker has heard of the pause is still handled.
        wait_for(lambda: "agent.order is not consumed" in running.output(), "the worker to leave its queue alone")
        server.post("/events", {"type": "order.placed", "data": {"amount": 1}})
        wait_for(lambda: measured(server)["pipeline_queue_messages", "order"] > 0, "its queue to hold what comes")
        found = measured(server)
        assert (found["pipeline_paused", "order"], found["pipeline_workers_alive", ""]) == (1, 1)
        assert found["pipeline_events_total", ""] == len(list(bus.get_events()))
        assert ("pipeline_oldest_seconds", "order") not in found  # nothing of it has begun
        assert ("pipeline_dead_letters", "order") not in found
        assert server.post("/agents/order/resume").data["changed"] is True
        assert server.post("/agents/nobody/pause").status == 404


def test_a_limit_is_changed_and_taken_back(app: Pipeline, server: Server) -> None:
    @app.agent(on="a.b", limit=Limit(rate="10/s", concurrent=3))
    def research(data: object) -> None: ...

    (found,) = server.get("/limits").data["limits"]
    assert (found["name"], found["running"], found["changed"]) == ("research", 0, False)
    assert server.call("PATCH", "/limits/research", {"rate": "5/m", "concurrent": None}).data["rate"] == "5/m"
    (found,) = server.get("/limits").data["limits"]
    assert (found["rule"]["rate"], found["rule"]["concurrent"], found["declared"]["concurrent"]) == ("5/m", None, 3)
    assert found["changed"] is True
    page = server.get("/ui/agents").body.decode()
    assert "<td>research</td><td>5/m</td>" in page
    assert server.call("DELETE", "/limits/research").data["concurrent"] == 3
    assert server.get("/limits").data["limits"][0]["changed"] is False
    for change, status in (({}, 422), ({"rate": "often"}, 422), ({"concurrent": 0}, 422), ({"speed": 1}, 422)):
        assert server.call("PATCH", "/limits/research", change).status == status, change
    assert server.call("PATCH", "/limits/reserch", {"concurrent": 1}).status == 404


def test_a_webhook_is_registered_changed_and_removed(bus: Pipeline) -> None:
    with served(bus) as server:
        wanted = {
            "url": "https://example.com/hook",
            "event_types": ["order.*"],
            "filters": ["total > 5"],
            "secret": None,
        }
        assert server.post("/agents/crm/register", wanted).data == {"agent_id": "crm", "status": "registered"}
        found = server.get("/agents/crm/registration").data
        assert (found["on"], found["priority"], found["max_concurrent"]) == (["order.*"], 5, 10)
        changed = server.call("PATCH", "/agents/crm", {"max_concurrent": 2})
        assert (changed.data["max_concurrent"], changed.data["url"]) == (2, wanted["url"])
        private = server.call("PATCH", "/agents/crm", {"url": "http://169.254.169.254/latest"})
        assert (private.status, private.data["field"]) == (422, "url")
        assert "not public" in private.data["detail"]
        assert server.post("/agents/crm/register", wanted).status == 422
        assert server.call("DELETE", "/agents/crm").data["status"] == "removed"
        assert server.call("DELETE", "/agents/crm").status == 404
