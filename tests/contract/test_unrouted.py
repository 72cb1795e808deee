"""Events that nobody had listened to: found, and given to the agents that came later, on every ledger."""

from __future__ import annotations

import pytest

from pipeline import Pipeline
from pipeline.core.errors import InvalidPattern
from pipeline.core.ids import delivery_id
from pipeline.operations.unrouted import BATCH, unrouted
from tests.records import order, rows, run_agents, succeed

pytestmark = pytest.mark.usefixtures("agents")


def test_an_event_without_a_listener_is_found_until_somebody_had_it(app: Pipeline) -> None:
    first, _, second = app.publish_many([("lost.one", {}), order(), ("lost.two", {"n": 1})])
    assert [each.event for each in unrouted(app.ledger)] == [second, first]
    assert [each.event for each in unrouted(app.ledger, type="lost.one")] == [first]
    (page,) = unrouted(app.ledger, limit=1)
    assert [each.event for each in unrouted(app.ledger, limit=1, after=page.seq)] == [first]
    succeed(app, first, "billing")
    assert [each.event for each in unrouted(app.ledger)] == [second]
    with pytest.raises(InvalidPattern):
        unrouted(app.ledger, type="a b")


def test_many_events_without_a_listener_are_found_by_type(app: Pipeline) -> None:
    (rare, *_) = app.publish_many([("rare.one", {}), *[("lost.one", {}) for _ in range(BATCH + 1)]])
    assert len(unrouted(app.ledger, limit=10_000)) == BATCH + 2
    assert [each.event for each in unrouted(app.ledger, type="rare.#", limit=1)] == [rare]


def test_events_without_a_listener_reach_the_agents_that_came_later(app: Pipeline) -> None:
    one, two, elsewhere = app.publish_many([("lost.one", {"n": 1}), ("lost.two", {}), ("never.heard", {})])
    before = app.publish(order())
    assert app.replay_unrouted() == 0
    run_agents(app, {"finder": "lost.#", "first": "lost.one"})
    done: list[int] = []
    assert app.replay_unrouted(progress=done.append) == 2
    assert done == [2]
    found = {(row["event_id"], row["agent"]): row for row in rows(app, outcome="queued")}
    assert set(found) == {(one.id, "finder"), (one.id, "first"), (two.id, "finder")}
    assert found[one.id, "first"]["id"] == delivery_id(one.id, "first"), "an ordinary delivery"
    assert all(row["replay"] is None for row in found.values())
    assert [each.event for each in unrouted(app.ledger)] == [elsewhere]
    assert app.replay_unrouted() == 0, "once"
    assert {(each.encoded.agent, each.encoded.event.id) for each in app.ledger.due.at_once()} == {
        ("finder", one.id), ("first", one.id), ("finder", two.id),
    }  # fmt: skip
    assert rows(app, event_id=before.id) == []


def test_only_the_wanted_types_and_targets_are_delivered_later(app: Pipeline) -> None:
    one = app.publish("lost.one", {})
    app.publish("lost.two", {})
    run_agents(app, {"finder": "lost.#"})
    assert app.replay_unrouted(type="lost.one") == 1
    assert [row["event_id"] for row in rows(app, outcome="queued")] == [one.id]
    with pytest.raises(InvalidPattern):
        app.replay_unrouted(type="a b")


def test_a_delivery_that_was_made_meanwhile_stays_as_it_is(app: Pipeline) -> None:
    event = app.publish("lost.one", {})
    run_agents(app, {"finder": "lost.#"})
    id = succeed(app, event, "finder")
    assert app.replay_unrouted() == 1
    assert rows(app, id=id)[0]["outcome"] == "succeeded"


def test_many_events_without_a_listener_are_delivered_in_batches(app: Pipeline) -> None:
    events = app.publish_many([("lost.one", {"n": n}) for n in range(BATCH + 3)])
    run_agents(app, {"finder": "lost.#"})
    done: list[int] = []
    assert app.replay_unrouted(progress=done.append) == len(events)
    assert done == [BATCH, len(events)]
    assert len(rows(app, outcome="queued")) == len(events)
