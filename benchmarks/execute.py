"""Executions per second: bare Celery tasks and agents in turns, from queues that were filled before.

Timed is the span from the first to the last execution that a handler noted, so neither the worker's start nor its
end is in it. The CPU time is that of the worker and its pool, between two looks in that span. There is no ledger.
"""

from __future__ import annotations

import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from . import agents, bare
from .progress import say
from .queues import fill_agents, fill_tasks, of_agents, of_tasks
from .samples import Ratio, median, ratio
from .servers import Broker
from .workers import cpu_seconds, worker
from .workload import Records

POOLS = ("solo", "threads", "prefork")
#: Seconds that a worker may take for all executions.
TIMEOUT = 120.0


@dataclass(frozen=True)
class Run:
    """One worker's run: executions per second, and microseconds of CPU per execution."""

    per_second: float
    cpu_us: float


@dataclass(frozen=True)
class Executions:
    """The runs of bare tasks and of agents that were made in turns."""

    broker: str
    pool: str
    subscribers: int
    executions: int
    bare: list[Run]
    agents: list[Run]

    @property
    def ratio(self) -> Ratio:
        """Agents' rate by bare tasks' rate."""
        return ratio([run.per_second for run in self.agents], [run.per_second for run in self.bare])

    def as_json(self) -> dict[str, Any]:
        """Return everything that was measured."""
        return {**asdict(self), "ratio": asdict(self.ratio)}


def measure(broker: Broker, pool: str, subscribers: int, executions: int, repeats: int) -> Executions:
    """Run bare tasks and agents in turns, `repeats` times each."""
    executions -= executions % subscribers
    found = Executions(broker.name, pool, subscribers, executions, [], [])
    app = agents.build(broker.url, subscribers, confirm=True)
    celery = bare.build(broker.url, subscribers)
    agent_queues, task_queues = of_agents(app), of_tasks(celery, subscribers)

    def bare_run() -> None:
        task_queues.purge()
        fill_tasks(celery, subscribers, executions)
        task_queues.wait(executions)
        found.bare.append(_run("bare", broker, pool, subscribers, executions))

    def agents_run() -> None:
        agent_queues.purge()
        fill_agents(app, executions)
        agent_queues.wait(executions)
        found.agents.append(_run("agents", broker, pool, subscribers, executions))

    for repeat in range(repeats):
        for run in (bare_run, agents_run) if repeat % 2 == 0 else (agents_run, bare_run):
            run()
    for queues in (agent_queues, task_queues):
        queues.close()
    say(
        f"execute {broker.name} {pool} {subscribers}: bare {median(r.per_second for r in found.bare):,.0f}/s, "
        f"agents {median(r.per_second for r in found.agents):,.0f}/s, ratio {found.ratio}"
    )
    return found


def _run(module: str, broker: Broker, pool: str, subscribers: int, executions: int) -> Run:
    with tempfile.TemporaryDirectory(prefix="bench-records-") as directory:
        records = Records(Path(directory, "records"))
        with worker(module, broker, pool, subscribers, records.path) as process:
            records.wait(executions // 20, TIMEOUT, interval=0.002)
            before, cpu = records.count(), cpu_seconds(process.pid)
            records.wait(executions, TIMEOUT)
            cpu = cpu_seconds(process.pid) - cpu
        times = [executed for _, executed in records.read()]
    return Run((len(times) - 1) / (times[-1] - times[0]), cpu / (len(times) - before) * 1e6)
