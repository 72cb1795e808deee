"""An event is published once more as a new one, edited: by the Python API, and over HTTP."""

from __future__ import annotations

import pytest

from pipeline import Event, Pipeline
from pipeline.core.errors import InvalidEvent, UnknownAgent, UnknownEvent
from pipeline.http import new_token
from tests.http import Server, served


def placed(app: Pipeline) -> Event:
    metadata = {"user": "u1", "forked_from": "an older one"}
    return app.publish("order.placed", {"order_id": "A"}, priority=2, subject="cart", metadata=metadata)


def test_a_fork_is_a_new_event_that_says_which_one_it_was_made_of(app: Pipeline) -> None:
    one = placed(app)
    forked = app.fork(one.id)
    assert (forked.type, forked.data, forked.subject, forked.priority) == ("order.placed", one.data, "cart", 2)
    assert forked.metadata == {"user": "u1", "forked_from": one.id}
    assert forked.id != one.id
    assert (forked.correlation_id, forked.causation_id, forked.hops) == (forked.id, None, 0)
    assert [found.event for found in app.get_events(metadata={"forked_from": one.id})] == [forked]
    assert app.get_event(one.id).event == one


def test_what_is_edited_is_other_and_has_to_fit(app: Pipeline) -> None:
    one = placed(app)
    edited = app.fork(one, {"order_id": "B"}, subject="", metadata={"why": "a test"})
    assert (edited.data, edited.subject) == ({"order_id": "B"}, None)
    assert edited.metadata == {"why": "a test", "forked_from": one.id}
    other = app.fork(one, None, type="order.forgotten")
    assert (other.type, other.data) == ("order.forgotten", None)
    with pytest.raises(InvalidEvent, match="order_id"):
        app.fork(one, {"total": 1})
    with pytest.raises(UnknownEvent):
        app.fork("nothing")
    assert len(list(app.get_events())) == 3


def test_a_fork_may_be_for_one_agent_alone(app: Pipeline) -> None:
    app.ledger.subscribers.register({"billing": (("order.*",), None), "stock": (("order.*",), None)})
    one = placed(app)
    alone = app.fork(one, agent="billing")
    assert alone.targets == ("billing",)
    assert app.fork(alone).targets == ("billing",), "who gets it stays as it was"
    with pytest.raises(UnknownAgent, match="billing"):
        app.fork(one, agent="biling")


def test_what_another_program_has_sent_is_forked_with_all_that_filters_ask_for(app: Pipeline) -> None:
    foreign = {"specversion": "1.0", "id": "e1", "source": "/erp", "type": "order.placed", "region": "eu"}
    one = app.publish(Event.decode(Event.model_validate({**foreign, "data": {"order_id": "A"}}).encode(), None))
    forked = app.fork(one.key)
    assert (forked.model_extra, forked.source) == ({"region": "eu"}, "/shop")
    assert forked.metadata == {"forked_from": one.key}


def test_events_are_forked_over_http(app: Pipeline, server: Server) -> None:
    one = placed(app)
    said = server.post(f"/events/{one.id}/fork", {"data": {"order_id": "B"}})
    assert (said.status, said.data["status"]) == (201, "published")
    found = app.get_event(said.data["event_id"]).event
    assert (found.data, found.metadata["forked_from"]) == ({"order_id": "B"}, one.id)
    assert said.headers["location"] == f"/events/{found.id}"
    same = app.get_event(server.post(f"/events/{one.id}/fork", {}).data["event_id"]).event
    assert same.data == {"order_id": "A"}
    for body, status, field in (({"data": {}}, 422, "order_id"), ({"dat": 1}, 422, "dat")):
        wrong = server.post(f"/events/{one.id}/fork", body)
        assert (wrong.status, wrong.data["field"]) == (status, field)
    assert server.post("/events/nothing/fork", {}).status == 404
    assert len(list(app.get_events())) == 3


def test_who_may_not_publish_forks_nothing(app: Pipeline) -> None:
    text, token = new_token("reader", ["read"])
    one = placed(app)
    with served(app, tokens=[token]) as server:
        headers = {"Authorization": f"Bearer {text}"}
        assert server.post(f"/events/{one.id}/fork", {}, headers=headers).status == 403
        form = {**headers, "Content-Type": "application/x-www-form-urlencoded"}
        assert server.post(f"/ui/events/{one.id}/fork", headers=form, body=b"type=a.b").status == 403
    assert len(list(app.get_events())) == 1
