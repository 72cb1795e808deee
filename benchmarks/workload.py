"""What is published and executed: the same data for agents and bare tasks, and a record of each execution."""

from __future__ import annotations

import os
import struct
from functools import lru_cache
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from pipeline import Payload

#: The environment variables with which a worker of the benchmark is configured.
BROKER, SUBSCRIBERS, RECORDS = "BENCH_BROKER", "BENCH_SUBSCRIBERS", "BENCH_RECORDS"
#: The ledger's address; without it there is none.
LEDGER = "BENCH_LEDGER"

_RECORD = struct.Struct("<dd")


class Work(Payload, type="bench.work"):
    """The event's payload; `sent` is the publisher's monotonic clock."""

    sent: float
    user_id: str
    query: str


def data(sent: float = 0.0) -> dict[str, Any]:
    """Return the same payload as plain data."""
    return {"sent": sent, "user_id": "user-4711", "query": "What do the sources say about event-driven agents?"}


def done(sent: float) -> None:
    """Note one execution: a single append of 16 bytes, which is atomic between processes and threads."""
    os.write(_records(), _RECORD.pack(sent, monotonic()))


@lru_cache(maxsize=1)
def _records() -> int:
    return os.open(os.environ[RECORDS], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


class Records:
    """The file in which a worker's handlers note their executions."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.path.write_bytes(b"")

    def count(self) -> int:
        """Return how many executions there were."""
        return self.path.stat().st_size // _RECORD.size

    def wait(self, count: int, timeout: float, interval: float = 0.01) -> None:
        """Wait until there were `count` executions; raise TimeoutError after `timeout` seconds."""
        deadline = monotonic() + timeout
        while self.count() < count:
            if monotonic() > deadline:
                raise TimeoutError(f"{self.count()} of {count} executions within {timeout:g} s")
            sleep(interval)

    def read(self) -> list[tuple[float, float]]:
        """Return (sent, executed) of every execution, in the order of execution."""
        return sorted(_RECORD.iter_unpack(self.path.read_bytes()), key=lambda record: record[1])
