"""Collaborations: the five patterns, with those who take part chosen at run time."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline import InvalidCollaboration, LedgerOff, Pipeline, UnknownFlow
from pipeline.ledger.database.tables import events, flows
from tests.harness import Broker, StartWorker, Worker, run
from tests.http import served
from tests.ledgers import end_times
from tests.records import rows
from tests.servers import wait_for

pytestmark = pytest.mark.usefixtures("nothing_disappears")


@pytest.fixture
def started(worker: StartWorker) -> Worker:
    return worker(app="collaborations_app")


def ended(bus: Pipeline, broker: Broker, id: str) -> dict[str, Any]:
    """Return what `collaboration.complete` says of one, which is what its record says, too."""

    def lines() -> list[Any]:
        told = broker.journal.lines(agent="audit", type="collaboration.complete")
        return [line["data"] for line in told if line["data"]["collaboration_id"] == id]

    wait_for(lines, "the collaboration to end")
    (data,) = lines()
    record = bus.collaborations.get(id)
    assert (record.id, record.pattern, list(record.participants)) == (id, data["pattern"], data["participants"])
    assert (record.status, record.results, record.errors) == (data["status"], data["results"], data["errors"])
    assert record.end is not None
    assert record.start <= record.end
    return data  # type: ignore[no-any-return]


def done(broker: Broker) -> list[str]:
    return [line["agent"] for line in broker.journal.lines() if line["agent"] != "audit"]


def dances(broker: Broker) -> list[Any]:
    return [line["data"] for line in broker.journal.lines(agent="dancer")]


@pytest.mark.usefixtures("started")
@pytest.mark.parametrize(
    ("pattern", "payload", "status", "results", "errors"),
    [
        ("request-response", {}, "completed", ["quote", "stock"], []),
        ("request_reply", {"stock": "fail", "quote": "wait"}, "failed", [], ["stock"]),
        ("publish-subscribe", {"stock": "fail"}, "completed", ["quote"], ["stock"]),
        ("pubsub", {"stock": "fail", "quote": "fail"}, "failed", [], ["quote", "stock"]),
        ("saga", {}, "completed", ["quote", "stock"], []),
        ("saga", {"stock": "fail"}, "failed", ["quote"], ["stock"]),
        ("workflow", {}, "completed", ["quote", "stock"], []),
    ],
)
def test_what_each_pattern_comes_to(
    bus: Pipeline, broker: Broker, pattern: str, payload: Any, status: str, results: list[str], errors: list[str]
) -> None:
    id = bus.collaborate(pattern, ["quote", "stock"], payload, correlation_id="c-1")
    found = ended(bus, broker, id)
    assert (found["status"], sorted(found["results"]), sorted(found["errors"])) == (status, results, errors)
    assert all(found["results"][name] == {"by": name} for name in results)
    assert all(found["errors"][name] == f"RuntimeError: {name} was told to fail" for name in errors)
    (request,) = broker.journal.wait(1, agent="audit", type="collaboration.request")
    assert request["data"]["payload"] == payload
    (complete,) = broker.journal.lines(agent="audit", type="collaboration.complete")
    assert (complete["correlation"], complete["causation"]) == ("c-1", request["id"])
    assert {line["correlation"] for line in broker.journal.lines()} == {"c-1"}
    lines = [line for line in broker.journal.lines() if line["agent"] != "audit"]
    assert all(line["data"] == payload for line in lines)
    assert [one.id for one in bus.collaborations.list(status=status)] == [id]
    assert bus.collaborations.list(pattern="choreography") == []


@pytest.mark.usefixtures("started")
def test_a_saga_of_chosen_agents_is_undone(bus: Pipeline, broker: Broker) -> None:
    participants: list[dict[str, Any]] = [{"agent": "reserve", "undo": "release"}, {"agent": "pay", "timeout": 600.0}]
    id = bus.collaborate("saga", participants, {"pay": "wait"})
    wait_for(lambda: "pay" in done(broker), "the last step to begin")
    assert bus.collaborations.get(id).as_data() | {"start": None} == {
        "id": id, "pattern": "saga", "participants": ["reserve", "pay"], "status": "active", "start": None, "end": None,
        "results": {"reserve": {"by": "reserve"}}, "errors": {},
    }  # fmt: skip
    end_times(bus.ledger)
    found = ended(bus, broker, id)
    assert (found["status"], found["errors"]) == ("compensated", {"pay": "it was not done within 600 s"})
    assert done(broker) == ["reserve", "pay", "release"]
    told = [line["type"] for line in broker.journal.lines(agent="audit") if line["type"].startswith("saga")]
    assert sorted(told) == ["saga.compensate", "saga.step", "saga.step"]


@pytest.mark.usefixtures("started")
def test_a_workflow_of_chosen_agents_is_a_graph(bus: Pipeline, broker: Broker) -> None:
    write: dict[str, Any] = {
        "agent": "write",
        "after": ["search", "quote"],
        "input": {"hits": "results.search.by", "n": "data.n"},
    }
    id = bus.collaborate("workflow", ["search", "quote", write], {"n": 3})
    assert ended(bus, broker, id)["status"] == "completed"
    assert done(broker)[-1] == "write"
    (line,) = broker.journal.lines(agent="write")
    assert line["data"] == {"hits": "search", "n": 3}
    assert bus.flows.list(name="workflow")[0].kind == "collaboration"
    slow = bus.collaborate("workflow", ["search", "quote"], {"search": "wait"}, deadline=600)
    broker.journal.wait(2, agent="search")
    wait_for(lambda: list(bus.collaborations.get(slow).results) == ["quote"], "the other one to be done")
    end_times(bus.ledger)
    assert ended(bus, broker, slow)["errors"] == {"search": "workflow workflow had ended (its time is over)"}


@pytest.mark.usefixtures("started")
def test_a_choreography_ends_when_all_that_it_has_caused_is_done(bus: Pipeline, broker: Broker) -> None:
    id = bus.collaborate("choreography", ["caller", "dancer"], {"x": 1})
    found = ended(bus, broker, id)
    assert (found["status"], found["errors"]) == ("completed", {})
    assert found["results"] == {"caller": {"x": 1}, "dancer": {"step": "dance.right"}}
    assert sorted(done(broker)) == ["caller", "dancer", "dancer", "dancer"], "both get the first event"
    failing = bus.collaborate("choreography", ["caller"], {"caller": "fail"})
    found = ended(bus, broker, failing)
    assert (found["status"], found["errors"]) == ("failed", {"caller": "RuntimeError: caller was told to fail"})
    slow = bus.collaborate("choreography", ["caller"], {"dancer": "wait"}, deadline=600)
    wait_for(lambda: {"dancer": "wait"} in dances(broker), "what it has caused to begin")
    assert bus.collaborations.get(slow).status == "active"
    end_times(bus.ledger)
    found = ended(bus, broker, slow)
    assert found["errors"] == {"collaboration": "its time is over; what it has caused goes on"}
    (request,) = (
        one for one in bus.get_events(type="collaboration.request") if one.event.data["collaboration_id"] == slow
    )
    bus.cancel(request.event.id, tree=True)
    bus.settle(request.event)


@pytest.mark.usefixtures("started")
def test_a_handler_starts_one_when_it_succeeds(bus: Pipeline, broker: Broker) -> None:
    event = bus.publish("many.asked", {})
    broker.journal.wait(2, agent="audit", type="collaboration.complete")
    bus.settle(event)
    found = bus.collaborations.list()
    assert sorted(one.pattern for one in found) == ["request-response", "saga"]
    assert {row["correlation"] for row in rows(bus, flows)} == {event.correlation_id}


def test_what_is_wrong_is_said_at_once_and_nothing_is_written(
    bus: Pipeline, broker: Broker, started: Worker, no_settings: None
) -> None:
    wrong: list[tuple[Any, Any, str]] = [
        ("sago", ["quote"], "pattern: there is no 'sago'; did you mean 'saga'?"),
        ("saga", ["quoet"], "there is no agent 'quoet'; did you mean 'quote'?"),
        ("saga", ["quote", {"agent": "pay", "undo": "refund"}], "there is no agent 'refund'"),
        ("saga", ["quote", "quote"], "'quote' is named twice"),
        ("saga", [], "there are 0, and there may be 1 to 500"),
        ("saga", "quote", "give a list"),
        ("saga", [{"agent": "quote", "after": "pay"}], "a saga knows no 'after'"),
        ("pubsub", [{"agent": "quote", "undo": "pay"}], "a publish-subscribe knows no 'undo'"),
        (
            "workflow",
            [{"agent": "quote", "after": "pay"}, {"agent": "pay", "after": "quote"}],
            "its steps wait for each other",
        ),
        ("workflow", [{"agent": "quote", "after": "pai"}, "pay"], "comes after 'pai'; did you mean 'pay'?"),
        ("workflow", [{"agent": "quote", "after": 5}], "after=5: give the name of one who takes part"),
        ("workflow", [{"agent": "quote", "after": [["pay"]]}], "give the name of one who takes part"),
        ("saga", [{"agent": "quote", "input": "x"}], "input='x': give a path for each field"),
        ("saga", [{"agent": "quote", "input": {"f": 5}}], "give a path for each field"),
        ("saga", [{"agent": "quote", "final": "yes"}], "final='yes': give true or false"),
        ("saga", [{"agent": "quote", "timeout": "abc"}], "step 'quote': timeout: 'abc' is no duration"),
        ("saga", [{"agent": "quote", "timeout": 0}], "nothing is done in no time"),
    ]
    for pattern, participants, why in wrong:
        with pytest.raises(InvalidCollaboration, match=None) as told:
            bus.collaborate(pattern, participants, {})
        assert why in str(told.value)
    with pytest.raises(InvalidCollaboration, match="deadline: 'abc' is no duration"):
        bus.collaborate("saga", ["quote"], {}, deadline="abc")
    with pytest.raises(UnknownFlow):
        bus.collaborations.get("none")
    assert rows(bus, flows) == rows(bus, events) == []
    without = Pipeline("t", broker_url=broker.url, directory=broker.directory / "other", ledger_url="")
    with pytest.raises(LedgerOff):
        without.collaborate("saga", ["quote"], {})
    without.close()


@pytest.mark.usefixtures("started")
def test_one_is_started_and_seen_from_a_shell_and_over_http(bus: Pipeline, broker: Broker) -> None:
    command = [str(Path(sys.executable).with_name("pipeline")), "collaborations"]
    saga = json.dumps({"agent": "reserve", "undo": "release"})
    begun = run([*command, "start", "saga", saga, "stock", "--data", '{"stock": "fail"}'], broker)
    assert begun.returncode == 0, begun.stderr
    id = begun.stdout.strip()
    assert ended(bus, broker, id)["status"] == "compensated"
    assert "stock: failed: RuntimeError" in run([*command, "show", id], broker).stdout
    assert json.loads(run([*command, "list", "--json"], broker).stdout) == [bus.collaborations.get(id).as_data()]
    wrong = run([*command, "start", "circle", "stock"], broker)
    assert (wrong.returncode, "circle" in wrong.stderr) == (1, True)
    wrong = run([*command, "start", "saga", '{"agent": "stock", "input": "x"}'], broker)
    assert (wrong.returncode, "give a path" in wrong.stderr, "Traceback" in wrong.stderr) == (1, True, False)
    with served(bus) as server:
        wanted = {"pattern": "request-response", "participants": ["quote"], "payload": {}, "deadline": "1h"}
        other = server.post("/collaborations", wanted).data["id"]
        assert ended(bus, broker, other)["status"] == "completed"
        assert server.get(f"/collaborations/{other}").data == bus.collaborations.get(other).as_data()
        assert {one["id"] for one in server.get("/collaborations").data["collaborations"]} == {id, other}
        assert server.post("/collaborations", {**wanted, "participants": ["nobody"]}).status == 422
