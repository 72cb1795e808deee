"""Sagas of five steps, each step failing in turn, each message twice, and processes killed around every arrow.

What was done is undone, once and in reverse order, or all is done, once (tests/apps/saga_crash_app.py).
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import text

from pipeline import InvalidSelection, Pipeline
from pipeline.ledger.database.tables import flows
from tests.faults.test_crash_points import SOON, Crew
from tests.harness import Broker, StartWorker, delete_queues
from tests.records import rows

pytestmark = pytest.mark.usefixtures("nothing_disappears")

STEPS = [f"step-{n}" for n in range(5)]
#: The steps of a trip.
PARTS = ("first", "piece", "pieces", "inner", "in-x", "in-y", "last", "begun", "ended")
#: Where a process dies: in a handler that has written, before the commit that moves the saga on, and after it.
POINTS = ("inside", "moving", "moved")


@pytest.fixture
def broker(durable: Broker) -> Broker:
    """The configurations in which this is promised."""
    return durable


@pytest.fixture(autouse=True)
def effects(bus: Pipeline, broker: Broker) -> None:
    """A table of effects in the ledger's database, and none of what an earlier test has left."""
    if broker.name == "rabbitmq":
        names = [f"agent.{name}" for step in (*STEPS, *PARTS) for name in (step, f"un-{step}")]
        delete_queues(broker, [*names, "agent.order", "agent.trip", "agent.paid", "agents.emit", "events.unrouted"])
    number = "id INTEGER PRIMARY KEY" if bus.ledger.database.is_sqlite else "id BIGSERIAL PRIMARY KEY"
    with bus.ledger.database.transaction() as connection:
        connection.execute(text(f"CREATE TABLE effects ({number}, name TEXT, agent TEXT)"))


def done(bus: Pipeline, key: str) -> list[str]:
    """Return what took effect for an order, in its order."""
    query = text("SELECT agent FROM effects WHERE name = :key ORDER BY id")
    with bus.ledger.database.reading() as connection:
        return list(connection.execute(query, {"key": key}).scalars())


def survive(bus: Pipeline, broker: Broker, crew: Crew, number: int) -> str:
    """Let a crew go on in spite of the deaths, and check what has come of it; return the figures."""
    orders = {}
    for n in range(number):
        failing = ["", *STEPS][n % 6]
        last = STEPS.index(failing) if failing else 5
        # Somebody dies at a step that is done, or at what undoes one.
        ways = [*STEPS[:last], *([f"un-{step}" for step in STEPS[:last]] if failing else [])]
        point = [POINTS[n % 3], ways[n // 6 % len(ways)]] if ways else ["", ""]
        orders[f"o{n}"] = failing
        bus.publish("order.placed", {"key": f"o{n}", "fails": failing, "point": point})

    def is_over() -> bool:
        ended = {row["status"] for row in rows(bus, flows)}
        return len(rows(bus, flows)) == number and ended <= {"completed", "compensated", "failed"}

    crew.work_until(is_over, "all sagas to end", 90 + 3 * number)
    for key, failing in orders.items():
        before = STEPS[: STEPS.index(failing)] if failing else STEPS
        undone = [f"un-{step}" for step in reversed(before)] if failing else []
        assert done(bus, key) == [*before, *undone], key
    dead = len(list(broker.directory.glob("once-*")))
    assert dead > number / 3
    wanted = {"completed": number // 6, "failed": number // 6, "compensated": number // 6 * 4}
    statuses = [row["status"] for row in rows(bus, flows)]
    assert {status: statuses.count(status) for status in wanted} == wanted
    return (
        f"{broker.name}: {number} sagas of 5 steps, {wanted['compensated']} compensated, every message twice, {dead} "
        "processes killed: 0 effects missing, 0 twice, all undone in reverse order"
    )


def test_processes_killed_around_every_arrow_of_a_saga_leave_all_or_nothing(
    bus: Pipeline, broker: Broker, worker: StartWorker
) -> None:
    survive(bus, broker, Crew(worker, "prefork", 2, app="saga_crash_app", **SOON).add(2), 12)


#: What takes effect of a trip (nested_crash_app.py), by the step that fails; its three pieces come side by side.
TRIPS = {
    "": ["first", *["piece"] * 3, "in-x", "in-y", "last"],
    "first": [],
    "piece": ["first", "un-first"],
    "in-x": ["first", *["piece"] * 3, "un-pieces", "un-first"],
    "in-y": ["first", *["piece"] * 3, "in-x", "un-in-x", "un-pieces", "un-first"],
    "last": ["first", *["piece"] * 3, "in-x", "in-y", "un-inner", "un-pieces", "un-first"],
}


def survive_trips(bus: Pipeline, broker: Broker, crew: Crew, number: int) -> str:
    """Do the same with sagas one step of which is a saga, and another one is done for each item of a list."""
    trips = {}
    for n in range(number):
        failing = list(TRIPS)[n % len(TRIPS)]
        ways = list(dict.fromkeys(TRIPS[failing]))
        point = [POINTS[n % 3], ways[n // 6 % len(ways)]] if ways else ["", ""]
        trips[f"t{n}"] = failing
        bus.publish("trip.placed", {"key": f"t{n}", "fails": failing, "point": point, "items": [{}, {}, {}]})

    def is_over() -> bool:
        ended = [row["status"] for row in rows(bus, flows, name="trip")]
        return len(ended) == number and {*ended} <= {"completed", "compensated", "failed"}

    crew.work_until(is_over, "all trips to end", 90 + 3 * number)
    for key, failing in trips.items():
        assert done(bus, key) == TRIPS[failing], (key, failing)
    assert {row["ended"] is not None for row in rows(bus, flows)} == {True}
    dead = len(list(broker.directory.glob("once-*")))
    assert dead > number / 3
    return f"{broker.name}: {number} sagas with a saga and a list in them, {dead} kills: nothing missing or twice"


def help_on(bus: Pipeline, broker: Broker, id: str) -> int:
    """Let two operators do again what holds an order's flow, at once; return how many were told of the other."""
    (broker.directory / f"mended-{bus.ledger.waiting.flows.view(id).original['key']}").touch()
    with ThreadPoolExecutor(2) as operators:
        tries = [operators.submit(bus.flows.retry_step, id, "inner") for _ in range(2)]
    errors = [error for one in tries if (error := one.exception()) is not None]
    assert all(isinstance(error, InvalidSelection) for error in errors), errors
    return len(errors)


def test_a_saga_in_a_saga_that_is_started_anew_survives_kills(
    bus: Pipeline, broker: Broker, worker: StartWorker
) -> None:
    crew, number, told = Crew(worker, "prefork", 2, app="nested_crash_app", **SOON).add(2), 6, dict[str, int]()
    for n in range(number):
        point = [["parking", "inner"], ["parked", "inner"], ["moved", "ended"]][n % 3]
        bus.publish("paid.placed", {"key": f"p{n}", "fails": ["in-x", "in-y"][n % 2], "point": point})

    def is_over() -> bool:
        for flow in bus.flows.list(name="paid", status="stuck"):
            if flow.id not in told:
                told[flow.id] = help_on(bus, broker, flow.id)
        return [flow.status for flow in bus.flows.list(name="paid")] == ["completed"] * number

    crew.work_until(is_over, "all to be paid", 120)
    for n in range(number):
        before = ["in-x", "un-in-x"] * (n % 2)
        assert done(bus, f"p{n}") == ["begun", *before, "in-x", "in-y", "ended"], n
    assert list(told.values()) == [1] * number, "of two operators one is told"
    assert sorted(flow.status for flow in bus.flows.list(name="inner")) == [
        *["compensated"] * 3, *["completed"] * 6, *["failed"] * 3,
    ]  # fmt: skip
    assert len(list(broker.directory.glob("once-*"))) == number


def test_a_saga_in_a_saga_and_a_list_of_steps_survive_kills(bus: Pipeline, broker: Broker, worker: StartWorker) -> None:
    survive_trips(bus, broker, Crew(worker, "prefork", 2, app="nested_crash_app", **SOON).add(2), 12)


@pytest.mark.faults
def test_two_hundred_sagas_in_sagas(
    bus: Pipeline, broker: Broker, worker: StartWorker, report: Callable[[str], None]
) -> None:
    report(survive_trips(bus, broker, Crew(worker, "prefork", 4, app="nested_crash_app", **SOON).add(2), 204))


@pytest.mark.faults
def test_five_hundred_sagas(bus: Pipeline, broker: Broker, worker: StartWorker, report: Callable[[str], None]) -> None:
    report(survive(bus, broker, Crew(worker, "prefork", 4, app="saga_crash_app", **SOON).add(2), 504))
