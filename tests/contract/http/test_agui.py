"""A run told in the events of AG-UI: each line is one of the protocol's, in an order that its clients take."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from http.client import HTTPConnection
from itertools import takewhile
from typing import Any

import pytest

from pipeline import Pipeline
from pipeline.families import ActionProposed
from pipeline.http import Token, new_token
from pipeline.http.routes import stream
from pipeline.ledger.database.migrate import upgrade
from pipeline.ledger.notices.notice import Speaker
from tests.harness import Broker, StartWorker
from tests.http import Server, events_of, served, serving
from tests.records import run_agents
from tests.servers import wait_for

pytest.importorskip("ag_ui", reason="ag-ui-protocol is not installed")

pytestmark = pytest.mark.parametrize("broker", ["embedded"], indirect=True)  # none of it is about the broker


def parsed(lines: Iterator[dict[str, str]]) -> Iterator[Any]:
    """Read each line as the protocol's own package does; nothing that it does not know of is let through."""
    from ag_ui.core import Event
    from pydantic import TypeAdapter

    adapter: TypeAdapter[Any] = TypeAdapter(Event)
    for line in lines:
        one = adapter.validate_json(line["data"])
        assert not one.model_extra, f"{one.type} has fields that are no part of it: {one.model_extra}"
        yield one


def whole(server: Server, path: str, body: Any = None) -> list[Any]:
    """Follow a run to its end, which is that of the answer."""
    if body is None:
        with server.follow(path) as lines:
            return check(list(parsed(lines)))
    with posted(server, path, body) as lines:
        return check(list(parsed(lines)))


@contextmanager
def posted(server: Server, path: str, body: Any) -> Iterator[Iterator[dict[str, str]]]:
    with closing(HTTPConnection("127.0.0.1", server.port, timeout=30)) as connection:
        connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        assert answer.status == 200, answer.read()
        yield events_of(answer)


def check(told: Sequence[Any]) -> list[Any]:
    """Check the order that clients of AG-UI insist on."""
    assert told[0].type == "RUN_STARTED"
    assert told[-1].type in ("RUN_FINISHED", "RUN_ERROR")
    steps, texts = set(), set()
    for one in told[1:-1]:
        match str(one.type.value):
            case "STEP_STARTED":
                assert one.step_name not in steps
                steps.add(one.step_name)
            case "STEP_FINISHED":
                steps.remove(one.step_name)
            case "TEXT_MESSAGE_START":
                assert one.message_id not in texts
                texts.add(one.message_id)
            case "TEXT_MESSAGE_CONTENT":
                assert one.message_id in texts
                assert one.delta
            case "TEXT_MESSAGE_END":
                texts.remove(one.message_id)
            case other:
                assert other in ("CUSTOM", "ACTIVITY_SNAPSHOT")
    assert not steps
    assert not texts
    return list(told)


def of(told: Sequence[Any], type: str) -> list[Any]:
    return [one for one in told if one.type == type]


@pytest.fixture
def server(bus: Pipeline) -> Iterator[Server]:
    with served(bus) as one:
        yield one


def test_a_run_is_told_as_it_goes_and_again_to_who_comes_later(
    bus: Pipeline, server: Server, worker: StartWorker
) -> None:
    worker(app="edges_app", pool="threads")
    event = bus.publish("question.asked", {"question": "what is a decorator?"})
    told = whole(server, f"/agui?correlation={event.correlation_id}")
    assert [one.value["type"] for one in of(told, "CUSTOM")] == ["question.asked", "question.answered"]
    assert [one.metadata["agent"] for one in of(told, "STEP_STARTED")] == ["answers", "keeps"]
    assert [one.metadata["outcome"] for one in of(told, "STEP_FINISHED")] == ["succeeded"] * 2
    assert "".join(one.delta for one in of(told, "TEXT_MESSAGE_CONTENT")) == "Decorators wrap."
    assert of(told, "TEXT_MESSAGE_START")[0].name == "answers"
    assert of(told, "ACTIVITY_SNAPSHOT")[0].content == {"agent": "answers", "fraction": 0.5, "text": "half"}
    assert told[-1].outcome.type == "success"
    assert {told[0].thread_id, told[0].run_id, told[-1].run_id} == {event.id}
    again = whole(server, f"/agui?correlation={event.id}")
    assert {one.type for one in again} == {one.type for one in told}


def test_on_every_ledger_a_run_is_told_with_all_its_events(
    broker: Broker, ledger_url: str, worker: StartWorker, no_settings: None
) -> None:
    broker.ledger = ledger_url
    app = Pipeline("asker", broker_url=broker.url, directory=broker.directory / "state", ledger_url=ledger_url)
    upgrade(app.ledger.database)
    worker(app="edges_app", pool="threads")
    with served(app) as server:
        event = app.publish("question.asked", {"question": "why?"})
        told = whole(server, f"/agui?correlation={event.id}")
        assert [one.value["type"] for one in of(told, "CUSTOM")] == ["question.asked", "question.answered"]
        assert told[-1].outcome.type == "success"
    app.close()


def test_a_run_with_a_dead_letter_is_an_error(bus: Pipeline, server: Server, worker: StartWorker) -> None:
    worker(app="edges_app", pool="threads")
    event = bus.publish("question.asked", {"question": "wrong"})
    told = whole(server, f"/agui?correlation={event.id}")
    assert (told[-1].type, told[-1].code) == ("RUN_ERROR", "dead")
    assert "nobody knows" in told[-1].message
    assert of(told, "STEP_FINISHED")[0].metadata["outcome"] == "dead"


def test_what_waits_for_people_alone_is_an_interrupt_and_goes_on_when_they_have_decided(
    bus: Pipeline, server: Server, worker: StartWorker
) -> None:
    worker(app="edges_app", pool="threads")
    event = bus.publish("question.asked", {"question": "may I"})
    told = whole(server, f"/agui?correlation={event.id}")
    assert told[-1].outcome.type == "interrupt"
    (asked,) = told[-1].outcome.interrupts
    assert (asked.reason, asked.metadata["args"]) == ("answer.it", {"question": "may I"})
    assert server.post(f"/approvals/{asked.id}/approve", {"by": "ada"}).status == 200
    wait_for(lambda: not bus.approvals.list(), "the decision")
    assert whole(server, f"/agui?correlation={event.id}")[-1].outcome.type == "success"


def test_what_a_run_waits_for_is_found_among_any_number_that_wait_elsewhere(
    bus: Pipeline, server: Server, worker: StartWorker
) -> None:
    bus.publish_many([ActionProposed(action_id=f"other-{n}", agent_id="other", action="wait") for n in range(1001)])
    worker(app="edges_app", pool="threads")
    event = bus.publish("question.asked", {"question": "may I"})
    (asked,) = whole(server, f"/agui?correlation={event.id}")[-1].outcome.interrupts
    said = server.get(f"/approvals?correlation={event.id}")
    assert [one["id"] for one in said.data["approvals"]] == [asked.id]
    assert server.get("/approvals?correlation=nothing").data == {"approvals": []}


def test_a_client_of_agui_asks_with_its_own_message(bus: Pipeline, server: Server, worker: StartWorker) -> None:
    from ag_ui.core import RunAgentInput, UserMessage

    worker(app="edges_app", pool="threads")
    asked = RunAgentInput(
        thread_id="t1", run_id="r1", state={}, messages=[UserMessage(id="m1", content="what is it?")], tools=[],
        context=[], forwarded_props={},
    )  # fmt: skip
    told = whole(server, "/agui?type=question.asked", json.loads(asked.model_dump_json(by_alias=True)))
    assert (told[0].thread_id, told[0].run_id) == ("t1", "r1")
    first = of(told, "CUSTOM")[0].value
    assert first["data"] == {"text": "what is it?"}
    assert json.loads(first["metadata"]) == {"thread_id": "t1", "run_id": "r1"}
    assert told[-1].outcome.type == "success"


def test_a_run_that_somebody_stops_ends_as_cancelled(bus: Pipeline, server: Server) -> None:
    run_agents(bus, {"nobody": "order.#"})
    event = bus.publish("order.placed")
    with server.follow(f"/agui?correlation={event.id}") as lines:
        told = parsed(lines)
        assert [next(told).type for _ in range(2)] == ["RUN_STARTED", "CUSTOM"]
        bus.cancel(event.id, tree=True)
        *_, last = told
    assert last.outcome.type == "cancelled"


def test_a_server_that_ends_lets_those_go_who_follow_a_run(bus: Pipeline, broker: Broker) -> None:
    run_agents(bus, {"nobody": "order.#"})
    event = bus.publish("order.placed")
    with ExitStack() as kept:
        with serving(broker, "edges_app") as server:
            told = parsed(kept.enter_context(server.follow(f"/agui?correlation={event.id}")))
            assert [next(told).type for _ in range(2)] == ["RUN_STARTED", "CUSTOM"]
        assert list(told) == []


def test_texts_of_an_attempt_that_has_failed_end_when_the_next_one_speaks(bus: Pipeline, server: Server) -> None:
    run_agents(bus, {"ada": "order.#"})
    event = bus.publish("order.placed")
    with server.follow(f"/agui?correlation={event.id}") as lines:
        told = parsed(lines)
        for attempt in (1, 2):
            bus.ledger.notices.add(Speaker(event.correlation_id, "d-1", "ada", attempt), "answer", f"try {attempt}")
            bus.ledger.notices.flush()
        found = [*takewhile(lambda one: getattr(one, "delta", "") != "try 2", told)]
        assert [one.type.value for one in found[2:]] == [
            "TEXT_MESSAGE_START",
            "TEXT_MESSAGE_CONTENT",
            "TEXT_MESSAGE_END",
            "TEXT_MESSAGE_START",
        ]


def test_what_cannot_be_told_is_said_before_it_begins(
    bus: Pipeline, server: Server, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert server.get("/agui?correlation=nothing").status == 404
    asked: dict[str, Any] = {"threadId": "t", "runId": "r", "messages": [{"role": "user", "content": "x"}]}
    for body, field in (
        ({**asked, "messages": []}, "messages"),
        ({**asked, "messages": [{"role": "user", "content": [{"type": "image"}]}]}, "messages"),
        ({**asked, "resume": [{"interruptId": "a", "status": "resolved"}]}, "resume"),
        ({"messages": []}, "threadId"),
    ):
        said = server.post("/agui?type=question.asked", body)
        assert (said.status, said.data["field"]) == (422, field)
    assert server.post("/agui?type=a..b", asked).status == 422
    assert not list(bus.get_events())
    event = bus.publish("order.placed")
    monkeypatch.setattr(stream, "MOST_READERS", 0)
    assert server.get(f"/agui?correlation={event.id}").status == 429
    assert server.post("/agui?type=order.placed", asked).status == 429
    assert len(list(bus.get_events())) == 1, "who cannot be told has published nothing"


def test_to_follow_needs_the_scope_read_and_to_ask_the_scope_publish_too(bus: Pipeline, broker: Broker) -> None:
    event = bus.publish("order.placed")
    made: list[tuple[str, Token]] = [new_token(scope, [scope]) for scope in ("read", "publish")]
    body = {"threadId": "t", "runId": "r", "messages": [{"role": "user", "content": "x"}]}
    with served(bus, tokens=[kept for _, kept in made]) as server:
        read, publish = ({"Authorization": f"Bearer {text}"} for text, _ in made)
        path = f"/agui?correlation={event.id}"
        assert [server.call("GET", path, headers=one).status for one in (read, publish, {})] == [200, 403, 401]
        assert [server.post("/agui?type=a.b", body, headers=one).status for one in (read, publish)] == [403, 403]
