"""The processes that a test has started."""

from __future__ import annotations

import contextlib
from pathlib import Path

import psutil

from tests.nursery import NURSERY


def children() -> set[int]:
    """Return the processes that this one has started and not waited for; none where the kernel does not list them.

    Workers are forked of a process that is there for that alone.
    """
    nursery = NURSERY.pid
    return _of("self") if nursery is None else (_of("self") | _of(nursery)) - {nursery}


def _of(parent: str | int) -> set[int]:
    found: set[int] = set()
    for thread in Path(f"/proc/{parent}/task").glob("*/children"):
        with contextlib.suppress(OSError):  # the thread has ended
            found.update(map(int, thread.read_text().split()))
    return found


def end_processes(pids: set[int]) -> list[str]:
    """Kill processes with all that they have started, and return the commands of those that were still running."""
    left = []
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            command = " ".join(process.cmdline())
            # Python itself starts that one, once.
            if process.status() == psutil.STATUS_ZOMBIE or "multiprocessing.resource_tracker" in command:
                continue
            left.append(command)
            for one in (*process.children(recursive=True), process):
                with contextlib.suppress(psutil.NoSuchProcess):
                    one.kill()
    return left
