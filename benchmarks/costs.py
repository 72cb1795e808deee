"""What the ledger costs: deliveries in a real solo worker and publishing in this process, step by step.

A real worker, because the steps are only half of a delivery: reading, decoding, the ack and the sweeper's thread
beside them are in its rate, and the order in which the steps alternate with the broker's is the real one. Solo,
because there the steps follow one another in one thread and can be subtracted from the whole.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pipeline import Pipeline

from . import agents, stepped
from .databases import Database
from .progress import say
from .queues import Queues, of_agents
from .samples import median
from .servers import Broker
from .steps import PUBLISHING, watching
from .workers import worker
from .workload import Records, Work, data

BATCH = 500
#: Seconds that a worker may take for all deliveries.
TIMEOUT = 180.0
REST = "rest"


@dataclass(frozen=True)
class Cost:
    """How fast something was, and microseconds of each of its steps; one number for each round."""

    broker: str
    ledger: str
    what: str
    per_second: list[float] = field(default_factory=list)
    steps: dict[str, list[float]] = field(default_factory=dict)

    def add(self, count: int, seconds: float, steps: dict[str, float]) -> None:
        """Add a round with the seconds that its steps took in all."""
        self.per_second.append(count / seconds)
        for step, took in steps.items():
            self.steps.setdefault(step, []).append(took / count * 1e6)

    def as_json(self) -> dict[str, Any]:
        """Return everything that was measured."""
        return asdict(self)

    def say(self) -> None:
        """Show it to those who wait."""
        steps = ", ".join(f"{step} {median(each):,.0f}" for step, each in self.steps.items())
        say(f"{self.what}, {self.broker}, ledger {self.ledger}: {median(self.per_second):,.0f}/s; us: {steps}")


# -- delivering


def deliveries(broker: Broker, ledgers: Sequence[Database], count: int, repeats: int) -> list[Cost]:
    """Let a solo worker run deliveries with each of the ledgers in turns."""
    found = []
    for emits in (False, True):
        what = f"an agent that emits {'one event' if emits else 'nothing'}"
        costs = [(ledger, Cost(broker.name, ledger.name, what)) for ledger in ledgers]
        for _ in range(repeats):
            for ledger, cost in costs:
                with ledger.address() as address:
                    _deliver(broker, address, cost, count, emits=emits)
        for _, cost in costs:
            cost.say()
            found.append(cost)
    return found


def _deliver(broker: Broker, ledger_url: str, cost: Cost, count: int, *, emits: bool) -> None:
    app = stepped.build(broker.url, ledger_url, emits=emits, sink=True)
    queues = of_agents(app)
    _register(app)
    queues.purge()
    for start in range(0, count, BATCH):
        app.publish_many([Work(**data()) for _ in range(min(BATCH, count - start))])
    queues.wait(count)
    app.close()
    with tempfile.TemporaryDirectory(prefix="bench-steps-") as directory:
        report = Path(directory, "steps.json")
        records = Records(Path(directory, "records"))
        more = {stepped.EMITS: "yes" if emits else "no", stepped.COUNT: str(count), stepped.STEPS: str(report)}
        with worker("stepped", broker, "solo", 1, records.path, ledger_url, **more):
            _wait(report.exists)
        measured = json.loads(report.read_text())
    queues.close()
    steps = measured["steps"]
    steps[REST] = measured["seconds"] - sum(steps.values())
    cost.add(measured["deliveries"], measured["seconds"], steps)


def _register(app: Pipeline) -> None:
    """Tell the ledger who listens: else every event would be noted as one that nobody wants."""
    if app.has_ledger:
        app.ledger.subscribers.register({agent.name: (agent.patterns, None) for agent in app.agents})


def _wait(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"the deliveries took more than {TIMEOUT:g} s")
        time.sleep(0.05)  # between two looks: asking takes time from what is measured


# -- publishing


def publishing(broker: Broker, ledgers: Sequence[Database], count: int, repeats: int) -> list[Cost]:
    """Publish to one agent with each of the ledgers in turns, one event per call and BATCH."""
    found = []
    for name, publish in (("publish", _publish), (f"publish_many, {BATCH} a call", _publish_many)):
        costs = [(ledger, Cost(broker.name, ledger.name, name)) for ledger in ledgers]
        for _ in range(repeats):
            for ledger, cost in costs:
                with ledger.address() as address:
                    _burst(broker, address, cost, count, publish)
        for _, cost in costs:
            cost.say()
            found.append(cost)
    return found


def _burst(broker: Broker, ledger_url: str, cost: Cost, count: int, publish: Callable[[Pipeline, int], None]) -> None:
    app = agents.build(broker.url, 1, ledger_url=ledger_url)
    queues: Queues = of_agents(app)
    _register(app)
    publish(app, max(count // 10, 1))
    with watching(PUBLISHING) as clock:
        started = time.perf_counter()
        publish(app, count)
        seconds = time.perf_counter() - started
    steps = dict(clock.seconds)
    cost.add(count, seconds, {**steps, REST: seconds - sum(steps.values())})
    queues.purge()
    queues.close()
    app.close()


def _publish(app: Pipeline, count: int) -> None:
    for _ in range(count):
        app.publish(Work(**data()))


def _publish_many(app: Pipeline, count: int) -> None:
    for start in range(0, count, BATCH):
        app.publish_many([Work(**data()) for _ in range(min(BATCH, count - start))])
