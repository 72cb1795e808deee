"""Joins whose members come twice, and processes killed around every arrow of them: each ends once, with all results.

Each join kills the process that brings it to its point, once (tests/apps/join_crash_app.py); `make faults`: all forms.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from pipeline import Pipeline
from pipeline.ledger.database.tables import flows
from tests.faults.test_crash_points import SOON, Crew
from tests.harness import Broker, StartWorker, delete_queues
from tests.records import logged, rows

pytestmark = pytest.mark.usefixtures("nothing_disappears")

#: Where the process that runs a handler dies: before and after the commit of a member's outcome and of the join's end,
#: and after the event that follows was sent.
IN_THE_POOL = ("recorded", "ending", "ended", "sent")
#: Where a worker's main process dies: before and after members are sent, and before it has acknowledged one.
IN_THE_WORKER = ("sending", "members", "ack")


@pytest.fixture
def broker(durable: Broker) -> Broker:
    """The configurations in which this is promised."""
    return durable


@pytest.fixture(autouse=True)
def own_queues(broker: Broker) -> None:
    """Begin with none of what an earlier test has left."""
    if broker.name == "rabbitmq":
        names = [f"agent.{agent}" for agent in ("crowd", "member", "witness")]
        delete_queues(broker, [*names, "agents.emit", "events.unrouted"])


def items(key: str, point: str, number: int) -> list[dict[str, Any]]:
    """Return the items of a join; one in the middle dies where members do, all may where their sender does."""
    return [{"key": key, "n": n, "point": point if n == number // 2 else ""} for n in range(number)]


def survive(bus: Pipeline, broker: Broker, crew: Crew, points: tuple[str, ...], number: int, members: int = 10) -> str:
    """Let a crew go on in spite of the deaths, and check what has come of it; return the figures."""
    keys = {f"{point}-{n}": point for n in range(number) for point in points}
    for key, point in keys.items():
        bus.publish("crowd.asked", {"key": key, "point": point, "items": items(key, point, members)})

    def dead() -> int:
        return sum((broker.directory / f"once-{point}-{key}").exists() for key, point in keys.items())

    def is_over() -> bool:
        seen = {line["data"] for line in broker.journal.lines(agent="witness")}
        return len(seen) == len(keys) and {row["status"] for row in rows(bus, flows)} == {"completed"}

    crew.work_until(is_over, lambda: f"all joins to end; {dead()} have died", 90 + 3 * len(keys))
    done = logged(bus, "crowd.done")
    assert Counter(event.data["original"]["key"] for event in done) == dict.fromkeys(keys, 1)
    for event in done:
        assert event.data["completed_by"] == "all"
        assert [each["n"] for each in event.data["results"]] == list(range(members))
    assert {row["outcome"] for row in rows(bus, agent="member")} == {"succeeded"}
    assert len(rows(bus, agent="member")) == members * len(keys)
    assert {(row["done"], row["failed"]) for row in rows(bus, flows)} == {(members, 0)}
    assert {row["outcome"] for row in rows(bus, agent="witness")} == {"succeeded"}
    # Of several that end in one process at once, one kills it for all.
    assert dead() > 0.7 * len(keys)
    return (
        f"{broker.name}: {len(keys)} joins of {members}, each member sent twice, {dead()} processes killed "
        f"({', '.join(points)}): {len(done)} events follow, none missing, none twice"
    )


def test_processes_killed_around_every_arrow_of_a_join_end_it_once(
    bus: Pipeline, broker: Broker, worker: StartWorker
) -> None:
    crew = Crew(worker, "prefork", 2, app="join_crash_app", **SOON).add(2)
    survive(bus, broker, crew, (*IN_THE_POOL, *IN_THE_WORKER), 2)


@pytest.mark.faults
def test_two_hundred_joins_of_fifty_whose_members_come_twice(
    bus: Pipeline, broker: Broker, worker: StartWorker, report: Callable[[str], None]
) -> None:
    crew = Crew(worker, "prefork", 4, app="join_crash_app", **SOON).add(2)
    report(survive(bus, broker, crew, IN_THE_POOL, 50, 50))


@pytest.mark.faults
def test_a_hundred_workers_killed_at_each_arrow_of_a_join(
    bus: Pipeline, broker: Broker, worker: StartWorker, report: Callable[[str], None]
) -> None:
    report(survive(bus, broker, Crew(worker, "solo", app="join_crash_app", **SOON).add(3), IN_THE_WORKER, 100, 5))
