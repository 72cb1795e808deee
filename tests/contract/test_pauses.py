"""Pausing agents with real workers: what is paused waits in its queue, wherever and whenever workers start."""

from __future__ import annotations

from datetime import timedelta

import pytest

from pipeline import Pipeline
from pipeline.core.event import new_event
from tests.harness import Broker, StartWorker, backlog
from tests.records import rows
from tests.servers import wait_for

pytestmark = pytest.mark.usefixtures("nothing_disappears")

#: Seconds in which what takes one or two has happened, on a machine that does much else, too.
MOMENTS = 20


def consumes(broker: Broker, name: str, queue: str, *, again: bool = False) -> bool:
    log = (broker.directory / f"{name}.log").read_text(errors="replace")
    return (f"{queue} is consumed again" if again else f"{queue} is not consumed") in log


def are_held(broker: Broker, name: str = "w1") -> None:
    for agent in ("sync_one", "async_one"):
        wait_for(lambda agent=agent: consumes(broker, name, f"agent.{agent}"), f"{name} to hold {agent}")  # type: ignore[misc]


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
def test_what_a_paused_agent_gets_waits_in_its_queue_until_it_is_resumed(
    bus: Pipeline, broker: Broker, worker: StartWorker, pool: str
) -> None:
    worker(app="pauses_app", pool=pool)
    bus.publish("work.wanted", {"n": 0})
    for agent in ("sync_one", "async_one", "other"):
        broker.journal.wait(1, agent=agent)
    bus.pause("sync_one", reason="maintenance")
    bus.pause("async_one")
    are_held(broker)
    bus.publish_many([("work.wanted", {"n": n}) for n in range(1, 6)])
    broker.journal.wait(6, agent="other")
    wait_for(lambda: backlog(bus, "agent.sync_one") == 5 and backlog(bus, "agent.async_one") == 5, "them to wait")
    assert len(broker.journal.lines(agent="sync_one")) == 1
    assert len(broker.journal.lines(agent="async_one")) == 1
    bus.resume("sync_one")
    broker.journal.wait(6, agent="sync_one")
    assert len(broker.journal.lines(agent="async_one")) == 1
    bus.resume("async_one")
    broker.journal.wait(6, agent="async_one")
    assert {row["attempts"] for row in rows(bus, outcome="succeeded")} == {1}


def test_a_pause_and_its_end_are_in_force_on_every_worker_within_moments(
    bus: Pipeline, broker: Broker, worker: StartWorker
) -> None:
    names = ("w1", "w2", "w3")
    for name in names:
        worker(app="pauses_app", pool="threads", name=name)
    bus.pause("sync_one")
    bus.pause("async_one")
    # A second or two are promised; a loaded machine has ten times that.
    for name in names:
        wait_for(lambda name=name: consumes(broker, name, "agent.sync_one"), f"{name} to hold", MOMENTS)  # type: ignore[misc]
    bus.publish_many([("work.wanted", {"n": n}) for n in range(12)])
    broker.journal.wait(12, agent="other")
    assert broker.journal.lines(agent="sync_one") == []
    bus.resume("sync_one")
    bus.resume("async_one")
    for name in names:
        wait_for(lambda name=name: consumes(broker, name, "agent.sync_one", again=True), f"{name} to go on", MOMENTS)  # type: ignore[misc]
    broker.journal.wait(12, MOMENTS, agent="sync_one")
    broker.journal.wait(12, MOMENTS, agent="async_one")


def test_a_worker_that_starts_later_leaves_the_queue_alone_and_what_runs_is_finished(
    bus: Pipeline, broker: Broker, worker: StartWorker
) -> None:
    one = worker(app="pauses_app", pool="prefork")
    bus.publish("work.wanted", {"n": 0, "until": "gate"})
    broker.journal.wait(1, agent="other")
    wait_for(lambda: len(rows(bus, agent="sync_one", outcome="running")) == 1, "the handler to run")
    bus.pause("sync_one")
    bus.pause("async_one")
    are_held(broker)
    (broker.directory / "gate").touch()
    broker.journal.wait(1, agent="sync_one")
    one.stop()
    worker(app="pauses_app", pool="prefork", name="two")
    bus.publish("work.wanted", {"n": 1})
    broker.journal.wait(2, agent="other")
    wait_for(lambda: backlog(bus, "agent.sync_one") == 1, "it to wait")
    assert len(broker.journal.lines(agent="sync_one")) == 1
    bus.resume("sync_one")
    bus.resume("async_one")
    broker.journal.wait(2, agent="sync_one")


def test_reconciliation_does_not_send_again_what_waits_for_a_paused_agent(
    bus: Pipeline, broker: Broker, worker: StartWorker
) -> None:
    worker(app="pauses_app", environment={"PIPELINE_RECONCILE_AFTER": "1"})
    bus.pause("sync_one")
    bus.pause("async_one")
    are_held(broker)
    event = bus.publish("work.wanted", {"n": 0})
    # Found missing, and not sent: after that it is looked at once in a second.
    wait_for(lambda: len(rows(bus, event_id=event.id, outcome="queued")) == 2, "reconciliation to look")
    seen = bus.publish("work.wanted", {"n": 1})
    wait_for(lambda: len(rows(bus, event_id=seen.id, outcome="queued")) == 2, "reconciliation to look again")
    assert backlog(bus, "agent.sync_one") == 2
    assert backlog(bus, "agent.async_one") == 2
    bus.resume("sync_one")
    bus.resume("async_one")
    broker.journal.wait(2, agent="sync_one")
    assert set(broker.journal.count(agent="sync_one").values()) == {1}


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
def test_what_a_provider_refuses_waits_for_all_agents_that_use_it_and_spends_no_attempt(
    bus: Pipeline, broker: Broker, worker: StartWorker, pool: str
) -> None:
    worker(app="pauses_app", pool=pool)
    asked = [bus.publish("question.asked", {"n": n}) for n in range(8)]
    wait_for(lambda: len(rows(bus, outcome="parked")) == 16, "all to be parked")
    assert all("waits for gpt, paused until" in str(bus.trace(event)) for event in asked)
    (pause,) = bus.pauses.list()
    assert (pause.kind, pause.name) == ("scope", "gpt")
    assert broker.journal.lines(agent="asker") == []
    (broker.directory / "quota").touch()
    broker.journal.wait(8, agent="asker")
    broker.journal.wait(8, agent="sharer")
    for event in asked:
        bus.settle(event, timeout=30)
    assert {row["attempts"] for row in rows(bus, agent="asker")} == {1}
    assert {row["outcome"] for row in rows(bus, agent="sharer")} == {"succeeded"}
    assert len(list(bus.get_events(type="question.passed"))) == 8  # nothing of those that were refused
    wait_for(lambda: bus.pauses.list() == [], "the pause to be over")


def test_while_a_scope_is_paused_no_handler_is_called_and_clearing_it_lets_all_go_on(
    bus: Pipeline, broker: Broker, worker: StartWorker
) -> None:
    worker(app="pauses_app", pool="prefork")
    bus.ledger.waiting.pauses.hit("gpt", "maintenance", lambda _: 3600)
    for n in range(5):
        bus.publish("question.asked", {"n": n})
    wait_for(lambda: len(rows(bus, outcome="parked")) == 10, "all to be parked")
    (pause,) = bus.pauses.list()
    assert pause.waiting == 10
    assert broker.journal.lines() == []
    (broker.directory / "quota").touch()
    bus.pauses.clear("gpt")
    broker.journal.wait(5, agent="asker")
    broker.journal.wait(5, agent="sharer")


def test_an_agent_without_a_scope_is_paused_under_its_own_name(
    bus: Pipeline, broker: Broker, worker: StartWorker
) -> None:
    worker(app="pauses_app", pool="prefork")
    for n in range(5):
        bus.publish("letter.sent", {"n": n})
    wait_for(lambda: len(rows(bus, outcome="parked")) == 5, "all to be parked")
    assert [pause.name for pause in bus.pauses.list()] == ["undeclared"]
    (broker.directory / "quota").touch()
    broker.journal.wait(5, agent="undeclared")
    assert {row["attempts"] for row in rows(bus, agent="undeclared", outcome="succeeded")} == {1}


def test_an_agent_that_fails_too_often_waits_and_one_delivery_tries_whether_it_goes_on(
    bus: Pipeline, broker: Broker, worker: StartWorker
) -> None:
    one = worker(app="pauses_app", pool="solo")
    wanted = [bus.publish("part.wanted", {"n": n}) for n in range(10)]
    wait_for(lambda: "4 of 4 attempts have failed in 300 s: RuntimeError: out of order" in one.output(), "the breaker")
    broker.journal.wait(5, agent="fragile")  # the trial, which is the last one that fails
    wait_for(lambda: any("it has failed again" in pause.reason for pause in bus.pauses.list()), "it to be paused again")
    (broker.directory / "looked").touch()
    for event in wanted:
        wait_for(lambda event=event: not rows(bus, event_id=event.id, outcome="parked"), "all to go on")  # type: ignore[misc]
    broker.journal.wait(10, agent="fragile")
    wait_for(lambda: bus.pauses.list() == [], "the pause to be over")
    outcomes = [row["outcome"] for row in rows(bus, agent="fragile")]
    assert (outcomes.count("dead"), outcomes.count("succeeded")) == (5, 5)


def ended(bus: Pipeline, agent: str) -> list[str]:
    return [row["outcome"] for row in rows(bus, agent=agent) if row["outcome"] in ("succeeded", "dead")]


def test_what_is_shed_is_a_dead_letter_that_names_the_policy(
    bus: Pipeline, broker: Broker, worker: StartWorker
) -> None:
    worker(app="pauses_app", pool="solo")
    for agent in ("oldest", "newest"):
        bus.pause(agent)
        wait_for(lambda agent=agent: consumes(broker, "w1", f"agent.{agent}"), f"w1 to hold {agent}")  # type: ignore[misc]
    bus.publish_many([("reading.taken", {"n": n}) for n in range(30)])
    wait_for(lambda: len(list(bus.get_events(type="agent.backpressure"))) == 2, "both to have too much waiting")
    late = bus.publish_many([("reading.taken", {"n": n}) for n in range(30, 70)])
    said = {one.event.data["agent_id"]: one.event.data for one in bus.get_events(type="agent.backpressure")}
    assert said["newest"]["dropped"] == 0
    assert said["oldest"]["dropped"] == said["oldest"]["queue_size"] - 14
    wait_for(lambda: backlog(bus, "agent.oldest") == 70 and backlog(bus, "agent.newest") == 70, "all to wait")
    bus.resume("newest")
    broker.journal.wait(30, agent="newest")
    wait_for(lambda: len(ended(bus, "newest")) == 70, "the new ones to be shed until there are few enough")
    dead = {row["event_id"] for row in rows(bus, agent="newest", outcome="dead")}
    assert dead
    assert dead <= {event.id for event in late}
    assert {row["error"] for row in rows(bus, agent="newest", outcome="dead")} == {
        "Shed: shed-new: more than 20 events wait for newest"
    }
    bus.resume("oldest")
    wait_for(lambda: len(ended(bus, "oldest")) == 70, "the old ones to be shed, and the rest to be handled")
    shed = {row["error"] for row in rows(bus, agent="oldest", outcome="dead")}
    assert shed == {"Shed: shed-oldest: more than 20 events wait for oldest"}
    wait_for(lambda: bus.pauses.list() == [], "both to be as before")
    handled = {line["data"]["n"] for line in broker.journal.lines(agent="oldest")}
    assert 69 in handled
    assert 0 not in handled


def test_what_is_too_old_is_a_dead_letter_unless_somebody_asks_for_it(
    bus: Pipeline, broker: Broker, worker: StartWorker
) -> None:
    worker(app="pauses_app", pool="solo")
    fresh, old = (new_event("price.quoted", {"n": n}, source="/feed") for n in (0, 1))
    old = old.evolve(time=old.time - timedelta(hours=2))
    bus.publish_many([fresh, old])
    broker.journal.wait(1, agent="trader")
    wait_for(lambda: len(rows(bus, agent="trader", outcome="dead")) == 1, "the dead letter")
    (row,) = rows(bus, agent="trader", outcome="dead")
    assert (row["event_id"], row["attempts"]) == (old.id, 1)
    assert row["error"].startswith("Shed: max_age: it is 72")
    bus.dead_letters.requeue([row["id"]])
    broker.journal.wait(2, agent="trader")
