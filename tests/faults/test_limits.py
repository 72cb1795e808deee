"""What limits over all workers promise while workers are killed and handlers fail, and of times.

`make faults` runs the long forms, and what compares times: that wants a machine which has time for it.
"""

from __future__ import annotations

import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from pipeline import Event, Pipeline
from pipeline.core.event import new_event
from pipeline.ledger.database.waiting import turns
from tests.harness import Broker, StartWorker, Worker, delete_queues
from tests.limits import most_at_once
from tests.records import rows
from tests.servers import wait_for

pytestmark = pytest.mark.usefixtures("nothing_disappears")

Report = Callable[[str], None]

#: Seconds by which a handler may begin late after its turn.
LATE = 0.15
EVERYWHERE = pytest.mark.parametrize(
    "durable", ["embedded+sqlite", "rabbitmq+postgresql", "redis+sqlite"], indirect=True
)


@pytest.fixture
def broker(durable: Broker) -> Iterator[Broker]:
    """The configurations in which this is promised."""
    agents = ("rated", "rated_async", "rated_fast", "slotted", "ordered", "fair")
    queues = [*(f"agent.{agent}" for agent in agents), "agents.emit", "events.unrouted"]
    clean = partial(delete_queues, durable, queues) if durable.name == "rabbitmq" else lambda: None
    clean()
    yield durable
    clean()


def parked(bus: Pipeline) -> int:
    return len(rows(bus, agent="fair", outcome="parked"))


def limited(worker: StartWorker, pool: str = "threads", **how: object) -> Worker:
    return worker(app="limits_app", pool=pool, **how)


# -- rates


@EVERYWHERE
@pytest.mark.faults
@pytest.mark.parametrize(
    ("agent", "rate", "burst", "number"),
    [("rated", 10, 5, 80), ("rated_async", 10, 5, 80), ("rated_fast", 30, 15, 600)],
)
def test_four_workers_together_begin_no_more_than_the_rate_and_use_all_of_it(
    bus: Pipeline, broker: Broker, worker: StartWorker, report: Report, agent: str, rate: int, burst: int, number: int
) -> None:
    for one in range(4):
        limited(worker, name=f"w{one}", wait=one == 3)
    bus.publish_many([new_event("rate.asked", {"n": n}, source="/test", targets=[agent]) for n in range(number)])
    begun = sorted(line["at"] for line in broker.journal.wait(number, 180, agent=agent))
    windows = ((first, last) for first in range(number) for last in range(first, number))
    worst = max(last - first + 1 - rate * (begun[last] - begun[first]) for first, last in windows)
    used = (number - burst) / (begun[-1] - begun[0]) / rate
    report(
        f"{agent} on {broker.name}: {rate}/s with bursts of {burst} over 4 workers: {used:.1%} of the rate used by "
        f"{number}, {worst:.2f} beyond the rate in the worst window"
    )
    assert worst <= burst + rate * LATE
    assert used >= 0.95


# -- how many at once


@pytest.mark.faults
def test_never_more_than_five_run_over_four_workers_of_which_many_are_killed(
    bus: Pipeline, broker: Broker, worker: StartWorker, report: Report
) -> None:
    number, kills, chance = 400, 20, random.Random(5)
    workers = [limited(worker, name=f"w{one}", concurrency=4, wait=one == 0) for one in range(4)]
    killed: dict[int, float] = {}
    bus.publish_many([("slot.asked", {"n": n, "fails": n % 7 == 0}) for n in range(number)])
    for round in range(kills):
        broker.journal.wait(number * (round + 1) // (kills + 2), 300, agent="slot", does="ends")
        victim = workers.pop(chance.randrange(len(workers)))
        assert victim.process is not None
        victim.kill()
        killed[victim.process.pid] = time.time()
        workers.append(limited(worker, name=f"n{round}", concurrency=4, wait=False))
    wait_for(lambda: len(rows(bus, agent="slotted", outcome="succeeded")) == number, "all to succeed", 300, 0.2)
    wait_for(lambda: not rows(bus, turns), "all turns to be given back")
    most = most_at_once(broker.journal.lines(agent="slot"), killed)
    report(f"5 at once on {broker.name}: {number} events over 4 workers, {kills} killed: {most} at once at most")
    assert most <= 5


# -- fair shares


@pytest.mark.faults
def test_a_tenant_with_ten_thousand_waiting_does_not_slow_nine_others(
    bus: Pipeline, broker: Broker, worker: StartWorker, report: Report
) -> None:
    def nine_with_ten_each(prefix: str) -> float:
        names = [f"{prefix}{tenant}" for tenant in range(9)]
        sent = [
            bus.publish("fair.asked", {"seconds": 0.2}, metadata={"tenant": name}) for _ in range(10) for name in names
        ]
        ids = {event.id for event in sent}
        begin = max(event.time for event in sent).timestamp()
        wait_for(lambda: ids <= set(broker.journal.count(agent="fair")), "the nine", 300, 0.2)
        return max(line["at"] for line in broker.journal.lines(agent="fair") if line["id"] in ids) - begin

    for one in range(2):
        limited(worker, name=f"w{one}", concurrency=8)
    alone = nine_with_ten_each("alone")

    def of_the_big_one(number: int, **data: object) -> list[Event]:
        new = [new_event("fair.asked", data, source="/test", metadata={"tenant": "big"}) for _ in range(number)]
        return bus.publish_many(new, timeout=120)

    of_the_big_one(4, until="in-line")
    wait_for(lambda: len(rows(bus, agent="fair", outcome="running")) == 4, "the big one to have all there is")
    many = of_the_big_one(10_000, seconds=0.2)
    wait_for(lambda: parked(bus) == len(many), "all to be in line", 1800, 1)
    (broker.directory / "in-line").touch()
    beside = nine_with_ten_each("beside")
    left = parked(bus)
    report(
        f"fair shares on {broker.name}: nine tenants with 10 each need {alone:.2f} s alone, and {beside:.2f} s beside "
        f"one with {len(many)} waiting: {beside / alone:.2f} times"
    )
    assert left > 0
    assert beside <= 1.5 * alone


# -- the order of events


def order_through_kills(durable: Broker, keys: int, number: int, kills: int) -> None:
    """Let three workers handle so many events of each key, kill one after the other, and compare the order."""
    app = Pipeline(
        "publisher", broker_url=durable.url, directory=durable.directory / "state", ledger_url=durable.ledger
    )
    chance = random.Random(kills)
    workers = [Worker(durable, app="limits_app", pool="threads", name=f"w{one}").start() for one in range(3)]
    try:
        for n in range(number):
            app.publish_many([("order.changed", {"order": f"o{key}", "n": n}) for key in range(keys)])
        journal = durable.journal
        for round in range(kills):
            journal.wait(keys * number * (round + 1) // (kills + 2), 900, agent="ordered")
            workers.pop(chance.randrange(len(workers))).kill()
            workers.append(Worker(durable, app="limits_app", pool="threads", name=f"n{round}").start(wait=False))
        wait_for(lambda: len(journal.count(agent="ordered")) == keys * number, "all to be handled", 3000, 0.5)
    finally:
        for one in workers:
            one.kill()
        app.close()
    seen: dict[str, list[int]] = defaultdict(list)
    for line in journal.lines(agent="ordered"):
        if not seen[line["order"]] or seen[line["order"]][-1] != line["n"]:  # a killed worker's attempt is made again
            seen[line["order"]].append(line["n"])
    assert seen == {f"o{key}": list(range(number)) for key in range(keys)}


def test_each_keys_events_stay_in_order_through_kills(durable: Broker) -> None:
    order_through_kills(durable, keys=6, number=6, kills=2)


@pytest.mark.faults
def test_many_keys_events_stay_in_order_through_many_kills(durable: Broker, report: Callable[[str], None]) -> None:
    order_through_kills(durable, keys=200, number=50, kills=10)
    report(f"limits on {durable.name}: 200 keys with 50 events each, 10 kills: in order")
