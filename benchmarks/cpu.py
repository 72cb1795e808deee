"""Microseconds of CPU per publish and per delivery, of this checkout alone or against another one's, in turns.

    python -m benchmarks.cpu
    python -m benchmarks.cpu --against ../before/.venv/bin/python

A process of its own for each measurement, on the embedded broker: it runs a solo worker that ends with the last event,
so everything is in its CPU time but the sleeping. Against another Python (with another version installed) the ratio is
that of each pair of neighbours; the median counts, as machines are noisy.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from pipeline import Payload, Pipeline

#: What is measured: whether publishing or delivering, whether the handler emits, and the ledger.
KINDS = ("publish off", "publish sqlite", "deliver off", "deliver sqlite", "emit sqlite")
#: Seconds for one measurement.
TIMEOUT = 120.0


class Asked(Payload, type="cpu.asked"):
    """What is published."""

    n: int
    text: str = "x" * 100


class Answered(Payload, type="cpu.answered"):
    """What a handler emits."""

    n: int


def measure(kind: str, count: int) -> float:
    """Return the microseconds of CPU that one of `count` takes."""
    from pipeline import Payload

    what, ledger = kind.split()
    place = Path.cwd()

    class Asked(Payload, type="cpu.asked"):
        n: int
        text: str = "x" * 100

    class Answered(Payload, type="cpu.answered"):
        n: int

    app = Pipeline(
        "cpu", directory=place, broker_url="", ledger_url=f"sqlite:///{place}/l.db" if ledger != "off" else ""
    )
    app.celery.conf.update(worker_redirect_stdouts=False, worker_prefetch_multiplier=50)
    left = [1]

    @app.agent(on=Asked)
    def answer(asked: Asked) -> Answered | None:
        left[0] -= 1
        if not left[0]:
            _stop()
        return Answered(n=asked.n) if what == "emit" else None

    @app.agent(on=Answered)
    def listen(answered: Answered) -> None: ...

    with app.celery.connection_for_write() as connection:
        for queue in app.celery.amqp.queues.consume_from.values():
            queue(connection.default_channel).declare()
    app.publish(Asked(n=0))
    _work(app)  # a worker that has been here has told the ledger who listens
    left[0] = count
    if what == "publish":
        return _taken(lambda: [app.publish(Asked(n=n)) for n in range(count)]) / count
    app.publish_many([Asked(n=n) for n in range(count)])
    return _taken(lambda: _work(app)) / count


def _work(app: Any) -> None:
    from celery.worker import state

    state.should_stop = None
    worker = app.celery.Worker(
        app=app.celery, pool="solo", concurrency=1, hostname="cpu@localhost", loglevel="CRITICAL", quiet=True,
        logfile=os.devnull, without_mingle=True, without_gossip=True, without_heartbeat=True,
    )  # fmt: skip
    with contextlib.suppress(SystemExit):
        worker.start()


def _stop() -> None:
    from celery.worker import state

    state.should_stop = 0


def _taken(work: Callable[[], Any]) -> float:
    before = resource.getrusage(resource.RUSAGE_SELF)
    work()
    after = resource.getrusage(resource.RUSAGE_SELF)
    return (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) * 1e6


def measured_by(python: str, kind: str, count: int) -> float:
    """Return what a process of that Python measures."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PIPELINE_", "PYTHON"))}
    with tempfile.TemporaryDirectory(prefix="cpu-") as directory:
        done = subprocess.run(
            [python, "-P", "-W", "ignore", __file__, "--child", kind, "--count", str(count)],
            cwd=directory, env=environment, capture_output=True, text=True, timeout=TIMEOUT, check=False,
        )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"{python} could not measure {kind!r}:\n{done.stderr}")
    return float(done.stdout)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cpu", description=str(__doc__).split("\n", 1)[0])
    parser.add_argument("--count", type=int, default=2000, help="events of each measurement (default 2000)")
    parser.add_argument("--repeats", type=int, default=5, help="measurements of each kind (default 5)")
    parser.add_argument("--against", metavar="PYTHON", help="the Python of another installation to compare with")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child:
        print(measure(options.child, options.count), flush=True)
        os._exit(0)
    for kind in KINDS:
        mine, theirs = [], []
        for _ in range(options.repeats):
            mine.append(measured_by(sys.executable, kind, options.count))
            if options.against:
                theirs.append(measured_by(options.against, kind, options.count))
        compared = ""
        if theirs:
            ratios = [one / other for one, other in zip(mine, theirs, strict=True)]
            compared = (
                f"   against {median(theirs):7.1f}   ratio {median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
            )
        print(f"{kind:<16}{median(mine):7.1f} us{compared}", flush=True)


if __name__ == "__main__":
    main()
