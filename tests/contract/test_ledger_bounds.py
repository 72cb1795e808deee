"""What every ledger promises about agents with too much waiting: one event each time, and no more is shed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pipeline import Overloaded, Pipeline
from pipeline.ledger.database.tables import workers
from pipeline.ledger.database.waiting import pauses
from pipeline.ledger.ledger import Ledger
from pipeline.workers.chores import Chores
from tests.ledgers import move, new_order, record
from tests.records import logged, rows
from tests.threads import in_threads


def begin(ledger: Ledger, excess: int = 3, policy: str = "shed-oldest") -> bool:
    event = new_order("agent.backpressure")
    return ledger.waiting.bounds.begin("billing", policy, "10 wait", excess, record(event))


def test_an_episode_begins_once_with_one_event_whoever_sees_it_first(app: Pipeline, ledger: Ledger) -> None:
    assert sorted(in_threads(6, lambda _: begin(ledger))) == [False] * 5 + [True]
    assert len(logged(app, "agent.backpressure")) == 1
    assert ledger.waiting.bounds.end("billing")
    assert not ledger.waiting.bounds.end("billing")
    assert begin(ledger)


def test_no_more_are_shed_than_there_were_too_many(ledger: Ledger) -> None:
    bounds = ledger.waiting.bounds
    assert not bounds.shed("billing")
    begin(ledger, 3)
    assert sum(in_threads(8, lambda _: bounds.shed("billing"))) == 3
    assert bounds.allow("billing", "shed-oldest", 2)
    assert sum(in_threads(8, lambda _: bounds.shed("billing"))) == 2
    assert bounds.full()["billing"].shed == 5
    bounds.end("billing")
    assert not bounds.allow("billing", "shed-oldest", 2)


@pytest.fixture
def sized(app: Pipeline, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Let a worker's chore see so many events in the queue of the agent `billing`."""
    chores = Chores(app.bus)

    def see(size: int) -> None:
        monkeypatch.setattr(chores, "_waiting", lambda agent: size)
        chores.check_bounds()

    return see


def bounded(app: Pipeline, **options: Any) -> None:
    @app.agent(on="order.#", max_waiting=10, **options)
    def billing(data: Any) -> None: ...

    app.ledger.subscribers.register({"billing": (("order.#",), None)})


def test_an_episode_is_entered_at_the_bound_and_left_at_seventy_percent_of_it(
    app: Pipeline, sized: Callable[[int], None]
) -> None:
    bounded(app, overflow="shed-oldest")
    seen = []
    for size in (9, 10, 12, 8, 7, 9, 10):
        sized(size)
        seen.append(len(rows(app, pauses)))
    assert seen == [0, 1, 1, 1, 0, 0, 1]
    said = [event.data for event in logged(app, "agent.backpressure")]
    assert said == [{"agent_id": "billing", "queue_size": 10, "dropped": 3}] * 2
    assert list(app.unrouted()) == []  # it is for whoever wants it


def test_what_becomes_of_too_much_follows_a_new_version_of_the_agent(
    app: Pipeline, ledger: Ledger, sized: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.limits.bounds.FRESH", 0)
    begin(ledger, policy="reject-at-publish")
    bounded(app)
    chores = Chores(app.bus)
    chores.end_bounds()
    sized(500)
    assert ledger.waiting.bounds.full()["billing"].policy == "hold"
    monkeypatch.setattr(app.agents["billing"], "bound", None)
    sized(500)
    assert list(ledger.waiting.bounds.full()) == ["billing"]
    chores.end_bounds()
    assert ledger.waiting.bounds.full() == {}


def runs(ledger: Ledger, worker: str, most: int | None) -> None:
    """Let a worker live whose version of the agent lets so many events wait."""
    patterns = {"billing": (("order.#",), None)}
    ledger.subscribers.register(patterns, worker, about={"agents": {"billing": {"max_waiting": most}}})


@pytest.mark.parametrize("most", [1000, None])
def test_of_two_versions_that_run_the_one_that_lets_most_wait_counts_so_no_episode_begins_again_and_again(
    app: Pipeline, ledger: Ledger, sized: Callable[[int], None], most: int | None
) -> None:
    bounded(app, overflow="shed-oldest")
    runs(ledger, app.bus.worker_id, 10)
    runs(ledger, "new", most)
    sized(500)
    assert ledger.waiting.bounds.full() == {}
    begin(ledger, policy="hold", excess=0)
    sized(20)
    sized(5)
    assert ledger.waiting.bounds.full()["billing"].policy == "hold", "it is the other's to say, and to end"
    assert not ledger.waiting.bounds.shed("billing")
    ledger.workers.leave("new")
    sized(20)
    assert ledger.waiting.bounds.full()["billing"].policy == "shed-oldest"
    sized(7)
    assert ledger.waiting.bounds.full() == {}


@pytest.mark.parametrize("said", [{"max_waiting": 9}, {"max_waiting": 10}, {}, None])
def test_a_version_that_lets_no_more_wait_changes_nothing(
    app: Pipeline, ledger: Ledger, sized: Callable[[int], None], said: Any
) -> None:
    bounded(app)
    ledger.subscribers.register({"billing": (("order.#",), None)}, "other", about={"agents": {"billing": said}})
    sized(10)
    assert list(ledger.waiting.bounds.full()) == ["billing"]


def test_a_worker_that_was_killed_does_not_count(app: Pipeline, ledger: Ledger, sized: Callable[[int], None]) -> None:
    bounded(app)
    runs(ledger, "killed", 1000)
    move(ledger, workers, 60, "seen")
    sized(10)
    assert list(ledger.waiting.bounds.full()) == ["billing"]


def test_an_episode_of_an_agent_that_nobody_runs_any_more_ends(app: Pipeline, ledger: Ledger) -> None:
    begin(ledger)
    chores, full = Chores(app.bus), ledger.waiting.bounds.full
    for gone in ("another version", "billing's last"):
        ledger.workers.heartbeat(gone, {"billing": ["order.#"]})
    ledger.workers.heartbeat("w", {"stock": ["order.#"]})
    ledger.workers.leave("billing's last")
    move(ledger, workers, 299, "seen")
    chores.end_bounds()
    assert list(full()) == ["billing"], "it may come back"
    move(ledger, workers, 2, "seen")
    ledger.workers.heartbeat("w", {"stock": ["order.#"]})
    chores.end_bounds()
    assert full() == {}


def test_what_is_held_is_only_told(app: Pipeline, sized: Callable[[int], None]) -> None:
    bounded(app)
    sized(500)
    assert [event.data["dropped"] for event in logged(app, "agent.backpressure")] == [0]
    app.publish("order.placed", {})


def test_an_agent_that_refuses_lets_publishers_know_and_nothing_is_published(
    app: Pipeline, sized: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.limits.bounds.FRESH", 0)
    bounded(app, overflow="reject-at-publish")
    app.publish("order.placed", {"n": 1})
    sized(10)
    app.publish("parcel.sent", {})  # of which it hears nothing
    with pytest.raises(Overloaded, match=r"agent 'billing' has too much waiting, and refuses order.placed"):
        app.publish("order.placed", {"n": 2})
    with pytest.raises(Overloaded):
        app.publish("order.placed", {"n": 2}, budget={"tokens": 1})
    assert app.budgets.list() == []
    with pytest.raises(Overloaded):
        app.publish_many([("parcel.sent", {}), ("order.placed", {})])
    sized(7)
    app.publish("order.placed", {"n": 4})
    assert [event.data["n"] for event in logged(app, "order.placed")] == [1, 4]
    assert len(logged(app, "parcel.sent")) == 1
