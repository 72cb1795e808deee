"""Processes killed around every arrow of a wait: nothing is lost, nothing is done twice, and nobody waits for ever.

Each event kills the process that brings it to its point, once (tests/apps/patient_app.py); `make faults`: all forms.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from pipeline import Pipeline
from pipeline.core.ids import delivery_id
from tests.faults.test_crash_points import SOON, Crew
from tests.harness import Broker, StartWorker, delete_queues
from tests.records import logged, rows

pytestmark = pytest.mark.usefixtures("nothing_disappears")

#: Where the process that runs a handler dies: after a step is kept, before and after the commit of parking.
IN_THE_POOL = ("kept", "parking", "parked")
#: Where a worker's main process dies: before a parked delivery is acknowledged, around its release, after it was sent.
IN_THE_WORKER = ("ack", "releasing", "released", "sent")


@pytest.fixture
def broker(durable: Broker) -> Broker:
    """The configurations in which this is promised."""
    return durable


@pytest.fixture(autouse=True)
def own_queues(broker: Broker) -> None:
    """Begin with none of what an earlier test has left."""
    if broker.name == "rabbitmq":
        delete_queues(broker, ["agent.patient", "agent.witness", "agents.emit", "events.unrouted"])


def survive(bus: Pipeline, broker: Broker, crew: Crew, points: tuple[str, ...], number: int) -> str:
    """Let a crew go on in spite of the deaths, and check what has come of it; return the figures."""
    keys = {f"{point}-{n}": point for n in range(number) for point in points}
    data = [
        {"key": key, "point": point, "waits": ("sleep", "event")[n % 2]} for n, (key, point) in enumerate(keys.items())
    ]
    events = bus.publish_many([("patience.asked", one) for one in data])
    for event in events:  # so that the journal of a step's death knows whose it is
        (broker.directory / f"began-{delivery_id(event.id, 'patient')}").write_text(event.encode().decode())
    bus.publish_many([("patience.over", {"key": one["key"]}) for one in data if one["waits"] == "event"])

    def alive() -> set[str]:
        """The events that have ended no process yet, by key."""
        return {key for key, point in keys.items() if not (broker.directory / f"once-{point}-{key}").exists()}

    def is_over() -> bool:
        seen = {line["data"] for line in broker.journal.lines(agent="witness")}
        # A process that another event ends right after a commit does not come to its own death behind that commit.
        passed = all(keys[key] in ("kept", "parked") for key in alive())
        return passed and len(seen) == len(logged(bus, "patience.ended")) == len(keys)

    crew.work_until(is_over, "all deaths and ends", 60 + 6 * len(keys))
    for event in events:
        bus.settle(event, timeout=60)
    once = dict.fromkeys(keys, 1)
    paid: set[str] = set()
    kept: set[str] = set()
    for line in broker.journal.lines():
        # A worker that another event ends may have been between a step's end and its commit: then it is done again;
        # or between the commit and the journal: then nothing says that it was kept.
        assert not (line["agent"] == "paid" and line["data"] in kept), "a step that was kept is not done again"
        paid |= {line["data"]} if line["agent"] == "paid" else set()
        kept |= {line["data"]} if line["agent"] == "kept" else set()
    assert kept <= paid == keys.keys()
    for type in ("patience.begun", "patience.ended"):
        assert Counter(event.data["key"] for event in logged(bus, type)) == once
    assert {row["outcome"] for row in rows(bus, agent="patient")} == {"succeeded"}
    dead, places = len(keys) - len(alive()), ", ".join(points)
    assert dead > 0.9 * len(keys)
    return f"{broker.name}: {dead} processes killed ({places}): 0 lost, no kept step done again, none waits"


def test_processes_killed_around_every_arrow_of_a_wait_lose_nothing_and_pay_nothing_twice(
    bus: Pipeline, broker: Broker, worker: StartWorker
) -> None:
    crew = Crew(worker, "prefork", 2, app="patient_app", **SOON).add(2)
    survive(bus, broker, crew, (*IN_THE_POOL, *IN_THE_WORKER), 4)


@pytest.mark.faults
def test_a_hundred_processes_killed_at_each_arrow_of_a_wait(
    bus: Pipeline, broker: Broker, worker: StartWorker, report: Callable[[str], None]
) -> None:
    report(survive(bus, broker, Crew(worker, "prefork", 4, app="patient_app", **SOON).add(2), IN_THE_POOL, 100))


@pytest.mark.faults
def test_a_hundred_workers_killed_around_the_release_of_what_waits(
    bus: Pipeline, broker: Broker, worker: StartWorker, report: Callable[[str], None]
) -> None:
    report(survive(bus, broker, Crew(worker, "solo", app="patient_app", **SOON).add(3), IN_THE_WORKER, 100))
