"""Long work over HTTP: dead letters by filters and replays are jobs, which are watched, stopped and gone on with."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from pipeline import Pipeline
from pipeline.history.events import EventQuery
from pipeline.http import new_token
from pipeline.ledger import log
from pipeline.operations.replay import prepare
from pipeline.operations.selection import choose
from tests.http import Server, served
from tests.records import declare_agents, die, died, logged, messages, order
from tests.servers import wait_for

#: So few that a job which has begun is not done before the test is over.
SLOW = {"to": "billing", "all": True, "rate": 0.001}


@pytest.fixture(autouse=True)
def agents(app: Pipeline) -> None:
    declare_agents(app)


def begun(server: Server, path: str, data: Any) -> dict[str, Any]:
    """Begin a job, and return it as it was answered."""
    said = server.post(path, data)
    assert said.status == 202, said.data
    assert server.get(said.headers["location"]).data["id"] == said.data["id"]
    assert said.data["state"] in ("running", "done", "failed")  # it may have ended when it is answered
    return said.data  # type: ignore[no-any-return]


def ended(server: Server, path: str, data: Any) -> dict[str, Any]:
    """Begin a job, wait until it has ended, and return it."""
    id = begun(server, path, data)["id"]
    wait_for(lambda: server.get(f"/jobs/{id}").data["state"] != "running", "the job to end")
    return server.get(f"/jobs/{id}").data  # type: ignore[no-any-return]


# -- dead letters


def test_dead_letters_that_match_are_requeued_in_a_job_and_others_stay(app: Pipeline, server: Server) -> None:
    died(app, 3, error="timeout of the bank")
    other = [die(app, app.publish(order()), "stock"), die(app, app.publish(order()), error="no such account")]
    assert server.post("/dead-letters/requeue", {"agent": "billing", "error": "TIMEOUT", "dry_run": True}).data == {
        "dry_run": True,
        "number": 3,
    }
    assert app.dead_letters.count()["billing"].number == 4, "a dry run changes nothing"
    job = ended(server, "/dead-letters/requeue", {"agent": "billing", "error": "TIMEOUT"})
    assert (job["kind"], job["state"], job["done"], job["total"]) == ("requeue", "done", 3, 3)
    assert job["result"] == {"requeued": 3, "skipped": 0, "sent": True}
    assert job["asked"] == {"agent": "billing", "error": "TIMEOUT"}
    assert {letter.id for letter in app.dead_letters.list()} == set(other)
    again = ended(server, "/dead-letters/requeue", {"agent": "billing", "error": "TIMEOUT"})
    assert again["result"] == {"requeued": 0, "skipped": 0, "sent": True}, "what was requeued is dead no more"


def test_a_group_of_dead_letters_is_dropped_by_its_agent_and_error(app: Pipeline, server: Server) -> None:
    died(app, 3, error="no account")
    (longer,) = died(app, 1, error="no account at all")
    (group, other) = server.get("/dead-letters/groups").data["groups"]
    assert (group["agent"], group["error"], group["number"]) == ("billing", "no account", 3)
    assert (other["number"], other["id"]) == (1, longer)
    job = ended(server, "/dead-letters/drop", {"agent": group["agent"], "same_error": group["error"]})
    assert (job["kind"], job["result"]) == ("drop", {"dropped": 3, "skipped": 0})
    assert [letter.id for letter in app.dead_letters.list()] == [longer]


def test_older_ones_of_a_type_are_chosen(app: Pipeline, server: Server) -> None:
    died(app, 3)  # one hour after the other

    def number(**more: Any) -> int:
        return server.post("/dead-letters/drop", {"dry_run": True, **more}).data["number"]  # type: ignore[no-any-return]

    assert number(older_than="90m") == 1
    assert (number(type="order.*"), number(type="other.*"), number(all=True)) == (3, 0, 3)


@pytest.mark.parametrize("verb", ["requeue", "drop"])
@pytest.mark.parametrize(
    ("sent", "said"),
    [
        ({}, "say which dead letters"),
        ({"dry_run": True}, "say which dead letters"),
        ({"ids": ["x"], "agent": "billing"}, "say which dead letters"),
        ({"ids": []}, "ids"),
        ({"all": True, "agent": "billing"}, "say which dead letters"),
        ({"ids": ["x"], "dry_run": True}, "dry_run"),
        ({"older_than": "soon"}, "older_than"),
        ({"type": "a..b"}, "a..b"),
        ({"everything": True}, "everything"),
    ],
)
def test_a_choice_that_is_none_changes_nothing_and_begins_nothing(
    app: Pipeline, server: Server, verb: str, sent: dict[str, Any], said: str
) -> None:
    died(app, 1)
    answer = server.post(f"/dead-letters/{verb}", sent)
    assert (answer.status, said in answer.data["detail"]) == (422, True), answer.data
    assert server.get("/jobs").data == {"jobs": []}
    assert len(app.dead_letters.list()) == 1


def test_other_data_is_for_one_letter_and_no_job(app: Pipeline, server: Server) -> None:
    died(app, 1)
    said = server.post("/dead-letters/requeue", {"agent": "billing", "data": {"order_id": "B", "total": 1}})
    assert (said.status, said.data["field"]) == (422, "data")
    assert server.get("/jobs").data == {"jobs": []}


# -- replays


def test_a_replay_is_a_job_that_sends_what_was_chosen(app: Pipeline, server: Server) -> None:
    paid = [app.publish("order.paid", {"n": n}, metadata={"user": f"u{n % 2}"}) for n in range(4)]
    app.publish("other.thing")
    messages(app, "billing")
    assert ended(server, "/replays", {"to": "billing", "type": "order.*", "dry_run": True})["result"]["number"] == 4
    assert messages(app, "billing") == [], "a dry run sends nothing"
    job = ended(server, "/replays", {"to": "billing", "all": True, "broadcast": True})
    result = job["result"]
    assert (job["kind"], job["state"], job["done"], job["total"]) == ("replay", "done", 4, None)
    assert (result["number"], result["skipped"], result["id"]) == (4, 1, job["asked"]["id"])
    taken = messages(app, "billing")
    assert [event["id"] for _, event in taken] == [event.id for event in paid]
    assert {(bus["replay"], bus["broadcast"]) for bus, _ in taken} == {(result["id"], True)}
    chosen = (
        ({"metadata": {"user": "u1"}}, [1, 3]),
        ({"correlation": paid[2].id}, [2]),
        ({"type": "order.*", "since": 2, "up_to": 3}, [1, 2]),
        ({"since": "2020-01-01T00:00:00Z", "up_to": "2020-01-02T00:00:00Z"}, []),
        ({"ids": [paid[3].id, paid[0].id]}, [0, 3]),
    )
    for sent, numbers in chosen:
        job = ended(server, "/replays", {"to": "billing", **sent})
        assert [event["data"]["n"] for _, event in messages(app, "billing")] == numbers, sent
        assert job["total"] == (2 if "ids" in sent else None)


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        ({"to": "nobody", "all": True}, "no agent is called 'nobody'"),
        ({"to": "billing"}, "say which events"),
        ({"to": "billing", "all": True, "type": "order.*"}, "say which events"),
        ({"to": "billing", "all": True, "rate": 0}, "rate"),
        ({"to": "billing", "all": True, "id": "a b"}, "id="),
        ({"to": "billing", "since": "yesterday"}, "since"),
        ({"to": "billing", "since": -1000}, "since"),
        ({"to": "billing", "metadata": {"n": [1]}}, "metadata"),
        ({"all": True}, "to"),
    ],
)
def test_a_replay_that_cannot_be_begun_is_none(server: Server, sent: dict[str, Any], said: str) -> None:
    answer = server.post("/replays", sent)
    assert (answer.status, said in answer.data["detail"]) == (422, True), answer.data
    assert server.get("/jobs").data == {"jobs": []}


@pytest.mark.parametrize("sent", [{"correlation": "\ud800"}, {"metadata": {"n": "\ud800"}}])
def test_half_a_character_is_shown_as_it_was_sent_and_keeps_nobody_from_the_list(
    server: Server, sent: dict[str, Any]
) -> None:
    job = ended(server, "/replays", {"to": "billing", "dry_run": True, **sent})
    assert job["asked"].items() >= sent.items()
    assert [one["id"] for one in server.get("/jobs").data["jobs"]] == [job["id"]]


def test_an_event_that_is_not_there_is_not_found(server: Server) -> None:
    assert server.post("/replays", {"to": "billing", "ids": ["x"]}).status == 404


def test_a_replay_is_stopped_and_goes_on_with_its_id(app: Pipeline, server: Server) -> None:
    app.publish_many([order(n) for n in range(5)])
    messages(app, "billing")
    job = begun(server, "/replays", SLOW)
    app.publish(order(6))  # what comes later is not for it, now or when it goes on
    wait_for(lambda: server.get(f"/jobs/{job['id']}").data["done"] == 1, "the first event")
    assert server.post(f"/jobs/{job['id']}/stop").status == 202
    wait_for(lambda: server.get(f"/jobs/{job['id']}").data["state"] == "stopped", "the job to end")
    (bus,) = (bus for bus, _ in messages(app, "billing") if "replay" in bus)
    again = ended(server, "/replays", {**job["asked"], "rate": None})
    assert (again["result"]["number"], again["result"]["id"]) == (5, bus["replay"])
    assert {bus["replay"] for bus, _ in messages(app, "billing")} == {bus["replay"]}, "by which deliveries are known"


def test_a_replay_that_is_asked_for_twice_after_it_was_counted_is_one(app: Pipeline, server: Server) -> None:
    app.publish_many([order(n) for n in range(3)])
    counted = ended(server, "/replays", {"to": "billing", "all": True, "dry_run": True})
    app.publish(order(4))
    messages(app, "billing")
    for _ in range(2):
        done = ended(server, "/replays", {**counted["asked"], "dry_run": False})
        assert (done["result"]["number"], done["result"]["id"]) == (3, counted["asked"]["id"])


def test_a_replay_that_finds_nothing_is_stopped_all_the_same(app: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "COMPARED", 1)  # as if there were so many types that the whole log is read

    class Stopped(Exception):
        pass

    def stop(_: float) -> None:
        raise Stopped

    app.publish_many([order(n) for n in range(3)])
    chosen = choose(EventQuery(type="#.rare"), says="")
    work = prepare(app.bus, "billing", chosen, rest=stop)
    with pytest.raises(Stopped):
        work()


def test_a_job_ends_with_the_server(app: Pipeline) -> None:
    app.publish_many([order(n) for n in range(5)])
    with served(app) as server:
        id = begun(server, "/replays", SLOW)["id"]
        assert any(id in thread.name for thread in threading.enumerate())
    assert not any(id in thread.name for thread in threading.enumerate())


def test_a_replay_that_fails_says_how_to_go_on(app: Pipeline, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.core.errors import BrokerUnavailable

    def away(*_: object) -> None:
        raise BrokerUnavailable("the broker is away")

    app.publish(order())
    monkeypatch.setattr("pipeline.operations.replay.send_apart", away)
    job = ended(server, "/replays", {"to": "billing", "all": True})
    assert (job["state"], job["error"]["status"], job["result"]) == ("failed", 503, None)
    assert f"the replay {job['asked']['id']} stopped after 0 events" in job["error"]["detail"]


# -- who may, and how many


def test_who_reads_sees_jobs_and_who_operates_begins_them(app: Pipeline) -> None:
    died(app, 1)
    made = {scope: new_token(scope, [scope]) for scope in ("publish", "read", "operate")}
    with served(app, tokens=[token for _, token in made.values()]) as server:

        def call(scope: str, method: str, path: str, data: Any = None) -> Any:
            return server.call(method, path, data, {"Authorization": f"Bearer {made[scope][0]}"})

        for path in ("/replays", "/jobs/x/stop", "/dead-letters/drop"):
            assert [call(scope, "POST", path, {"all": True}).status for scope in ("publish", "read")] == [403, 403]
        for path in ("/jobs", "/jobs/x", "/queues", "/schedules", "/timers", "/blobs/x"):
            assert [call(scope, "GET", path).status for scope in ("publish", "operate")] == [403, 403]
        assert [call(scope, "DELETE", "/events/x").status for scope in ("publish", "read")] == [403, 403]
        job = call("operate", "POST", "/dead-letters/drop", {"all": True}).data
        wait_for(lambda: call("read", "GET", f"/jobs/{job['id']}").data["state"] == "done", "the job to end")
        assert call("read", "GET", "/jobs").data["jobs"][0]["by"] == "operate"
        assert logged(app, "delivery.dropped")[0].data["by"] == "operate"


def test_a_few_jobs_run_at_once_and_more_are_told_to_wait(app: Pipeline, server: Server) -> None:
    app.publish_many([order(n) for n in range(5)])
    for _ in range(4):
        begun(server, "/replays", SLOW)
    said = server.post("/replays", SLOW)
    assert (said.status, said.data["type"]) == (429, "urn:pipeline:problem:too-many-jobs")
    assert said.headers["retry-after"] == "5"
    first = server.get("/jobs").data["jobs"][-1]
    server.post(f"/jobs/{first['id']}/stop")
    wait_for(lambda: server.post("/replays", SLOW).status == 202, "another one to begin")


def test_a_job_that_is_not_there_is_not_found(server: Server) -> None:
    for said in (server.get("/jobs/x"), server.post("/jobs/x/stop")):
        assert (said.status, said.data["type"]) == (404, "urn:pipeline:problem:unknown-job")
