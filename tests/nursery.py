"""Workers that start quickly: one process has imported what every worker imports, and each worker is a fork of it.

It saves a second of CPU for each of the thousand workers of a run, and nothing else: what is forked has neither
application nor connection nor thread, runs `python -m celery` in a session of its own, and ends as any process does.
The commands of the documentation are started from nothing, in tests/acceptance and tests/unit/test_docs.py.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import runpy
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

#: What a worker has imported when it is ready; the rest of it comes with these.
PRELOADED = (
    "celery.bin.celery", "celery.apps.worker", "celery.worker.worker", "celery.worker.consumer",
    "celery.worker.components", "celery.worker.strategy", "celery.worker.autoscale", "celery.app.amqp",
    "celery.app.control", "celery.app.events", "celery.app.log", "celery.app.routes", "celery.fixups.django",
    "celery.concurrency.solo", "celery.concurrency.prefork", "celery.concurrency.thread", "celery.backends.database",
    "kombu.transport.pyamqp", "kombu.transport.redis", "kombu.transport.sqlalchemy", "kombu.pidbox",
    "alembic.command", "psycopg", "sqlalchemy.dialects.sqlite", "sqlalchemy.dialects.postgresql", "pipeline.app.app",
    "pipeline.coordination.flows.join", "pipeline.brokers.embedded.transport", "pipeline.brokers.embedded.results",
    "pipeline.ledger.ledger", "pipeline.ledger.database.migrate", "pipeline.delivery.consumer",
    "pipeline.workers.step", "pipeline.workers.sweeper", "pipeline.delivery.lane.step", "pipeline.delivery.short.way",
)  # fmt: skip
#: The pools of workers that are forked; others patch Python first, or read the environment while they are imported.
FORKED = ("prefork", "solo", "threads")
CELERY = [sys.executable, "-m", "celery"]


def start_anew(
    arguments: list[str], environment: Mapping[str, str], directory: Path, log: Path
) -> subprocess.Popen[bytes]:
    """Start `python -m celery` with some arguments from nothing; its output is appended to a file."""
    with log.open("ab") as output:
        return subprocess.Popen(
            [*CELERY, *arguments], env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            start_new_session=True, cwd=directory,
        )  # fmt: skip


class Child:
    """A worker's process, to be used as a `subprocess.Popen`."""

    def __init__(self, nursery: Nursery, pid: int) -> None:
        self._nursery = nursery
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Return how it has ended, or None."""
        if self.returncode is None:
            self.returncode = self._nursery.ask(poll=self.pid)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Return how it has ended, when it has; raise TimeoutExpired after `timeout` seconds."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            if deadline is not None and time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(CELERY, timeout or 0)
            time.sleep(0.01)
        return code

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)


class Nursery:
    """The process that the workers are forked of; made when the first one is wanted, ended with this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None

    @property
    def pid(self) -> int | None:
        """The process, when there is one."""
        return None if self._process is None else self._process.pid

    def start(self, arguments: list[str], environment: Mapping[str, str], directory: Path, log: Path) -> Child:
        """Start `python -m celery` with some arguments; its output is appended to a file."""
        pid = self.ask(start=[arguments, dict(environment), str(directory), str(log)])
        return Child(self, pid)

    def ask(self, **question: Any) -> Any:
        """Return the answer to a question."""
        with self._lock:
            if self._process is None:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", __name__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                    start_new_session=True, cwd=Path(__file__).parents[1],
                )  # fmt: skip
                atexit.register(self._process.terminate)
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        assert answer, "the process that starts workers has ended; what it said last stands above"
        return json.loads(answer)


NURSERY = Nursery()


def serve() -> list[str] | None:
    """Answer until nobody asks any more: then None; in a new worker return its arguments."""
    ended: dict[int, int] = {}
    for line in sys.stdin:
        question = json.loads(line)
        if "start" in question:
            pid = os.fork()
            if pid == 0:
                arguments, *about = question["start"]
                become(*about)
                return arguments  # type: ignore[no-any-return]
            ended.pop(pid, None)  # another one's, which nobody has asked for
        else:
            ended.update(reaped())
            answer(ended.pop(question["poll"], None))
    return None


def reaped() -> Iterator[tuple[int, int]]:
    """Yield the processes that have ended, and how."""
    with suppress(ChildProcessError):  # there are no others
        while (found := os.waitpid(-1, os.WNOHANG))[0]:
            yield found[0], os.waitstatus_to_exitcode(found[1])


def answer(value: int | None) -> None:
    """Tell who has asked."""
    sys.stdout.write(f"{json.dumps(value)}\n")
    sys.stdout.flush()


def become(environment: dict[str, str], directory: str, log: str) -> None:
    """Give this process what `subprocess.Popen` and the interpreter's start would have given it."""
    os.setsid()
    os.chdir(directory)
    os.environ.clear()
    os.environ.update(environment)
    time.tzset()
    Path(log).touch()
    answer(os.getpid())  # now that it can be signalled and read
    for number, path, mode in (
        (0, os.devnull, os.O_RDONLY), (1, log, os.O_WRONLY | os.O_APPEND), (2, log, os.O_WRONLY | os.O_APPEND)
    ):  # fmt: skip
        opened = os.open(path, mode)
        os.dup2(opened, number)
        os.close(opened)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115 - the one before has read on
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(write_through=True)  # type: ignore[attr-defined, union-attr]
    sys.path[:1] = [directory, *environment.get("PYTHONPATH", "").split(os.pathsep)]


def main() -> None:
    """Import, wait and fork."""
    for name in PRELOADED:
        importlib.import_module(name)
    # What is shared stays so: a collection would write to, and so copy, all of it, which takes longer than a start.
    gc.freeze()
    arguments = serve()
    if arguments is not None:
        sys.argv[1:] = arguments
        runpy.run_module("celery", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
