"""What a delivery costs while the ledger grows, and while many events wait: it must not matter.

    python -m benchmarks.sizes                       # ledgers of 10,000 and of 1,000,000 events, on both databases
    python -m benchmarks.sizes --ledger sqlite --sizes 10000,100000

A solo worker runs 3,000 deliveries of one agent, in turns with each ledger; one that begins empty gets 100,000 events
in the agent's queue instead of 3,000. The ratio of each to the smallest ledger, round by round, is what counts.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from time import sleep

from . import agents
from .databases import Database, databases
from .logs import Log
from .progress import say
from .queues import Queues, of_agents
from .samples import median, ratio
from .servers import Broker, running
from .tables import table
from .workers import cpu_seconds, worker
from .workload import Records, Work, data

#: Deliveries of a round, and those of them that warm up; events of a call, and seconds that a round may take.
COUNT, WARM_UP, BATCH, TIMEOUT = 3000, 500, 500, 120.0
WAITING = 100_000


@dataclass
class Case:
    """A ledger, what waits in the queue, and what each round has found."""

    name: str
    url: str
    waiting: int = COUNT
    rates: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)


def measure(broker: Broker, database: Database, sizes: Sequence[int], waiting: int, repeats: int) -> list[Case]:
    """Measure with ledgers of some sizes, and with many events that wait."""
    with ExitStack() as stack:
        cases = []
        for size in sizes:
            ledger = stack.enter_context(database.opened())
            Log(ledger).grow(size)
            say(f"{database.name}: a ledger of {size:,} events")
            cases.append(Case(f"{size:,} events in the ledger", ledger.database.url.render_as_string(False)))
        for _ in range(repeats):
            for case in cases:
                _run(broker, case)
        many = Case(f"{waiting:,} events waiting", "", waiting)
        few = Case("an empty ledger", "")
        for _ in range(repeats):
            for case in (few, many):
                with database.address() as case.url:
                    _run(broker, case)
    return [*cases, few, many]


def _run(broker: Broker, case: Case) -> None:
    app = agents.build(broker.url, 1, ledger_url=case.url)
    queues = of_agents(app)
    queues.purge()
    app.ledger.subscribers.register({agent.name: (agent.patterns, None) for agent in app.agents})
    for start in range(0, case.waiting, BATCH):
        app.publish_many([Work(**data()) for _ in range(min(BATCH, case.waiting - start))])
    queues.wait(case.waiting)
    app.close()
    with tempfile.TemporaryDirectory(prefix="bench-records-") as directory:
        records = Records(Path(directory, "records"))
        with worker("agents", broker, "solo", 1, records.path, case.url) as process:
            records.wait(WARM_UP, TIMEOUT, 0.002)
            first, cpu = records.count(), cpu_seconds(process.pid)
            records.wait(COUNT, TIMEOUT, 0.002)
            last, cpu = records.count(), cpu_seconds(process.pid) - cpu
        times = [executed for _, executed in records.read()]
    case.rates.append((last - first) / (times[last - 1] - times[first - 1]))
    case.cpu.append(cpu / (last - first) * 1e6)
    say(f"{case.name}: {case.rates[-1]:,.0f}/s, {case.cpu[-1]:,.0f} us of CPU each")
    _empty(queues)


def _empty(queues: Queues) -> None:
    sleep(0.5)  # what the worker had in hand comes back
    queues.purge()
    queues.close()


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print a table for each database."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sizes", description=__doc__.split("\n\n")[0])
    parser.add_argument("--ledger", default="sqlite,postgresql", help="databases (default sqlite,postgresql)")
    parser.add_argument("--sizes", default="10000,1000000", help="events in the ledger (default 10000,1000000)")
    parser.add_argument("--waiting", type=int, default=WAITING, help=f"events in the queue (default {WAITING})")
    parser.add_argument("--repeats", type=int, default=3, help="rounds (default 3)")
    options = parser.parse_args(arguments)
    sizes = [int(size) for size in options.sizes.split(",")]
    with running("rabbitmq") as broker, databases() as (found, _):
        for database in found:
            if database.name.lower() in options.ledger:
                cases = measure(broker, database, sizes, options.waiting, options.repeats)
                print(f"\n{broker.version}, {database.version}\n")
                print(_table(cases))


def _table(cases: Sequence[Case]) -> str:
    rows = []
    for one in cases:
        base = cases[0] if one.url and one in cases[:-2] else cases[-2]
        rows.append(
            [
                one.name, f"{median(one.rates):,.0f}", f"{median(one.cpu):,.0f}",
                str(ratio(one.rates, base.rates)), str(ratio(one.cpu, base.cpu)),
            ]
        )  # fmt: skip
    return table(["", "deliveries/s", "CPU us", "rate, of the smallest's", "CPU, of the smallest's"], rows)


if __name__ == "__main__":
    main()
