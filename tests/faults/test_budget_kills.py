"""Processes killed around what is written of a budget: what is spent is counted once, and nothing is lost for ever.

Each event kills the process that brings it to its point, once (tests/apps/budgets_crash_app.py); `make faults`: all
forms.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable

import pytest

from pipeline import Pipeline
from pipeline.core.event import new_event
from pipeline.core.ids import delivery_id
from pipeline.ledger.bounding.budget import Amounts
from pipeline.ledger.database.waiting import reservations
from tests.faults.test_crash_points import SOON, Crew
from tests.harness import Broker, StartWorker, delete_queues
from tests.records import logged, rows

pytestmark = pytest.mark.usefixtures("nothing_disappears")

RESERVED, SPENT = 10, 3
#: Where a process dies, before and after the commits of both, and what the attempt that dies there has spent.
POINTS = {"reserving": 0, "reserved": RESERVED, "settling": RESERVED, "settled": SPENT}
#: Groups of events that have a budget each; that of the last one is too small until somebody raises it.
GROUPS = 3


@pytest.fixture
def broker(durable: Broker) -> Broker:
    """The configurations in which this is promised."""
    return durable


@pytest.fixture(autouse=True)
def own_queues(broker: Broker) -> None:
    """Begin with none of what an earlier test has left."""
    if broker.name == "rabbitmq":
        delete_queues(broker, ["agent.spender", "agents.emit", "events.unrouted"])


def survive(bus: Pipeline, broker: Broker, crew: Crew, number: int) -> str:
    """Let a crew spend in spite of the deaths, and compare what is counted with what was spent; return the figures."""
    bus.budget("all", tokens=1)
    bus.budget("group", tokens=1)
    bus.budgets.set("group", Amounts(tokens=RESERVED), str(GROUPS - 1))
    data = [
        {"key": f"{point}-{n}", "point": point, "group": str(n % GROUPS)} for n in range(number) for point in POINTS
    ]
    events = [new_event("text.wanted", one, source="/test") for one in data]
    for event in events:
        (broker.directory / f"asked-{delivery_id(event.id, 'spender')}").write_text(json.dumps(event.data))
    bus.publish_many(events)

    def is_over() -> bool:
        if rows(bus, outcome="parked"):  # it has asked for more
            bus.budgets.set("group", Amounts(tokens=1_000_000), str(GROUPS - 1))
        dead = len(list(broker.directory.glob("once-*")))
        return dead == len(data) and len(rows(bus, agent="spender", outcome="succeeded")) == len(data)

    crew.work_until(is_over, "all deaths and ends", 60 + 6 * len(data))
    spent = Counter[str]()
    for one in data:
        spent[one["group"]] += POINTS[one["point"]] + SPENT
    assert {account.key: account.used.tokens for account in bus.budgets.list("group")} == spent
    (account,) = bus.budgets.list("all")
    assert account.used.tokens == sum(row["tokens"] for row in rows(bus, reservations)) == spent.total()
    assert Counter(event.data["key"] for event in logged(bus, "text.written")) == dict.fromkeys(
        (one["key"] for one in data), 1
    )
    assert bus.dead_letters.list() == []
    return f"{broker.name}: {len(data)} killed ({', '.join(POINTS)}): {spent.total()} tokens counted, as were spent"


def test_whoever_is_killed_around_a_reservation_has_spent_what_it_had_reserved_and_no_more(
    bus: Pipeline, broker: Broker, worker: StartWorker
) -> None:
    survive(bus, broker, Crew(worker, "prefork", 3, app="budgets_crash_app", **SOON).add(1), 4)


@pytest.mark.faults
@pytest.mark.parametrize("pool", ["prefork", "solo"])
def test_a_hundred_killed_at_each_point_around_a_reservation(
    bus: Pipeline, broker: Broker, worker: StartWorker, report: Callable[[str], None], pool: str
) -> None:
    report(survive(bus, broker, Crew(worker, pool, 3, app="budgets_crash_app", **SOON).add(3), 100))
