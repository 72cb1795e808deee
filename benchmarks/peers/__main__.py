"""Executions per second beside FastStream, taskiq, dramatiq and bare Celery, in turns on one RabbitMQ.

    python -m benchmarks.peers                       # a handler that does nothing, 1, 5 and 20 of them
    python -m benchmarks.peers --wait 1              # an async handler that waits a second, 500 at once
    python -m benchmarks.peers --ledger sqlite       # with this bus's ledger; the others have none
    python -m benchmarks.peers --rate 50             # milliseconds from publish() to the handler, 50 a second
    python -m benchmarks.peers --only FastStream,prefork

One worker process each, with the same window of messages; the queues were filled before. Timed is the span from the
first to the last execution; CPU is that of the worker and its children in it. The median of the rounds counts, and the
ratio of each to FastStream round by round. With --rate the queues are empty, and one process publishes, confirmed, to
an idle worker: timed is from before the call to the handler's first line.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import monotonic, sleep

from .. import bare
from ..databases import Database, Off, databases
from ..progress import say
from ..queues import fill_tasks, of_agents, of_tasks
from ..samples import median, percentile, ratio
from ..servers import Broker, running, stop
from ..tables import table
from ..workers import FLAGS, ROOT, cpu_seconds, megabytes
from ..workload import BROKER, LEDGER, RECORDS, SUBSCRIBERS, Records
from . import bus_app, dramatiq_app, faststream_app, taskiq_app
from .scene import AT_ONCE, WAIT

#: Seconds that one worker gets, and to stop in.
TIMEOUT, GRACE = 60.0, 2.0
#: The first messages at a steady rate, which are not counted.
WARM_UP = 20
BASE = "FastStream"


@dataclass(frozen=True)
class Scene:
    """What is measured.

    Attributes:
        at_once: messages that a worker may have in hand.
        ledger: where this bus's is made.
        wait: seconds that each handler waits.
        most: seconds after which a run that is not at its end is counted as it is.
        rate: events per second that are published to an idle worker; 0 for queues that were filled before.

    """

    subscribers: int
    executions: int
    at_once: int
    wait: float
    ledger: Database
    most: float
    rate: float = 0.0


@dataclass
class Peer:
    """A project: how its queues are filled, how its worker is started, and what came of it.

    Attributes:
        pace: publishes one message to the first queue after each pause; None where that is not measured.
        p50, p99: milliseconds.

    """

    name: str
    fill: Callable[[Broker, Scene], None]
    command: Callable[[Scene], Sequence[str]]
    pace: Callable[[str, int, Iterable[None]], None] | None = None
    p50: list[float] = field(default_factory=list)
    p99: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)


def _python(*command: str) -> list[str]:
    return [sys.executable, "-W", "ignore", "-m", *command]


def _celery(app: str, *pool: str) -> list[str]:
    return _python("celery", "-A", f"benchmarks.{app}", "worker", *FLAGS, *pool)


def _bus(*pool: str) -> list[str]:
    return _celery("peers.bus_app", *pool)


def _fill_bus(broker: Broker, scene: Scene) -> None:
    app = bus_app.build(broker.url, scene.subscribers)
    queues = of_agents(app)
    queues.purge()
    bus_app.fill(broker.url, scene.subscribers, scene.executions)
    queues.wait(scene.executions)


def _fill_bare(broker: Broker, scene: Scene) -> None:
    app = bare.build(broker.url, scene.subscribers)
    queues = of_tasks(app, scene.subscribers)
    queues.purge()
    fill_tasks(app, scene.subscribers, scene.executions)
    queues.wait(scene.executions)


def _others(scene: Scene) -> list[Peer]:
    """Return the other projects, FastStream first."""

    def of(fill: Callable[[str, int, int], None]) -> Callable[[Broker, Scene], None]:
        return lambda broker, scene: fill(broker.url, scene.subscribers, scene.executions)

    number = str(scene.at_once)
    threads = "8" if scene.wait else "1"
    return [
        Peer(
            BASE, of(faststream_app.fill), lambda _: _python("benchmarks.peers.faststream_app"), faststream_app.pace
        ),
        Peer(
            "taskiq", of(taskiq_app.fill),
            lambda scene: _python(
                "taskiq", "worker", "benchmarks.peers.taskiq_app:broker", "--workers", "1", "--max-async-tasks",
                number, "--log-level", "WARNING",
            ),
        ),
        Peer(
            "dramatiq", of(dramatiq_app.fill),
            lambda scene: _python("dramatiq", "benchmarks.peers.dramatiq_app:broker", "-p", "1", "-t", threads),
        ),
    ]  # fmt: skip


def peers(scene: Scene) -> list[Peer]:
    """Return those that take part in a scene."""
    found = _others(scene)
    if scene.wait:
        return [
            *found,
            Peer("this bus, nothing else given", _fill_bus, lambda _: _bus()),
            Peer("this bus, -P solo", _fill_bus, lambda _: _bus("-P", "solo")),
        ]  # fmt: skip
    window = ("--prefetch-multiplier", str(scene.at_once))
    if scene.rate:
        return [
            found[0],
            Peer("this bus, solo", _fill_bus, lambda _: _bus("-P", "solo"), bus_app.pace),
            Peer("this bus, 10 threads", _fill_bus, lambda _: _bus("-P", "threads", "-c", "10"), bus_app.pace),
            Peer("this bus, nothing else given", _fill_bus, lambda _: _bus(), bus_app.pace),
        ]
    return [
        *found,
        Peer("bare Celery, solo", _fill_bare, lambda _: _celery("bare", "-P", "solo", *window)),
        Peer("this bus, solo", _fill_bus, lambda _: _bus("-P", "solo", *window)),
        Peer("bare Celery, 10 threads", _fill_bare, lambda scene: _celery("bare", *_threads(scene))),
        Peer("this bus, 10 threads", _fill_bus, lambda scene: _bus(*_threads(scene))),
        Peer("bare Celery, prefork 2", _fill_bare, lambda scene: _celery("bare", *_prefork(scene))),
        Peer("this bus, prefork 2", _fill_bus, lambda scene: _bus(*_prefork(scene))),
    ]


def _threads(scene: Scene) -> Sequence[str]:
    """Return the flags of a pool of threads with the same window of messages."""
    return "-P", "threads", "-c", "10", "--prefetch-multiplier", str(max(1, scene.at_once // 10))


def _prefork(scene: Scene) -> Sequence[str]:
    """Return the flags of a pool of processes with the same window of messages."""
    return "-P", "prefork", "-c", "2", "--prefetch-multiplier", str(max(1, scene.at_once // 2))


def run(peer: Peer, broker: Broker, scene: Scene) -> None:
    """Fill the queues, let a worker empty them, and note how fast; or publish to an idle one, and note how late."""
    with tempfile.TemporaryDirectory(prefix="bench-peers-") as directory, scene.ledger.address() as ledger:
        place = Path(directory)
        environment = {
            BROKER: broker.url, SUBSCRIBERS: str(scene.subscribers), RECORDS: str(place / "records"),
            AT_ONCE: str(scene.at_once), WAIT: str(scene.wait), "PYTHONPATH": str(ROOT),
            LEDGER: ledger,
        }  # fmt: skip
        os.environ.update({name: environment[name] for name in (LEDGER, WAIT, AT_ONCE)})
        peer.fill(broker, replace(scene, executions=scene.subscribers) if scene.rate else scene)
        records = Records(place / "records")
        with (place / "log").open("wb") as log:
            worker = subprocess.Popen(
                peer.command(scene), env={**os.environ, **environment}, cwd=place, stdin=subprocess.DEVNULL,
                stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        try:
            records.wait(1, TIMEOUT)
            if peer.pace is not None and scene.rate:
                sleep(GRACE)  # so that no start-up is measured
                peer.pace(broker.url, scene.subscribers, _pauses(scene))
                records.wait(scene.executions + 1, TIMEOUT)
            began, cpu = monotonic(), cpu_seconds(worker.pid)
            while records.count() < scene.executions and monotonic() - began < scene.most:
                sleep(0.01)
            cpu = cpu_seconds(worker.pid) - cpu
            peer.memory.append(megabytes(worker.pid))
        except TimeoutError as exc:
            raise SystemExit(f"{peer.name}: {exc}; its log ends: {(place / 'log').read_text()[-2000:]}") from exc
        finally:
            stop(worker, GRACE)
        read = records.read()
    _note(peer, scene, read, cpu)


def _note(peer: Peer, scene: Scene, read: Sequence[tuple[float, float]], cpu: float) -> None:
    """Keep what a run has shown: how late handlers were, or how many a second, each for how much CPU."""
    if scene.rate:
        late = [(executed - sent) * 1000 for sent, executed in read if sent][WARM_UP:]
        peer.p50.append(percentile(late, 50))
        peer.p99.append(percentile(late, 99))
        say(f"{peer.name}: p50 {peer.p50[-1]:.2f} ms, p99 {peer.p99[-1]:.2f} ms")
        return
    times = [executed for _, executed in read]
    peer.rates.append((len(times) - 1) / (times[-1] - times[0] + scene.wait))
    peer.cpu.append(cpu / len(times) * 1e6)
    say(f"{peer.name}: {peer.rates[-1]:,.0f}/s, {peer.cpu[-1]:,.0f} us of CPU each")


def _pauses(scene: Scene) -> Iterator[None]:
    """Wait before each message, so that the rate is steady."""
    began = monotonic()
    for number in range(scene.executions):
        sleep(max(began + number / scene.rate - monotonic(), 0))
        yield


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print a table for each number of subscribers."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__.split("\n\n")[0])
    parser.add_argument("--subscribers", default="1,5,20", help="how many handlers, comma-separated (default 1,5,20)")
    parser.add_argument("--executions", type=int, default=5000, help="of each run (default 5000)")
    parser.add_argument("--at-once", type=int, help="messages in hand (default 100; 500 with --wait)")
    parser.add_argument("--wait", type=float, default=0.0, help="seconds that each handler waits (default 0)")
    parser.add_argument("--rate", type=float, default=0.0, help="events per second, for --executions of them")
    parser.add_argument("--ledger", choices=("off", "sqlite", "postgresql"), default="off", help="of this bus")
    parser.add_argument("--only", default="", help="contenders, by parts of their names, comma-separated")
    parser.add_argument("--repeats", type=int, default=3, help="rounds (default 3)")
    options = parser.parse_args(arguments)
    numbers = [1] if options.wait or options.rate else [int(number) for number in options.subscribers.split(",")]
    wanted = [part.lower() for part in options.only.split(",") if part]
    with running("rabbitmq") as broker, databases() as (found, skipped):
        ledgers: dict[str, Database] = {"off": Off(), **{one.name.lower(): one for one in found}}
        if options.ledger not in ledgers:
            raise SystemExit("; ".join(f"{what}: {why}" for what, why in skipped.items()))
        for number in numbers:
            scene = Scene(
                number, options.executions - options.executions % number,
                options.at_once or (500 if options.wait else 100), options.wait, ledgers[options.ledger], 20.0,
                options.rate,
            )  # fmt: skip
            everybody = [one for one in peers(scene) if not wanted or any(part in one.name.lower() for part in wanted)]
            for _ in range(options.repeats):
                for peer in everybody:
                    run(peer, broker, scene)
            print(f"\n{broker.version}, {number} handlers, {options.ledger} ledger, {scene.at_once} messages in hand\n")
            print(_times(everybody) if scene.rate else _table(everybody))


def _table(everybody: Sequence[Peer]) -> str:
    """Return what was measured, beside the first one."""
    base = everybody[0]
    rows = [
        [
            one.name, f"{median(one.rates):,.0f}", f"{median(one.cpu):,.0f}", f"{median(one.memory):,.0f}",
            str(ratio(one.rates, base.rates)),
        ]
        for one in everybody
    ]  # fmt: skip
    return table(["", "executions/s", "CPU us", "MB", f"of {base.name}'s rate"], rows)


def _times(everybody: Sequence[Peer]) -> str:
    """Return how late handlers were, beside those of the first one."""
    base = everybody[0]
    rows = [
        [
            one.name, f"{median(one.p50):.2f}", f"{median(one.p99):.2f}",
            str(ratio(one.p50, base.p50)), str(ratio(one.p99, base.p99)),
        ]
        for one in everybody
    ]  # fmt: skip
    return table(["", "p50 ms", "p99 ms", f"p50 of {base.name}'s", f"p99 of {base.name}'s"], rows)


if __name__ == "__main__":
    main()
