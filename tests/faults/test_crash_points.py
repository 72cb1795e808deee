"""Processes killed between any two steps of an event's way: nothing is lost, and nothing takes effect twice.

Each event kills the process that brings it to its point, once (tests/apps/crash_app.py); `make faults`: the long form.
"""

from __future__ import annotations

import itertools
import signal
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from pipeline import Pipeline
from pipeline.core.ids import caused_id, delivery_id
from tests.effects import CHAIN, Effects
from tests.harness import APPS, Broker, StartWorker, Worker, run
from tests.servers import wait_for

pytestmark = pytest.mark.usefixtures("nothing_disappears")

Report = Callable[[str], None]

#: Where the process that runs a handler dies; with the prefork pool it is one of the pool's.
IN_THE_POOL = ("effect", "commit", "sent")
#: Where a worker's main process dies.
IN_THE_WORKER = ("ack",)
IN_THE_PUBLISHER = ("publisher-append", "publisher-sent")
#: Workers that ask nobody before they begin are there a second earlier.
ALONE = ("--without-mingle",)
#: Nothing is left to reconciliation: what it sends once more may run beside the first copy, though to no effect.
PATIENT = {"PIPELINE_RECONCILE_AFTER": "600"}
#: But for what was parked: what a worker had taken to send it, and was killed before it did, reconciliation sends.
SOON = {"PIPELINE_RECONCILE_AFTER": "8"}


@pytest.fixture
def broker(durable: Broker) -> Broker:
    """The configurations in which this is promised."""
    return durable


class Crew:
    """Workers of which each that has died is replaced."""

    def __init__(
        self, start: StartWorker, pool: str, concurrency: int = 1, app: str = "crash_app", **environment: str
    ) -> None:
        self._start = start
        self._options: dict[str, Any] = {"app": app, "options": ALONE, "environment": {**PATIENT, **environment}}
        self._options |= {"pool": pool, "concurrency": concurrency}
        self._names = (f"{pool}{number}" for number in itertools.count())
        self._workers: list[Worker] = []

    def add(self, number: int) -> Crew:
        """Start workers, and wait for the first: from then on the agents have queues."""
        for _ in range(number):
            self._workers.append(self._start(name=next(self._names), wait=not self._workers, **self._options))
        return self

    def work_until(self, is_done: Callable[[], bool], what: str | Callable[[], str], seconds: float) -> None:
        """Replace the dead until something is done, then let all finish what they have."""

        def look() -> bool:
            self.replace_the_dead()
            return is_done()

        wait_for(look, what, seconds, interval=0.05)
        self._end()

    def pids(self) -> set[int]:
        """Return those of the main processes that run."""
        return {one.process.pid for one in self._workers if one.process is not None and one.is_running()}

    def replace_the_dead(self) -> int:
        """Start a worker for each that was killed; return how many."""
        dead = [one for one in self._workers if not one.is_running()]
        for one in dead:
            assert one.process is not None
            assert one.process.returncode == -signal.SIGKILL, one.output()
            self._workers.remove(one)
            self._workers.append(self._start(name=next(self._names), wait=False, **self._options))
        return len(dead)

    def _end(self) -> None:
        for one in self._workers:
            assert one.process is not None
            one.process.terminate()
        for one in self._workers:
            one.stop()


class Accident:
    """Events that kill whoever handles them, and what has become of them."""

    def __init__(self, bus: Pipeline, broker: Broker, start: StartWorker) -> None:
        self._bus = bus
        self._broker = broker
        self._start = start
        self._effects = Effects(bus, CHAIN)
        self._keys: set[str] = set()

    def publish(self, points: tuple[str, ...], number: int) -> None:
        """Publish events that kill whom they meet at these points."""
        events = [{"key": f"{point}-{n}", "point": point} for n in range(number) for point in points]
        self._bus.publish_many([("work.asked", data) for data in events])
        self._keys |= {data["key"] for data in events}

    def kill_publishers(self, number: int) -> None:
        """Let publishers die on the way; their events are all in the log."""
        for point in IN_THE_PUBLISHER:
            command = [sys.executable, str(APPS / "crash_publisher.py"), point, str(number)]
            ended = run(command, self._broker, seconds=300)
            assert ended.returncode == 0, ended.stderr
            self._keys |= {f"{point}-{n}" for n in range(number)}

    def survive(self, crew: Crew) -> None:
        """Let a crew work until all has settled in spite of the deaths."""
        wanted = len(self._keys) * len(CHAIN)
        seconds = 60 + 6 * len(self._keys)

        def is_over() -> bool:
            # What was recorded in a group is there before each of its acks was to end a process.
            dead = len(self._deaths()) == len(self._keys)
            return dead and self._effects.number() >= wanted and self._effects.is_at_rest()

        crew.work_until(is_over, "all deaths and effects", seconds)

    def _deaths(self) -> set[str]:
        return {path.name for path in self._broker.directory.glob("once-*")}

    def check(self) -> str:
        """Everybody who was to die has died, and each event took effect once at both agents; return the figures."""
        self._drain()
        deaths = self._deaths()
        assert deaths == {f"once-{point_of(key)}-{key}" for key in self._keys}
        self._check_effects()
        self._check_runs()
        self._check_logs()
        places = ", ".join(
            f"{number} at {point}" for point, number in sorted(Counter(map(point_of, self._keys)).items())
        )
        return f"{self._broker.name}: {len(deaths)} processes killed ({places}): 0 lost, 0 effects twice"

    def _drain(self) -> None:
        """Let one more worker take whatever copies are in the queues: its own event comes after all of them."""
        last = self._start(app="effects_app", name="last", options=ALONE)
        self._bus.settle(self._bus.publish("work.asked", {"key": "last", "point": ""}, priority=10), 120)
        assert "could not be noted" not in last.output()

    def _check_effects(self) -> None:
        once = dict.fromkeys({*self._keys, "last"}, 1)
        asked = self._effects.logged("work.asked")
        followed = {caused_id(delivery_id(event, "work"), 0, self._bus.ledger.secret): 1 for event in asked}
        assert len(asked) == len(once)
        assert self._effects.keys("work") == self._effects.keys("follow") == once
        assert self._effects.events("work") == asked
        assert self._effects.events("follow") == self._effects.logged("work.done") == followed

    def _check_runs(self) -> None:
        """Only what died before its commit was run again."""
        runs = Counter(line["data"] for line in self._broker.journal.lines(agent="work"))
        assert {key for key, number in runs.items() if number > 1} == {
            key for key in self._keys if point_of(key) == "effect"
        }
        assert max(runs.values()) <= 2

    def _check_logs(self) -> None:
        """Every death was dealt with in full: nothing stays in a worker's hands."""
        for path in self._broker.directory.glob("*.log"):
            assert "Pool callback raised exception" not in path.read_text(errors="replace")


def point_of(key: str) -> str:
    """Return where the process dies that an event meets."""
    return key.rpartition("-")[0]


@pytest.fixture
def accident(bus: Pipeline, broker: Broker, worker: StartWorker) -> Accident:
    return Accident(bus, broker, worker)


def test_processes_killed_between_any_two_steps_lose_nothing_and_repeat_no_effect(
    accident: Accident, worker: StartWorker
) -> None:
    pool = Crew(worker, "prefork", 4).add(1)
    accident.publish(IN_THE_POOL, 5)
    accident.kill_publishers(5)
    accident.survive(pool)
    workers = Crew(worker, "solo").add(2)
    accident.publish(IN_THE_WORKER, 5)
    accident.survive(workers)
    accident.check()


@pytest.mark.faults
def test_a_hundred_pool_processes_killed_at_each_point(accident: Accident, worker: StartWorker, report: Report) -> None:
    crew = Crew(worker, "prefork", 4).add(2)
    accident.publish(IN_THE_POOL, 100)
    accident.survive(crew)
    report(accident.check())


@pytest.mark.faults
@pytest.mark.parametrize(("points", "number"), [(IN_THE_WORKER, 100), (IN_THE_POOL, 25)], ids=["ack", "others"])
def test_a_hundred_workers_killed(
    accident: Accident, worker: StartWorker, report: Report, points: tuple[str, ...], number: int
) -> None:
    crew = Crew(worker, "solo").add(4)
    accident.publish(points, number)
    accident.survive(crew)
    report(accident.check())


@pytest.mark.faults
def test_a_hundred_publishers_killed_at_each_point(accident: Accident, worker: StartWorker, report: Report) -> None:
    crew = Crew(worker, "solo").add(1)
    accident.kill_publishers(100)
    accident.survive(crew)
    report(accident.check())
