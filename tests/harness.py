"""Real workers for the tests, and a journal of what their agents did."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kombu import Connection, Queue

from pipeline import Pipeline
from tests.nursery import FORKED, NURSERY, Child, start_anew
from tests.servers import Server, wait_for

#: The environment of workers on Redis that get a dead worker's events within seconds.
SOON = {"PIPELINE_REDIS_VISIBILITY_TIMEOUT": "2"}

APPS = Path(__file__).parent / "apps"

#: `celery inspect ping`, to be followed by a worker's name: it returns when that one has answered.
PING = ("inspect", "--timeout", "60", "ping", "-d")


@dataclass
class Broker:
    """A broker under test: where it is, and the server behind it if there is one."""

    name: str
    url: str
    directory: Path
    server: Server | None = None
    #: The ledger's address; None for the default in the state directory, empty for none.
    ledger: str | None = None
    #: Whether somebody hears of the tasks of its workers, so that no delivery goes the short way.
    watched: bool = False

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
        if self.watched:
            own["TASKS_WATCHED"] = "1"
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

    def wait(self, number: int, seconds: float = 60.0, **like: Any) -> list[dict[str, Any]]:
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
    process: Child | subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> Path:
        """The worker's output."""
        return self.broker.directory / f"{self.name}.log"

    def start(self, *, wait: bool = True) -> Worker:
        """Start the worker, and with `wait` return when it is ready."""
        arguments = [
            "-A", self.app, "worker", "-P", self.pool, "-c", str(self.concurrency), "-n", f"{self.name}@test",
            "-l", "INFO", *self.options,
        ]  # fmt: skip
        start = NURSERY.start if self.pool in FORKED else start_anew
        self.process = start(arguments, self.broker.environment(**self.environment), self.broker.directory, self.log)
        if wait:
            wait_for(self._ready_or_dead, f"worker {self.name} to be ready", 90)
            assert self.process.poll() is None, self.output()
        return self

    def _ready_or_dead(self) -> bool:
        assert self.process is not None
        return f"{self.name}@test ready." in self.output() or self.process.poll() is not None

    def output(self) -> str:
        """Return the log so far."""
        return self.log.read_text(errors="replace")

    def is_running(self) -> bool:
        """Say whether the process has not ended."""
        return self.process is not None and self.process.poll() is None

    def kill(self) -> None:
        """End the worker and its pool processes at once, as `kill -9` does."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """Ask the worker to finish what it has and end."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                self.kill()

    def _end(self, number: int) -> None:
        assert self.process is not None
        if self.process.poll() is None:
            os.killpg(self.process.pid, number)
            self.process.wait(timeout=20)


StartWorker = Callable[..., Worker]


def run(
    command: list[str], broker: Broker, *, seconds: float = 60, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a command of the product against a broker and return its end."""
    return subprocess.run(
        command, env=broker.environment(**environment), cwd=broker.directory, capture_output=True, text=True,
        timeout=seconds, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip


def dead_letters(bus: Pipeline, agent: str) -> list[str]:
    """Return the events set aside for an agent, leaving them where they are."""
    if bus.has_ledger:
        return [letter.event.encode().decode() for letter in bus.dead_letters.list(agent=agent)]
    found = []
    with bus.celery.connection_for_read() as connection:
        queue = Queue(f"agent.{agent}.dead", no_declare=True)(connection.default_channel)
        while message := queue.get():
            found.append(message)
        for message in found:
            message.requeue()
    return [body if isinstance(body, str) else bytes(body).decode() for body in (message.body for message in found)]


def backlog(bus: Pipeline, queue: str) -> int:
    """Return how many messages wait in a queue."""
    with bus.celery.connection_for_read() as connection:
        try:
            return int(connection.default_channel.queue_declare(queue, passive=True).message_count)
        except connection.channel_errors:
            return 0  # in Redis an empty queue does not exist


def delete_queues(broker: Broker, queues: Iterable[str], namespace: str = "") -> None:
    """Delete queues of a RabbitMQ with their dead letters, and the bus's exchanges."""
    prefix = f"{namespace}." if namespace else ""
    with Connection(broker.url) as connection:
        channel = connection.channel()
        for queue in queues:
            channel.queue_delete(queue)
            channel.queue_delete(queue + ".dead")
        for exchange in ("events", "events.unrouted", "agents", "agents.dead"):
            channel.exchange_delete(prefix + exchange)


def flush(broker: Broker) -> None:
    """Delete everything that a Redis holds."""
    from redis import Redis

    with Redis.from_url(broker.url) as client:
        client.flushall()


def revoke(bus: Pipeline, id: str | list[str], worker: str = "w1") -> None:
    """Revoke a task, or several, and return when the worker knows.

    On Redis a worker says that it is ready before it has subscribed to what is said to all: that may pass it by.
    """

    def knows() -> object:
        return bus.celery.control.revoke(id, destination=[f"{worker}@test"], reply=True, timeout=2)

    wait_for(knows, f"the answer of worker {worker}")


def declared(worker: StartWorker) -> None:
    """Let a worker declare the agents' queues, and leave."""
    worker(name="declarer").stop()


#: Publishes until a file may not grow any more, and once again when it may.
FILL_DISK = """
import resource, signal, sys
from pipeline import Pipeline
from pipeline.core import errors
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a file at its size limit fails like a file on a full disk
app = Pipeline("web", publish_timeout=3, ledger_timeout=3)
app.publish("order.placed", {"n": 0})
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
accepted = 0
try:
    while True:
        app.publish("order.placed", "x" * 50_000)
        accepted += 1
except getattr(errors, sys.argv[1]) as exc:
    print(accepted, exc)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
app.publish("order.placed", {"n": 1}, timeout=5)
app.close()
"""


def fill_disk(broker: Broker, error: str, size: int) -> int:
    """Publish until a file has `size` bytes and the error comes, and once more; return how many were accepted between.

    One is published before them, and one after them, when there is room again.
    """
    done = run([sys.executable, "-c", FILL_DISK, error, str(size)], broker)
    assert done.returncode == 0, done.stderr
    accepted, _, message = done.stdout.partition(" ")
    assert "cannot grow" in message
    assert "free space" in message
    return int(accepted)
