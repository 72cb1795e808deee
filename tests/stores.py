"""Stores of the embedded broker: what tests put into one and find in it, and processes that use it."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from pipeline.brokers.embedded.store import Outgoing, Store


def message(key: str, body: bytes = b"x", priority: int = 0, exchange: str = "") -> Outgoing:
    return Outgoing(exchange, key, priority, b"{}", body)


def bodies(store: Store, queue: str, limit: int = 1000) -> list[bytes]:
    return [claimed.body for claimed in store.claim([queue], limit)]


def rows(store: Store) -> int:
    count: int = store._database.read("SELECT count(*) FROM messages")[0][0]
    return count


def run(path: Path, code: str, **options: Any) -> subprocess.Popen[str]:
    """Start a process that runs `code` with a store `s` on the file."""
    program = (
        "import os, signal, sys\nfrom pathlib import Path\n"
        "from pipeline.brokers.embedded.store import Outgoing, Store\n"
        f"s = Store(Path(sys.argv[1]))\n{code}"
    )
    return subprocess.Popen([sys.executable, "-c", program, str(path)], text=True, **options)


def run_and_kill(path: Path, code: str) -> None:
    """Run `code` in a process of its own and kill it there with SIGKILL."""
    process = run(path, f"{code}\nos.kill(os.getpid(), signal.SIGKILL)")
    assert process.wait(30) == -signal.SIGKILL
