"""Real workers for the tests, and a journal of what their agents did."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.servers import Server, wait_for

#: The environment of workers on Redis that get a dead worker's events within seconds.
SOON = {"PIPELINE_REDIS_VISIBILITY_TIMEOUT": "2"}

APPS = Path(__file__).parent / "apps"


@dataclass
class Broker:
    """A broker under test: where it is, and the server behind it if there is one."""

    name: str
    url: str
    directory: Path
    server: Server | None = None
    #: The ledger's address; None for the default in the state directory, empty for none.
    ledger: str | None = None

    @property
    def journal(self) -> Journal:
        """What the agents of this test wrote down."""
        return Journal(self.directory / "journal.jsonl")

    def environment(self, **more: str) -> dict[str, str]:
        """Return the environment in which a process uses this broker."""
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("PIPELINE_", "CELERY_"))}
        own = {
            "PIPELINE_BROKER_URL": self.url,
            "PIPELINE_DIRECTORY": str(self.directory / "state"),
            # Longer than Celery takes to notice a dead pool process; tests of killed workers pass SOON.
            "PIPELINE_REDIS_VISIBILITY_TIMEOUT": "60",
            "JOURNAL": str(self.journal.path),
            "PYTHONPATH": str(APPS),
            "PYTHONUNBUFFERED": "1",
        }
        if self.ledger is not None:
            own["PIPELINE_LEDGER_URL"] = self.ledger
        return {**clean, **own, **more}


@dataclass
class Journal:
    """Lines that agents append, one for each attempt."""

    path: Path

    def lines(self, **like: Any) -> list[dict[str, Any]]:
        """Return the entries whose fields equal `like`."""
        try:
            text = self.path.read_text()
        except FileNotFoundError:
            return []
        # A reader may see a line half written; it is there at the next look.
        found = [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
        return [line for line in found if all(line.get(name) == value for name, value in like.items())]

    def count(self, **like: Any) -> Counter[str]:
        """Return how often each event id occurs in the entries like that."""
        return Counter(line["id"] for line in self.lines(**like))

    def wait(self, number: int, seconds: float = 30.0, **like: Any) -> list[dict[str, Any]]:
        """Wait until `number` entries like that are there, and return them."""
        wait_for(lambda: len(self.lines(**like)) >= number, f"{number} entries like {like}", seconds)
        return self.lines(**like)


@dataclass
class Worker:
    """A `celery worker` process, in a process group of its own."""

    broker: Broker
    app: str = "contract_app"
    pool: str = "solo"
    concurrency: int = 2
    name: str = "w1"
    options: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> Path:
        """The worker's output."""
        return self.broker.directory / f"{self.name}.log"

    def start(self, *, wait: bool = True) -> Worker:
        """Start the worker, and with `wait` return when it is ready."""
        command = [
            sys.executable, "-W", "ignore::celery.platforms.SecurityWarning", "-m", "celery", "-A", self.app, "worker",
            "-P", self.pool, "-c", str(self.concurrency), "-n", f"{self.name}@test", "-l", "INFO", *self.options,
        ]  # fmt: skip
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, env=self.broker.environment(**self.environment), stdout=log, stderr=log,
                stdin=subprocess.DEVNULL, start_new_session=True, cwd=self.broker.directory,
            )  # fmt: skip
        if wait:
            wait_for(self._ready_or_dead, f"worker {self.name} to be ready", 40)
            assert self.process.poll() is None, self.output()
        return self

    def _ready_or_dead(self) -> bool:
        assert self.process is not None
        return f"{self.name}@test ready." in self.output() or self.process.poll() is not None

    def output(self) -> str:
        """Return the log so far."""
        return self.log.read_text(errors="replace")

    def kill(self) -> None:
        """End the worker and its pool processes at once, as `kill -9` does."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """Ask the worker to finish what it has and end."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                self.kill()

    def _end(self, number: int) -> None:
        assert self.process is not None
        if self.process.poll() is None:
            os.killpg(self.process.pid, number)
            self.process.wait(timeout=20)


def run(
    command: list[str], broker: Broker, *, seconds: float = 60, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a command of the product against a broker and return its end."""
    return subprocess.run(
        command, env=broker.environment(**environment), cwd=broker.directory, capture_output=True, text=True,
        timeout=seconds, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
