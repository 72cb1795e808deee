"""Processes killed around the stop of a tree: it is stopped or it is not, nothing of it goes on, nobody's turn is lost.

tests/apps/crash_canceller.py kills who stops it, tests/apps/stops_crash_app.py the worker that is to hear of it.
"""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable

import pytest

from pipeline import Pipeline
from pipeline.core.event import Event, new_event
from pipeline.core.ids import delivery_id
from pipeline.core.outcome import OPEN
from pipeline.ledger.database.waiting import cancelled, turns, waits
from tests.faults.test_crash_points import SOON, Crew
from tests.harness import APPS, Broker, StartWorker, delete_queues, run
from tests.records import logged, rows
from tests.servers import wait_for

pytestmark = pytest.mark.usefixtures("nothing_disappears")

#: Where those die who stop a tree, and whether it is stopped then.
WHO_STOPS = {"marked": False, "written": False, "committed": True}
#: Where a worker dies: before it has taken note, and after that, before it does anything about it.
WHO_HEARS = ("told", "heard")
AGENTS = ("awaiter", "poller")


@pytest.fixture
def broker(durable: Broker) -> Broker:
    """The configurations in which this is promised."""
    return durable


@pytest.fixture(autouse=True)
def own_queues(broker: Broker) -> None:
    """Begin with none of what an earlier test has left."""
    if broker.name == "rabbitmq":
        delete_queues(broker, [f"agent.{one}" for one in (*AGENTS, "picker")] + ["agents.emit", "events.unrouted"])


def ask(bus: Pipeline, broker: Broker, keys: dict[str, str]) -> list[Event]:
    """Publish the tops of trees, by their keys and the points at which somebody dies of them."""
    events = [new_event("tree.asked", {"key": key, "point": point}, source="/test") for key, point in keys.items()]
    for event in events:
        for agent in AGENTS:
            (broker.directory / f"asked-{delivery_id(event.id, agent)}").write_text(json.dumps(event.data))
    bus.publish_many(events)
    return events


def stop(bus: Pipeline, broker: Broker, crew: Crew, event: Event) -> None:
    """Stop a tree that runs, and kill whom its point names."""
    key, point = event.data["key"], event.data["point"]
    if point in WHO_STOPS:
        ended = run([sys.executable, str(APPS / "crash_canceller.py"), point, event.id], broker)
        assert ended.returncode == -signal.SIGKILL, ended.stderr
        assert bool(rows(bus, cancelled, key=event.correlation_id)) == WHO_STOPS[point], point
    bus.cancel(event, tree=True, by="bob")
    if point in WHO_HEARS:
        wait_for((broker.directory / f"once-{point}-{key}").exists, "somebody to hear of it", 60)
        wait_for(crew.replace_the_dead, "a worker to die", 60)


def survive(bus: Pipeline, broker: Broker, crew: Crew, number: int) -> str:
    """Stop trees, of which some run, some wait for a turn, and kill those who do it; return the figures."""
    points = (*WHO_STOPS, *WHO_HEARS)
    events = ask(bus, broker, {f"{point}-{n}": point for n in range(number) for point in points})
    left = {event.data["key"]: event for event in events}

    def running() -> list[str]:
        crew.replace_the_dead()
        lines, pids = broker.journal.lines(says="began"), crew.pids()
        return [line["key"] for line in lines if line["key"] in left and line["worker"] in pids]

    while left:
        wait_for(running, lambda: f"the next tree to run: {state(bus)}", 90)
        stop(bus, broker, crew, left.pop(running()[0]))
    last = ask(bus, broker, {f"last-{n}": "" for n in range(8)})
    wanted = {event.data["key"] for event in last}

    def is_over() -> bool:
        seen = [line["key"] for line in broker.journal.lines(agent="picker")]
        ended = not any(row["outcome"] in OPEN for row in rows(bus))
        return len(seen) >= 2 * len(wanted) and ended and not rows(bus, turns)

    crew.work_until(is_over, lambda: f"all others to run: {state(bus)}", 120)
    assert {line["key"] for line in broker.journal.lines(agent="picker")} == wanted
    assert sorted(one.data["key"] for one in logged(bus, "fruit.ripe")) == sorted(2 * list(wanted))
    assert {row["outcome"] for row in rows(bus) if row["event_id"] in {one.id for one in events}} == {"cancelled"}
    assert sorted(one.data["tree"] for one in logged(bus, "tree.cancelled")) == sorted(one.id for one in events)
    assert rows(bus, waits) == []
    for event in events:
        bus.settle(event, timeout=1)
    return f"{broker.name}: {len(events)} killed ({', '.join(points)}): all trees stopped, no turn lost"


def state(bus: Pipeline) -> str:
    """Say how far it has come."""
    return f"{[(row['agent'], row['outcome'], row['error']) for row in rows(bus)][-20:]}, {rows(bus, turns)}"


def test_who_is_killed_around_a_stop_leaves_the_tree_stopped_or_going_on_and_no_turn_is_lost(
    bus: Pipeline, broker: Broker, worker: StartWorker
) -> None:
    survive(bus, broker, Crew(worker, "prefork", 4, app="stops_crash_app", **SOON).add(2), 1)


@pytest.mark.faults
def test_a_hundred_killed_at_each_point_around_a_stop(
    bus: Pipeline, broker: Broker, worker: StartWorker, report: Callable[[str], None]
) -> None:
    report(survive(bus, broker, Crew(worker, "prefork", 4, app="stops_crash_app", **SOON).add(2), 100))
