"""What contracts cost a delivery: a filter of five conditions, a chain of three upcasters, a thousand other agents.

    python -m benchmarks.contracts                   # without a ledger
    python -m benchmarks.contracts --ledger sqlite

A solo worker on RabbitMQ runs 4,000 deliveries of one agent, in turns with each kind; the ratio of each to the plain
one, round by round, is what counts. With a thousand agents, each of which has a copy of every event in its queue and of
which one wants it, the CPU is that of one copy, nearly all of which are kept from their handlers.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, sleep

from pipeline import Pipeline
from pipeline.core.event import new_event

from . import contracted
from .contracted import AGENTS, KIND, KINDS, MANY, UPCAST, Work
from .databases import Database, Off, databases
from .progress import say
from .queues import Queues, of_agents
from .samples import median, ratio
from .servers import Broker, running
from .tables import table
from .workers import cpu_seconds, worker
from .workload import Records, data

#: Seconds in which a worker ends what it has in hand.
SETTLE = 1.0
#: Deliveries of a round and those that warm up, events for the thousand, events of a call; seconds for a round.
COUNT, WARM_UP, FOR_MANY, BATCH, TIMEOUT = 4000, 500, 20, 500, 180.0


@dataclass
class Kind:
    """What is measured, and what each round has found."""

    name: str
    rates: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)


def run(broker: Broker, ledger: Database, kind: Kind) -> None:
    """Fill the queues, let a worker empty them, and note how fast and for how much CPU."""
    with ledger.address() as url, tempfile.TemporaryDirectory(prefix="bench-contracts-") as directory:
        app = contracted.build(broker.url, url, kind.name)
        queues = of_agents(app)
        queues.purge()
        if app.has_ledger:
            app.ledger.subscribers.register({agent.name: (agent.patterns, None) for agent in app.agents})
        with ExitStack() as stack:
            records = Records(Path(directory, "records"))

            def start() -> int:
                options = {KIND: kind.name}
                return stack.enter_context(worker("contracted", broker, "solo", 1, records.path, url, **options)).pid

            if kind.name == MANY:
                pid = start()
                _publish(app, kind.name, 1)
                _emptied(queues)  # so that all its consumers are there
                began, cpu = monotonic(), cpu_seconds(pid)
                copies = _publish(app, kind.name, FOR_MANY)
                _emptied(queues)
                kind.rates.append(copies / (monotonic() - began - SETTLE))
                kind.cpu.append((cpu_seconds(pid) - cpu) / copies * 1e6)
            else:
                queues.wait(_publish(app, kind.name, COUNT), TIMEOUT)
                pid = start()
                records.wait(WARM_UP, TIMEOUT, 0.002)
                first, cpu = records.count(), cpu_seconds(pid)
                records.wait(COUNT, TIMEOUT, 0.002)
                cpu, times = cpu_seconds(pid) - cpu, [at for _, at in records.read()]
                kind.rates.append((COUNT - first) / (times[COUNT - 1] - times[first - 1]))
                kind.cpu.append(cpu / (COUNT - first) * 1e6)
        app.close()
        queues.close()
    say(f"{kind.name}: {kind.rates[-1]:,.0f}/s, {kind.cpu[-1]:,.0f} us of CPU each")


def _publish(app: Pipeline, kind: str, number: int) -> int:
    """Publish as many events; return how many copies that are."""
    version = "1.0.0" if kind == UPCAST else Work.schema_version
    content = {**data(), "user_id": "user-7"}
    for start in range(0, number, BATCH):
        some = min(BATCH, number - start)
        app.publish_many([new_event(Work.event_type, content, source=app.source, version=version) for _ in range(some)])
    return number * len(app.agents)


def _emptied(queues: Queues) -> None:
    """Wait until the worker has emptied its queues."""
    deadline = monotonic() + TIMEOUT
    while queues.count():
        if monotonic() > deadline:
            raise TimeoutError(f"the worker has not emptied its queues within {TIMEOUT:g} s")
        sleep(0.05)  # between two looks at the queues
    sleep(SETTLE)  # it has some in hand still


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.contracts", description=__doc__.split("\n\n")[0])
    parser.add_argument("--ledger", choices=("off", "sqlite", "postgresql"), default="off", help="default off")
    parser.add_argument("--only", default=",".join(KINDS), help=f"kinds (default {','.join(KINDS)})")
    parser.add_argument("--repeats", type=int, default=3, help="rounds (default 3)")
    options = parser.parse_args(arguments)
    with running("rabbitmq") as broker, databases() as (found, _):
        ledgers: dict[str, Database] = {"off": Off(), **{one.name.lower(): one for one in found}}
        kinds = [Kind(name) for name in options.only.split(",")]
        for _round in range(options.repeats):
            for kind in kinds:
                run(broker, ledgers[options.ledger], kind)
        print(f"\n{broker.version}, {options.ledger} ledger\n")
        print(_table(kinds))


def _table(kinds: Sequence[Kind]) -> str:
    base = kinds[0]
    rows = []
    for one in kinds:
        name = f"{AGENTS:,} agents, one of which wants it, each copy" if one.name == MANY else one.name
        cells = (str(ratio(one.rates, base.rates)), str(ratio(one.cpu, base.cpu)))
        rows.append([name, f"{median(one.rates):,.0f}", f"{median(one.cpu):,.0f}", *cells])
    return table(["", "deliveries/s", "CPU us", f"rate, of {base.name}", f"CPU, of {base.name}"], rows)


if __name__ == "__main__":
    main()
