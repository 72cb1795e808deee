"""Workers: real `celery worker` processes with the same flags for agents and for bare tasks."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
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


def _family(pid: int) -> set[int]:
    """Return a process and its descendants."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):  # it ended meanwhile
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    family = {pid}
    while more := {child for child, parent in parents.items() if parent in family} - family:
        family |= more
    return family


def cpu_seconds(pid: int) -> float:
    """Return the CPU time that a process and its descendants have used, in seconds."""
    ticks = 0
    for member in _family(pid):
        with suppress(OSError):
            fields = Path(f"/proc/{member}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def megabytes(pid: int) -> float:
    """Return the memory of a process and its descendants; what several share counts once (Linux's PSS)."""
    kilobytes = 0
    for member in _family(pid):
        with suppress(OSError):
            lines = Path(f"/proc/{member}/smaps_rollup").read_text().splitlines()
            kilobytes += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return kilobytes / 1024
