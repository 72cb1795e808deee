"""Limits over all workers, with workers: never more than they say, all of that while there is work, never stuck."""

from __future__ import annotations

import random
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import pytest

from pipeline import Pipeline
from tests.harness import Broker, StartWorker, Worker, backlog
from tests.limits import most_at_once
from tests.records import rows
from tests.servers import wait_for

pytestmark = pytest.mark.usefixtures("nothing_disappears")

#: Seconds in which what takes one or two has happened, on a machine that does much else, too.
MOMENTS = 20


@pytest.fixture
def limited(worker: StartWorker) -> Callable[..., Worker]:
    def start(pool: str = "threads", **how: Any) -> Worker:
        return worker(app="limits_app", pool=pool, **how)

    return start


def parked(bus: Pipeline, agent: str) -> int:
    return len(rows(bus, agent=agent, outcome="parked"))


def test_never_more_than_five_run_over_four_workers_that_are_killed_and_all_come_to_their_end(
    bus: Pipeline, broker: Broker, limited: Callable[..., Worker]
) -> None:
    number, chance = 80, random.Random(5)
    if broker.name == "redis":
        pytest.skip("Redis loses what a worker has popped but not yet noted: docs/guarantees.md")
    workers = [limited(name=f"w{one}", concurrency=4, wait=one == 0) for one in range(4)]
    killed: dict[int, float] = {}
    for n in range(number):
        bus.publish("slot.asked", {"n": n, "fails": n % 7 == 0})
    for round in range(2):
        broker.journal.wait(10 * (round + 1), agent="slot", does="ends")
        victim = chance.choice(workers)
        workers.remove(victim)
        assert victim.process is not None
        victim.kill()
        killed[victim.process.pid] = time.time()
        workers.append(limited(name=f"n{round}", concurrency=4, wait=False))
    wait_for(lambda: len(rows(bus, agent="slotted", outcome="succeeded")) == number, "all to succeed", 90, 0.2)
    assert most_at_once(broker.journal.lines(agent="slot"), killed) <= 5


def test_what_may_not_run_is_in_no_queue_and_in_no_workers_hands(
    bus: Pipeline, broker: Broker, limited: Callable[..., Worker]
) -> None:
    limited(concurrency=8)
    for n in range(8):
        bus.publish("slot.asked", {"n": n, "until": "gate"})
    wait_for(lambda: parked(bus, "slotted") == 3, "three to be parked")
    assert backlog(bus, "agent.slotted") == 0
    (waiting,) = {row["error"] for row in rows(bus, agent="slotted", outcome="parked")}
    assert waiting == "waits for a turn of the limit slotted"
    (broker.directory / "gate").touch()
    assert most_at_once(broker.journal.wait(16, agent="slot")) == 5


def test_each_keys_events_are_handled_in_their_order_whatever_fails(
    bus: Pipeline, broker: Broker, limited: Callable[..., Worker]
) -> None:
    keys, number = 10, 8
    for one in range(3):
        limited(name=f"w{one}", wait=one == 0)
    for n in range(number):
        for key in range(keys):
            bus.publish("order.changed", {"order": f"o{key}", "n": n})
    seen = defaultdict(list)
    for line in broker.journal.wait(keys * number, 90, agent="ordered"):
        seen[line["order"]].append(line["n"])
    assert seen == {f"o{key}": list(range(number)) for key in range(keys)}


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_stopped_handler_hands_its_slot_on_when_it_has_ended_and_no_sooner(
    bus: Pipeline, broker: Broker, limited: Callable[..., Worker], pool: str
) -> None:
    limited(pool, concurrency=3)
    first = bus.publish("one.asked", {"until": "first"})
    for agent in ("single", "single_async"):
        broker.journal.wait(1, agent=agent)
    second = bus.publish("one.asked", {"until": "second"})
    wait_for(lambda: len(rows(bus, event_id=second.id, outcome="parked")) == 2, "both to be in line")
    bus.cancel(first, tree=True)
    broker.journal.wait(1, agent="single_async", id=second.id)  # an async one ends at once
    # Longer than it takes until somebody looks whether a slot was left behind.
    bus.publish("slot.asked", {"seconds": 8})
    broker.journal.wait(1, agent="slot", does="ends")
    assert broker.journal.lines(agent="single", id=second.id) == []
    (broker.directory / "first").touch()
    lines = broker.journal.wait(3, agent="single")
    assert [(line["id"], line["does"]) for line in lines] == [
        (first.id, "begins"), (first.id, "ends"), (second.id, "begins"),
    ]  # fmt: skip
    (broker.directory / "second").touch()
    wait_for(lambda: len(rows(bus, event_id=second.id, outcome="succeeded")) == 2, "both to succeed")


def test_what_was_changed_is_in_force_on_every_worker_within_moments(
    bus: Pipeline, broker: Broker, limited: Callable[..., Worker]
) -> None:
    for one in range(3):
        limited(name=f"w{one}", concurrency=16)
    for n in range(12):
        bus.publish("slot.asked", {"n": n, "until": "go-on"})
    wait_for(lambda: parked(bus, "slotted") == 7, "seven to be parked")
    bus.limits.set("slotted", concurrent=8)
    # Seconds are promised, and most of a second is what it takes; a loaded machine has ten times that.
    wait_for(lambda: len(broker.journal.lines(agent="slot", does="begins")) == 8, "three more to begin", MOMENTS)
    bus.limits.set("slotted", concurrent=2)
    for n in range(4):
        bus.publish("slot.asked", {"n": n, "until": "go-on"})
    wait_for(lambda: parked(bus, "slotted") == 8, "the new ones to be in line", MOMENTS)
    (broker.directory / "go-on").touch()
    wait_for(lambda: len(rows(bus, agent="slotted", outcome="succeeded")) == 16, "all to succeed")
    lines = broker.journal.lines(agent="slot")
    begins = [line for line in lines if line["does"] == "begins"][8:]
    of_the_rest = [line for line in lines if line["id"] in {begin["id"] for begin in begins}]
    assert most_at_once(of_the_rest) <= 2
