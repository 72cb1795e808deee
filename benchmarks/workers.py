"""Workers: real `celery worker` processes with the same flags for agents and for bare tasks."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .servers import Broker, stop
from .workload import BROKER, LEDGER, RECORDS, SUBSCRIBERS

#: The pool's size: processes or threads; solo has one.
CONCURRENCY = 2
#: Seconds to stop in; without heartbeats a worker may sleep 10 s in its poll before it looks at a signal.
GRACE = 1.0
FLAGS = ("-l", "WARNING", "--without-gossip", "--without-mingle", "--without-heartbeat")
ROOT = Path(__file__).resolve().parent.parent


@contextmanager
def worker(
    module: str, broker: Broker, pool: str, subscribers: int, records: Path, ledger_url: str = "", **more: str
) -> Iterator[subprocess.Popen[bytes]]:
    """Run `celery -A benchmarks.<module> worker` for a while; `more` is for its environment."""
    concurrency = "1" if pool == "solo" else str(CONCURRENCY)
    command = [sys.executable, "-m", "celery", "-A", f"benchmarks.{module}", "worker"]
    log = broker.directory / "worker.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, *FLAGS, "-P", pool, "-c", concurrency, "-n", f"{module}@bench"],
            env={**os.environ, "PYTHONPATH": str(ROOT), BROKER: broker.url, SUBSCRIBERS: str(subscribers),
                 RECORDS: str(records), LEDGER: ledger_url, **more},
            cwd=broker.directory,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
    try:
        yield process
    except TimeoutError as exc:
        raise TimeoutError(f"{exc}; the worker's log ends: {log.read_text(errors='replace')[-2000:]}") from exc
    finally:
        stop(process, GRACE)


def cpu_seconds(pid: int) -> float:
    """Return the CPU time that a process and its descendants have used, in seconds."""
    parents: dict[int, int] = {}
    ticks: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:  # it ended meanwhile
            continue
        parents[int(entry.name)] = int(fields[1])
        ticks[int(entry.name)] = int(fields[11]) + int(fields[12])
    family = {pid}
    while more := {child for child, parent in parents.items() if parent in family} - family:
        family |= more
    return sum(ticks.get(member, 0) for member in family) / os.sysconf("SC_CLK_TCK")
