"""All workers killed again and again under load: each event takes effect once at each agent; see `make faults`."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable

import pytest

from pipeline import Pipeline
from tests.effects import LOADED, Effects
from tests.harness import SOON, Broker, StartWorker, Worker
from tests.servers import wait_for

pytestmark = pytest.mark.usefixtures("nothing_disappears")

Report = Callable[[str], None]

WORKERS = 4
CONCURRENCY = 2
#: What Redis loses when a worker dies between the two commands that take a message, reconciliation finds.
ON_REDIS = {**SOON, "PIPELINE_RECONCILE_AFTER": "2"}


@pytest.fixture
def broker(durable: Broker) -> Broker:
    """The configurations in which this is promised."""
    return durable


class Load:
    """Events for five agents, and workers that are killed while they handle them."""

    def __init__(self, bus: Pipeline, broker: Broker, start: StartWorker, environment: dict[str, str]) -> None:
        self._bus = bus
        self._broker = broker
        self._start = start
        self._environment = environment
        self._effects = Effects(bus, LOADED)
        self._names = (f"w{number}" for number in itertools.count())
        self._workers: list[Worker] = []
        self._began = time.monotonic()
        self._events: list[str] = []
        self._kills = 0

    def declare_queues(self) -> None:
        """Let a worker run once, so that the agents are known and have queues."""
        self._start(app="effects_app", name="declarer").stop()

    def start_workers(self) -> None:
        """Start all workers."""
        self._workers = [
            self._start(
                app="effects_app", pool="prefork", concurrency=CONCURRENCY, name=next(self._names), wait=False,
                options=("--without-mingle", "-l", "WARNING"), environment=self._environment,
            )
            for _ in range(WORKERS)
        ]  # fmt: skip

    def publish(self, number: int) -> None:
        """Publish events."""
        events = self._bus.publish_many([("load.put", {"key": ""})] * number)
        self._events += [event.id for event in events]

    def wait_for_effects(self, number: int) -> None:
        """Return when so many effects have been recorded."""
        wait_for(lambda: self._effects.number() >= number, f"{number} effects", 60 + number / 20, interval=0.01)

    def kill_workers(self) -> None:
        """Kill all workers with all their processes."""
        for one in self._workers:
            one.kill()
        self._kills += len(self._workers)

    def check(self, *, runs_are_bounded: bool) -> str:
        """Every agent took effect once for each event, and only what was in hand at a kill was run again."""
        wait_for(self._effects.is_at_rest, "everything to be recorded", 60, interval=0.1)
        self.publish(1)
        self._bus.settle(self._events[-1], 60)
        wanted = dict.fromkeys(self._events, 1)
        for agent in LOADED:
            assert self._effects.events(agent) == wanted
        extra = self._extra_runs()
        bound = self._kills * CONCURRENCY
        assert extra <= bound or not runs_are_bounded
        seconds = time.monotonic() - self._began
        return (
            f"{self._broker.name}: {len(self._events)} events to {len(LOADED)} agents, {self._kills} workers killed: "
            f"0 lost, 0 effects twice, {extra} extra runs of at most {bound}, {seconds:.0f} s"
        )

    def _extra_runs(self) -> int:
        lines = self._broker.journal.lines()
        return len(lines) - len({line["delivery"] for line in lines})


def kill_under_load(load: Load, rounds: int, number: int) -> None:
    """Publish events in portions, and kill all workers somewhere in the middle of each."""
    chance = random.Random(number)
    portion = number // rounds
    load.declare_queues()
    for done in range(rounds):
        load.start_workers()
        load.publish(portion)
        load.wait_for_effects(round((done + chance.uniform(0.1, 0.9)) * portion * len(LOADED)))
        load.kill_workers()
    load.start_workers()
    load.wait_for_effects(number * len(LOADED))


@pytest.mark.parametrize("durable", ["embedded+sqlite", "rabbitmq+postgresql", "redis+sqlite"], indirect=True)
def test_workers_killed_under_load_lose_nothing_and_repeat_no_effect(
    bus: Pipeline, broker: Broker, worker: StartWorker, report: Report
) -> None:
    is_redis = broker.name == "redis"
    load = Load(bus, broker, worker, ON_REDIS if is_redis else {})
    kill_under_load(load, 1, 600)
    # On Redis what waits in a busy worker for longer than the visibility timeout is given to another one as well.
    report(load.check(runs_are_bounded=not is_redis))


@pytest.mark.faults
def test_four_workers_killed_twenty_times_lose_nothing_and_repeat_no_effect(
    bus: Pipeline, broker: Broker, worker: StartWorker, report: Report
) -> None:
    load = Load(bus, broker, worker, {})
    kill_under_load(load, 20, 20_000)
    report(load.check(runs_are_bounded=True))
