"""Processes killed around every arrow of a line: never more than the limit, nothing lost or twice, nobody stuck.

Each event kills the process that brings it to its point, once (tests/apps/limits_crash_app.py); `make faults`: all
forms.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any

import pytest

from pipeline import Pipeline
from pipeline.core.event import new_event
from pipeline.core.ids import delivery_id
from pipeline.ledger.database.waiting import turns, waits
from tests.faults.test_crash_points import SOON, Crew
from tests.harness import Broker, StartWorker, delete_queues
from tests.limits import most_at_once
from tests.records import logged, rows

pytestmark = pytest.mark.usefixtures("nothing_disappears")

#: Where the process that runs a handler dies: with its turn, around the commit that parks it, and around the one that
#: records its end and hands its turn on; or while it calls another one out of the line.
IN_THE_POOL = ("taken", "parking", "parked", "handing", "handed", "calling")
#: Where a worker's main process dies: before what was called is sent, and after it.
IN_THE_WORKER = ("called", "sent")
#: What not every event passes: a process that another one ends right behind a commit does not come to its own death
#: there, and what was called by a worker that died is sent by reconciliation.
BEHIND = {"parked", "handed", "sent"}
LIMIT = 2
#: Keys that the events with an order have.
KEYS = 2


@pytest.fixture
def broker(durable: Broker) -> Broker:
    """The configurations in which this is promised."""
    return durable


@pytest.fixture(autouse=True)
def own_queues(broker: Broker) -> None:
    """Begin with none of what an earlier test has left."""
    if broker.name == "rabbitmq":
        delete_queues(broker, ["agent.slotted", "agent.ordered", "agent.witness", "agents.emit", "events.unrouted"])


def ask(bus: Pipeline, broker: Broker, points: tuple[str, ...], number: int) -> set[str]:
    """Publish what dies on its way, behind what holds the turns until all are in line; return the keys."""
    first = {"point": "", "until": "in-line"}
    asked: list[tuple[str, dict[str, Any]]] = [
        *(("slot.asked", {"key": f"slot-first-{n}", **first}) for n in range(LIMIT)),
        *(("order.asked", {"key": f"order-first-{n}", "order": n, **first}) for n in range(KEYS)),
    ]
    for n, (round, point) in enumerate(itertools.product(range(number), points)):
        kind = ("slot", "order")[(n + round) % 2]  # each point with both, one after the other
        key = {"key": f"{kind}-{point}-{round}", "order": round // 2 % KEYS, "point": point}
        asked.append((f"{kind}.asked", key))
    agents = {"slot.asked": "slotted", "order.asked": "ordered"}
    events = [new_event(type, data, source="/test") for type, data in asked]
    for event in events:
        id = delivery_id(event.id, agents[event.type])
        (broker.directory / f"asked-{id}").write_text(json.dumps(event.data))
    bus.publish_many(events[: LIMIT + KEYS])
    broker.journal.wait(LIMIT + KEYS, does="begins")
    bus.publish_many(events[LIMIT + KEYS :])
    return {event.data["key"] for event in events}


def survive(bus: Pipeline, broker: Broker, crew: Crew, points: tuple[str, ...], number: int) -> str:
    """Let a crew go on in spite of the deaths, and check what has come of it; return the figures."""
    keys = ask(bus, broker, points, number)
    ends = len(keys)
    sure = number * len(set(points) - BEHIND)

    def is_over() -> bool:
        if len(rows(bus, waits)) >= ends - LIMIT - KEYS:
            (broker.directory / "in-line").touch()
        dead = sum(path.name.split("-")[1] not in BEHIND for path in broker.directory.glob("once-*"))
        seen = {line["key"] for line in broker.journal.lines(agent="witness")}
        return dead == sure and seen == keys and not rows(bus, turns)

    crew.work_until(is_over, lambda: f"all to die and to end: {state(bus, broker)}", 60 + 6 * number * len(points))
    check(bus, broker, keys)
    dead = len(list(broker.directory.glob("once-*")))
    return f"{broker.name}: {dead} processes killed ({', '.join(points)}): 0 lost, 0 twice, never more than the limit"


def state(bus: Pipeline, broker: Broker) -> str:
    """Say how far it has come."""
    found = Counter((row["agent"], row["outcome"]) for row in rows(bus))
    dead = sorted(path.name for path in broker.directory.glob("once-*"))
    return f"{dict(found)}, {[dict(row) for row in rows(bus, turns)][:5]}, {len(dead)} dead: {dead[:40]}"


def check(bus: Pipeline, broker: Broker, keys: set[str]) -> None:
    """Each took effect once, never more at once than the limit, one of each key, in the order of the log."""
    assert Counter(event.data["key"] for event in logged(bus, "work.done")) == dict.fromkeys(keys, 1)
    assert {row["outcome"] for row in rows(bus)} == {"succeeded"}
    killed = {line["pid"]: line["at"] for line in broker.journal.lines(agent="dead")}
    assert most_at_once(broker.journal.lines(agent="slotted"), killed) <= LIMIT
    order = {event.data["key"]: event.data["order"] for event in logged(bus, "order.asked")}
    lines = broker.journal.lines(agent="ordered")
    seen: dict[int, list[str]] = defaultdict(list)
    for key in range(KEYS):
        mine = [line for line in lines if order[line["key"]] == key]
        assert most_at_once(mine, killed) == 1
        # Who died before it was recorded is made again, and nobody in between.
        seen[key] = [
            line["key"] for before, line in zip([{}, *mine], mine, strict=False) if line["key"] != before.get("key")
        ]
        assert seen[key] == [name for name, of in order.items() if of == key]


def test_processes_killed_around_every_arrow_of_a_line_never_let_more_run_and_nobody_waits_for_ever(
    bus: Pipeline, broker: Broker, worker: StartWorker
) -> None:
    crew = Crew(worker, "prefork", 6, app="limits_crash_app", **SOON).add(2)
    survive(bus, broker, crew, (*IN_THE_POOL, *IN_THE_WORKER), 1)


@pytest.mark.faults
def test_a_hundred_processes_killed_at_each_arrow_of_a_line(
    bus: Pipeline, broker: Broker, worker: StartWorker, report: Callable[[str], None]
) -> None:
    crew = Crew(worker, "prefork", 6, app="limits_crash_app", **SOON).add(2)
    report(survive(bus, broker, crew, IN_THE_POOL, 100))


@pytest.mark.faults
def test_a_hundred_workers_killed_around_the_call_out_of_a_line(
    bus: Pipeline, broker: Broker, worker: StartWorker, report: Callable[[str], None]
) -> None:
    crew = Crew(worker, "threads", 6, app="limits_crash_app", **SOON).add(2)
    report(survive(bus, broker, crew, IN_THE_WORKER, 100))
