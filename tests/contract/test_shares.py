"""What processes of a pool get in shares: whoever ends his process costs his neighbours nothing."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline import Event, Pipeline
from pipeline.core.ids import delivery_id
from tests.harness import Broker, StartWorker, Worker, backlog, dead_letters, revoke
from tests.servers import wait_for

pytestmark = pytest.mark.usefixtures("nothing_disappears")
NUMBER = 40


@pytest.fixture
def start(worker: StartWorker) -> StartWorker:
    """Start a worker that holds many messages, and for which each agent is quick, also on a machine that is not."""

    def start(**environment: str) -> Worker:
        return worker(
            app="ways_app", pool="prefork", options=("--prefetch-multiplier", "50"),
            environment={"QUICK": "600", **environment},
        )  # fmt: skip

    return start


def warm(bus: Pipeline, broker: Broker) -> None:
    """Let the worker learn that the agent is quick, and that both of its processes are free then."""
    for _ in range(5):
        event = bus.publish("way.shared", {})
        broker.journal.wait(1, agent="shared", id=event.id)
    wait_for(lambda: is_free(bus, "w1@test"), "the worker to know that all has ended")


def is_free(bus: Pipeline, name: str) -> bool:
    """Say whether a worker answers, and has nothing in hand; what is not reserved any more may be active."""
    asked = bus.celery.control.inspect([name], timeout=5)
    return all((answer() or {}).get(name) == [] for answer in (asked.reserved, asked.active))


def hold(bus: Pipeline, broker: Broker) -> None:
    """Let both processes have something to do until the gate is open."""
    for event in bus.publish_many([("way.shared", {"do": "hold"})] * 2):
        broker.journal.wait(1, agent="shared", id=event.id)


def share(bus: Pipeline, broker: Broker, do: str) -> tuple[Event, list[Event]]:
    """Let the worker share out events of which one does something else; return it, and the others."""
    hold(bus, broker)
    events = bus.publish_many([("way.shared", {"do": do} if n == NUMBER // 2 else {}) for n in range(NUMBER)])
    wait_for(lambda: backlog(bus, "agent.shared") == 0, "all to be held by the worker")
    (broker.directory / "gate").touch()
    return events.pop(NUMBER // 2), events


def attempts(broker: Broker, event: Event) -> list[int]:
    return [line["attempt"] for line in broker.journal.lines(agent="shared", id=event.id)]


def all_ran(broker: Broker, events: list[Event]) -> bool:
    return {event.id for event in events} <= {line["id"] for line in broker.journal.lines(agent="shared")}


def test_a_process_runs_many_in_one_go(bus: Pipeline, broker: Broker, start: StartWorker) -> None:
    one = start()
    warm(bus, broker)
    failing, others = share(bus, broker, "fail")
    wait_for(lambda: len(dead_letters(bus, "shared")) == 1, "the dead letter")
    wait_for(lambda: all_ran(broker, others) and backlog(bus, "agent.shared") == 0, "the end of all")
    assert attempts(broker, failing) == [1, 2]
    assert all(attempts(broker, event) == [1] for event in others)
    short = [line["is_short"] for line in broker.journal.lines(agent="shared")]
    assert short.count(False) <= 1, "the retry"
    one.stop()
    said = one.output()
    for event in others:
        assert said.count(f"[{delivery_id(event.id, 'shared')}] received") == 1
        assert said.count(f"[{delivery_id(event.id, 'shared')}] succeeded") == 1


@pytest.mark.parametrize("do", ["die", "die always", "leave"])
def test_who_ends_his_process_runs_again_alone_and_the_others_lose_no_attempt(
    bus: Pipeline, broker: Broker, start: StartWorker, do: str
) -> None:
    start()
    warm(bus, broker)
    culprit, others = share(bus, broker, do)
    if do != "die":
        wait_for(lambda: len(dead_letters(bus, "shared")) == 1, "the dead letter", 90)
    wait_for(lambda: all_ran(broker, others) and backlog(bus, "agent.shared") == 0, "the end of all", 90)
    wait_for(lambda: len(attempts(broker, culprit)) >= 2, "another attempt")
    if bus.has_ledger:
        # The first one, among others, does not count.
        assert attempts(broker, culprit) == ([1, 1] if do == "die" else [1, 1, 2])
        assert all(set(attempts(broker, event)) == {1} for event in others)


@pytest.mark.bare
def test_who_hangs_is_revoked_and_the_others_run(bus: Pipeline, broker: Broker, start: StartWorker) -> None:
    start()
    warm(bus, broker)
    hanging, others = share(bus, broker, "hang")
    broker.journal.wait(1, agent="shared", id=hanging.id)
    id = delivery_id(hanging.id, "shared")
    bus.celery.control.terminate(id, signal="SIGKILL")
    wait_for(lambda: all_ran(broker, others) and backlog(bus, "agent.shared") == 0, "the end of all", 90)
    assert len(attempts(broker, hanging)) == 1


def test_what_is_revoked_before_its_share_is_given_does_not_run(
    bus: Pipeline, broker: Broker, start: StartWorker
) -> None:
    start()
    warm(bus, broker)
    hold(bus, broker)
    events = bus.publish_many([("way.shared", {})] * 10)
    wait_for(lambda: backlog(bus, "agent.shared") == 0, "all to be held by the worker")
    revoke(bus, delivery_id(events[3].id, "shared"))
    (broker.directory / "gate").touch()
    wait_for(lambda: all_ran(broker, events[:3] + events[4:]), "the others")
    last = bus.publish("way.shared", {})
    broker.journal.wait(1, agent="shared", id=last.id)
    assert [len(attempts(broker, event)) for event in events] == [1, 1, 1, 0, 1, 1, 1, 1, 1, 1]


def test_a_warm_stop_ends_the_shares_that_run_and_leaves_the_rest_to_others(
    bus: Pipeline, broker: Broker, start: StartWorker
) -> None:
    one = start()
    warm(bus, broker)
    hold(bus, broker)
    events = bus.publish_many([("way.shared", {})] * 10)
    assert one.process is not None
    one.process.terminate()
    wait_for(lambda: "Warm shutdown" in one.output(), "the worker to say so")
    (broker.directory / "gate").touch()
    wait_for(lambda: not one.is_running(), "its end", 90)
    start()
    wait_for(lambda: all_ran(broker, events) and backlog(bus, "agent.shared") == 0, "the end of all", 90)
    assert all(attempts(broker, event) == [1] for event in events)


def test_who_hears_of_tasks_in_the_processes_alone_hears_of_all(
    bus: Pipeline, broker: Broker, start: StartWorker
) -> None:
    start(PROCESSES_WATCHED="1")
    events: list[Any] = bus.publish_many([("way.shared", {})] * 10)
    wait_for(lambda: all_ran(broker, events) and backlog(bus, "agent.shared") == 0, "the end of all")
    assert not any(line["is_short"] for line in broker.journal.lines(agent="shared"))
