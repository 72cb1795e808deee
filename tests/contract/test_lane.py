"""The lane: async agents run on an event loop of the worker, hundreds at once, whatever the pool is."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections import Counter
from typing import Any

import pytest
from sqlalchemy import text

from pipeline import Pipeline
from tests.harness import SOON, Broker, StartWorker, Worker, backlog, dead_letters, run
from tests.servers import wait_for

pytestmark = pytest.mark.usefixtures("nothing_disappears")
CELERY = [sys.executable, "-m", "celery", "-A", "lane_app"]


def lane_of(broker: Broker, agent: str = "wait") -> int:
    """Return the process in which an async agent runs."""
    (pid,) = {line["pid"] for line in broker.journal.lines(agent=agent)}
    return int(pid)


def open_gate(broker: Broker, name: str = "gate") -> None:
    """Let the handlers go on that wait for it."""
    (broker.directory / name).touch()


@pytest.fixture
def lane(worker: StartWorker, broker: Broker) -> StartWorker:
    """Start a worker of async agents, which has many messages at once."""

    def start(pool: str = "prefork", **how: Any) -> Worker:
        if pool == "solo" and broker.name == "redis":
            pytest.skip("on Redis all agents of a solo worker share a window of a few messages")
        return worker(app="lane_app", pool=pool, **how)

    return start


@pytest.mark.bare
@pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
def test_hundreds_of_async_handlers_wait_at_once_and_sync_ones_go_on_beside_them(
    bus: Pipeline, broker: Broker, lane: StartWorker, pool: str
) -> None:
    one = lane(pool)
    more = "x" * 20_000  # together more than a socket takes at once
    events = bus.publish_many([("lane.wait", {"until": "gate", "more": more}) for _ in range(200)])
    broker.journal.wait(200, agent="wait")
    broker.journal.wait(200, agent="sync")
    assert broker.journal.lines(agent="waited") == []
    where = lane_of(broker)
    assert one.process is not None
    assert (where == one.process.pid) == (pool != "prefork")
    assert {line["task"] for line in broker.journal.lines(agent="wait")} == {"agent.wait"}
    assert {line["clients"] for line in broker.journal.lines(agent="wait")} == {1}
    if pool == "prefork":
        assert where not in {line["pid"] for line in broker.journal.lines(agent="sync")}
    open_gate(broker)
    broker.journal.wait(200, agent="waited")
    assert broker.journal.count(agent="waited") == dict.fromkeys([event.id for event in events], 1)


def test_an_agent_without_a_limit_of_its_own_has_the_settings_one(
    bus: Pipeline, broker: Broker, lane: StartWorker
) -> None:
    lane(environment={"PIPELINE_ASYNC_CONCURRENCY": "20"})
    bus.publish_many([("lane.default", {}) for _ in range(30)])
    broker.journal.wait(20, agent="default")
    bus.publish("lane.wait", {"until": "gate"})
    broker.journal.wait(1, agent="sync")
    assert len(broker.journal.lines(agent="default")) == 20
    open_gate(broker)
    broker.journal.wait(30, agent="defaulted")


def test_inspect_shows_what_runs_on_the_loop(bus: Pipeline, broker: Broker, lane: StartWorker) -> None:
    lane()
    bus.publish_many([("lane.wait", {"until": "gate"}) for _ in range(5)])
    broker.journal.wait(5, agent="wait")
    done = run([*CELERY, "inspect", "--timeout", "30", "--json", "active", "-d", "w1@test"], broker)
    active = json.loads(done.stdout)["w1@test"]
    assert Counter(request["name"] for request in active) == {"agent.wait": 5}
    assert {request["worker_pid"] for request in active} == {lane_of(broker)}
    open_gate(broker)
    broker.journal.wait(5, agent="waited")


@pytest.mark.parametrize("pool", ["prefork", "solo"])
def test_celerys_signals_are_sent_around_each_handler_where_it_runs(
    bus: Pipeline, broker: Broker, lane: StartWorker, pool: str
) -> None:
    lane(pool)
    bus.publish_many([("lane.heard", {"n": n}) for n in range(3)])
    broker.journal.wait(3, agent="task_postrun")
    order = ["task_prerun", "heard", "task_success", "task_postrun"]
    for line in broker.journal.lines(agent="heard"):
        told = [line, *broker.journal.lines(id=line["delivery"])]
        assert [one["agent"] for one in sorted(told, key=lambda one: float(one["at"]))] == order
        assert {one["pid"] for one in told} == {line["pid"]}


def test_a_rate_limit_holds_async_handlers_back_too(bus: Pipeline, broker: Broker, lane: StartWorker) -> None:
    lane()
    # The first one may come late to the loop, and the last one cannot come early: four wait half a second each.
    began = time.time()
    bus.publish_many([("lane.limited", {"n": n}) for n in range(5)])
    lines = broker.journal.wait(5, agent="limited")
    assert max(line["at"] for line in lines) - began >= 1.9


def test_a_soft_end_lets_short_handlers_finish_and_cancels_the_others(
    bus: Pipeline, broker: Broker, lane: StartWorker
) -> None:
    one = lane(options=("--", "worker.soft_shutdown_timeout=8"))
    bus.publish("lane.wait", {"until": "gate"})
    bus.publish("lane.cancelled", {})
    broker.journal.wait(1, agent="wait")
    broker.journal.wait(1, agent="begun")
    assert one.process is not None
    one.process.send_signal(signal.SIGQUIT)
    wait_for(lambda: "Initiating Soft Shutdown" in one.output(), "the soft end to begin")
    open_gate(broker)
    one.process.wait(timeout=60)
    assert len(broker.journal.lines(agent="waited")) == 1
    assert len(broker.journal.lines(agent="cleaned up")) == 1
    assert set(attempts(bus, broker, "wait").values()) == {1}
    assert backlog(bus, "agent.wait") == 0
    wait_for(lambda: backlog(bus, "agent.cancelled") == 1, "the cancelled one to be in its queue again")


# -- processes that die


def attempts(bus: Pipeline, broker: Broker, agent: str) -> dict[str, int]:
    """Return how many attempts the ledger has counted of each delivery of an agent that is done."""
    query = text("SELECT id, attempts FROM pipeline_deliveries WHERE agent = :agent AND outcome = 'succeeded'")
    with bus.ledger.database.reading() as connection:
        return dict(connection.execute(query, {"agent": agent}).all())


def test_when_the_lane_is_killed_all_that_ran_runs_again_and_no_attempt_is_spent(
    bus: Pipeline, broker: Broker, lane: StartWorker
) -> None:
    one = lane(concurrency=8)
    number = 60 if broker.name == "redis" else 300  # there all agents of a worker share a window
    bus.publish_many([("lane.wait", {"until": "gate"}) for _ in range(number)])
    broker.journal.wait(number, agent="wait")
    os.kill(lane_of(broker), signal.SIGKILL)
    open_gate(broker)
    broker.journal.wait(number, agent="waited")
    wait_for(lambda: len(attempts(bus, broker, "wait")) == number, "all to be recorded")
    assert set(attempts(bus, broker, "wait").values()) == {1}
    assert set(broker.journal.count(agent="waited").values()) == {1}
    assert one.is_running()
    bus.publish("lane.groups", {"n": 1})
    broker.journal.wait(1, agent="grouped")


def test_a_handler_that_always_kills_its_process_is_dead_in_the_end_and_its_neighbours_are_not(
    bus: Pipeline, broker: Broker, lane: StartWorker
) -> None:
    lane()
    bus.publish_many([("lane.wait", {"until": "gate"}) for _ in range(20)])
    deadly = bus.publish("lane.wait", {"until": "gate", "die": "now"})
    broker.journal.wait(21, agent="wait")
    open_gate(broker, "now")
    wait_for(lambda: len(broker.journal.lines(agent="wait", id=deadly.id)) >= 3, "the deadly one to run alone")
    open_gate(broker)
    broker.journal.wait(20, agent="waited")
    wait_for(lambda: len(dead_letters(bus, "wait")) == 1, "the dead letter")
    wait_for(lambda: len(attempts(bus, broker, "wait")) == 20, "all others to be recorded")
    assert set(attempts(bus, broker, "wait").values()) == {1}


@pytest.mark.bare
def test_an_event_whose_handler_dies_alone_is_tried_again_and_set_aside(
    bus: Pipeline, broker: Broker, lane: StartWorker
) -> None:
    lane()
    bus.publish("lane.wait", {"until": "gate", "die": "now"})
    open_gate(broker, "now")
    wait_for(lambda: len(dead_letters(bus, "wait")) == 1, "the dead letter")
    assert [line["attempt"] for line in broker.journal.lines(agent="wait")] == [1, 2, 3, 4]


# -- handlers that are to end


def outcome(bus: Pipeline, event_id: str, agent: str) -> str | None:
    """Return what the ledger says of a delivery."""
    query = text("SELECT outcome FROM pipeline_deliveries WHERE event_id = :id AND agent = :agent")
    with bus.ledger.database.reading() as connection:
        return connection.execute(query, {"id": event_id, "agent": agent}).scalar()


@pytest.mark.parametrize("pool", ["prefork", "solo"])
def test_a_revoked_handler_is_cancelled_and_one_that_ends_all_the_same_has_ended(
    bus: Pipeline, broker: Broker, lane: StartWorker, pool: str
) -> None:
    lane(pool)
    ends = bus.publish("lane.cancelled", {})
    goes_on = bus.publish("lane.cancelled", {"goes on": True})
    for line in broker.journal.wait(2, agent="begun"):
        bus.celery.control.revoke(line["delivery"], terminate=True, reply=True, timeout=5)
    broker.journal.wait(2, agent="cleaned up")
    wait_for(lambda: outcome(bus, ends.id, "cancelled") == "dead", "the revoked one to be dead")
    wait_for(lambda: outcome(bus, goes_on.id, "cancelled") == "succeeded", "the other one to have succeeded")
    assert [letter.error.partition(":")[0] for letter in bus.dead_letters.list()] == ["Revoked"]


def test_a_handler_that_will_not_be_cancelled_is_given_up_at_its_hard_limit(
    bus: Pipeline, broker: Broker, lane: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    lane(environment={"PIPELINE_ASYNC_CONCURRENCY": "1"})
    bus.publish("lane.stubborn", {})
    wait_for(lambda: len(dead_letters(bus, "stubborn")) == 1, "the dead letter", 60)
    bus.publish("lane.wait", {"until": "gate"})
    open_gate(broker)
    broker.journal.wait(1, agent="waited")


def test_a_handler_that_hangs_is_named_and_its_process_ended_at_its_hard_limit(
    bus: Pipeline, broker: Broker, lane: StartWorker
) -> None:
    one = lane()
    bus.publish("lane.wait", {"until": "gate"})
    broker.journal.wait(1, agent="wait")
    bus.publish("lane.hangs", {})
    wait_for(lambda: "agent hangs blocks the event loop at" in one.output(), "the log")
    assert "lane_app.py:" in one.output()
    open_gate(broker)
    broker.journal.wait(1, agent="waited")
    wait_for(lambda: len(dead_letters(bus, "hangs")) == 1, "the dead letter", 60)
    assert set(attempts(bus, broker, "wait").values()) == {1}


def test_a_handler_that_blocks_the_loop_for_a_while_is_named_once(
    bus: Pipeline, broker: Broker, lane: StartWorker
) -> None:
    one = lane()
    bus.publish("lane.blocks", {"until": "gate"})
    wait_for(lambda: "agent blocks blocks the event loop at" in one.output(), "the first line")
    open_gate(broker)
    broker.journal.wait(1, agent="blocked")
    wait_for(lambda: "agent blocks has blocked the event loop for" in one.output(), "the log")
    assert one.output().count("agent blocks blocks the event loop at") == 1


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
def test_a_worker_that_is_told_to_end_waits_for_its_async_handlers_and_cleans_up(
    bus: Pipeline, broker: Broker, lane: StartWorker, pool: str
) -> None:
    one = lane(pool)
    bus.publish_many([("lane.wait", {"until": "gate"}) for _ in range(50)])
    broker.journal.wait(50, agent="wait")
    assert one.process is not None
    one.process.send_signal(signal.SIGTERM)
    wait_for(lambda: "Warm shutdown" in one.output(), "the worker to notice")
    open_gate(broker)
    assert one.process.wait(timeout=60) == 0
    assert set(broker.journal.count(agent="waited").values()) == {1}
    assert len(broker.journal.lines(agent="waited")) == 50
    assert (broker.directory / "once-left").exists()


def ended_cold(one: Worker) -> int:
    """End a worker at once, as the second Ctrl-C does; return its exit code."""
    assert one.process is not None
    one.process.send_signal(signal.SIGQUIT)
    return one.process.wait(timeout=60)


@pytest.mark.parametrize("pool", ["prefork", "solo"])
def test_a_cold_end_cancels_async_handlers_and_another_worker_runs_them(
    bus: Pipeline, broker: Broker, lane: StartWorker, pool: str
) -> None:
    first = lane(pool, environment={"PIPELINE_REDIS_VISIBILITY_TIMEOUT": "2"})
    bus.publish_many([("lane.wait", {"until": "gate"}) for _ in range(20)])
    broker.journal.wait(20, agent="wait")
    ended_cold(first)
    assert broker.journal.lines(agent="waited") == []
    open_gate(broker)
    lane(pool, name="w2", environment={"PIPELINE_REDIS_VISIBILITY_TIMEOUT": "2"})
    broker.journal.wait(20, agent="waited")
    assert set(broker.journal.count(agent="waited").values()) == {1}
    # Redis knows nothing of what a worker that is killed, as at the end of a test, has just popped.
    broker.journal.wait(20, agent="sync")


def test_the_process_of_the_loop_is_replaced_after_as_many_deliveries_as_a_pool_process_gets(
    bus: Pipeline, broker: Broker, lane: StartWorker
) -> None:
    lane(options=("--max-tasks-per-child", "20"))
    bus.publish_many([("lane.wait", {"until": "gate"}) for _ in range(50)])
    lines = broker.journal.wait(50, agent="wait")
    assert sorted(Counter(line["pid"] for line in lines).values()) == [10, 20, 20]
    open_gate(broker)
    broker.journal.wait(50, agent="waited")
    assert set(broker.journal.count(agent="waited").values()) == {1}


@pytest.mark.bare
def test_what_runs_when_the_connection_is_lost_does_not_run_a_second_time(
    bus: Pipeline, broker: Broker, lane: StartWorker
) -> None:
    if broker.server is None:
        pytest.skip("the embedded broker has no server that could go away")
    one = lane(environment=SOON)
    events = bus.publish_many([("lane.wait", {"until": "gate"}) for _ in range(30)])
    broker.journal.wait(30, agent="wait")
    broker.journal.wait(30, agent="sync")
    broker.server.kill()
    wait_for(lambda: "Trying again in" in one.output(), "the worker to notice")
    broker.server.start()
    last = bus.publish("lane.wait", {"until": "gate"}, timeout=30)
    broker.journal.wait(1, agent="wait", id=last.id, seconds=60)  # what was redelivered is there, too
    open_gate(broker)
    broker.journal.wait(31, agent="waited")
    wait_for(lambda: backlog(bus, "agent.wait") == 0, "the queue to be empty")
    assert broker.journal.count(agent="wait") == dict.fromkeys([event.id for event in (*events, last)], 1)


# -- what handlers use


@pytest.mark.bare
@pytest.mark.parametrize("pool", ["prefork", "solo"])
def test_task_groups_context_variables_retries_and_emitted_events_are_each_deliverys_own(
    bus: Pipeline, broker: Broker, lane: StartWorker, pool: str
) -> None:
    lane(pool)
    bus.publish_many([("lane.groups", {"n": n}) for n in range(1, 51)])
    lines = broker.journal.wait(50, agent="grouped")
    assert sorted(line["data"]["n"] for line in lines) == list(range(1, 51))


def test_a_lifespan_that_fails_is_an_attempt_that_has_failed(bus: Pipeline, broker: Broker, lane: StartWorker) -> None:
    lane(environment={"BROKEN": "1"})
    bus.publish("lane.wait", {"until": "gate"})
    open_gate(broker)
    (line,) = broker.journal.wait(1, agent="waited")
    assert line["attempt"] == 2


@pytest.mark.parametrize("how", ["transaction", "session"])
def test_effects_of_async_handlers_happen_once_and_hold_up_nobody(
    bus: Pipeline, broker: Broker, lane: StartWorker, how: str
) -> None:
    with bus.ledger.database.transaction() as connection:
        connection.execute(text("CREATE TABLE counted (n integer)"))
    lane()
    bus.publish_many([("lane.effect", {"n": n, "how": how, "fail": n % 5 == 0}) for n in range(40)])
    broker.journal.wait(40, agent="effect")
    wait_for(lambda: len(attempts(bus, broker, "effect")) == 40, "all to be recorded")
    with bus.ledger.database.reading() as connection:
        counted: list[Any] = sorted(connection.execute(text("SELECT n FROM counted")).scalars())
    assert counted == list(range(40))
    assert max(attempts(bus, broker, "effect").values()) == 2
