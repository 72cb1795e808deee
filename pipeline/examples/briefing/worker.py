"""The demonstration's worker: a process of our own, which ends when we do, however we end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic
from types import FrameType
from typing import Any, Never

from pipeline import Pipeline, PipelineError

#: Seconds the worker gets to finish what it is doing before it is killed.
GRACE = 5.0
#: Lines, and characters of each, that a failure shows of the worker's log.
TAIL, LONGEST = 20, 160


class DemoFailed(PipelineError):
    """The worker did not start, stopped, or did not answer in time; the message ends with its log."""


class Worker:
    """A `celery worker` process of our own."""

    def __init__(self, app: Pipeline, directory: Path) -> None:
        self._app = app
        self._name = f"demo-{os.getpid()}@localhost"
        self._log = directory / "worker.log"
        command = [sys.executable, "-m", "celery", "--app", "pipeline", "worker", "--hostname", self._name]
        # Threads start at once and share an index; mingling would wait a second for neighbours.
        options = [
            "--pool",
            "threads",
            "--concurrency",
            "4",
            "--without-mingle",
            "--without-gossip",
            "--loglevel",
            "INFO",
        ]
        environment = {
            **os.environ,
            "PIPELINE_DIRECTORY": str(directory),
            "PIPELINE_AGENTS": '["pipeline.examples.briefing.agents"]',
            "BRIEFING_STATE": str(directory / "briefing"),
        }
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603  # our own command
                [*command, *options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,  # Ctrl-C is for us; we stop the worker in our own order
            )

    def wait_until_ready(self, deadline: float) -> None:
        """Wait until the worker answers, which it does after it has declared its queues."""
        inspect = self._app.celery.control.inspect(destination=[self._name], timeout=0.5, limit=1)
        while not inspect.ping():
            self.check()
            if monotonic() > deadline:
                raise DemoFailed(f"the worker did not become ready in time; {self.hint()}.{self.tail()}")

    def check(self) -> None:
        """Raise DemoFailed when the worker has stopped."""
        code = self._process.poll()
        if code is not None:
            raise DemoFailed(f"the worker stopped with exit code {code}.{self.tail()}")

    def hint(self) -> str:
        """Return what may help when answers do not come in time."""
        others = self._app.settings.broker_url and "stop other workers on this broker, which may have taken them, or "
        return f"{others}try a larger --timeout"

    def tail(self) -> str:
        """Return where the log lies and its last lines, to end an error message with."""
        with suppress(OSError):
            lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()[-TAIL:]
            return "\n".join([f" The end of {self._log}:", *(f"  {line[:LONGEST]}" for line in lines)])
        return ""

    def stop(self) -> None:
        """Let the worker finish, then kill it and whatever it started."""
        self._process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(GRACE)
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


@contextmanager
def running(app: Pipeline, directory: Path) -> Iterator[Worker]:
    """Run a worker, and stop it whatever happens; a signal that ends this process ends the worker first."""
    worker = None
    try:
        with _signals(_terminated, signal.SIGTERM):
            with _signals_held():
                worker = Worker(app, directory)
            yield worker
    finally:
        with _signals_held():
            if worker is not None:
                worker.stop()
            app.close()


# -- signals


@contextmanager
def _signals_held() -> Iterator[None]:
    """Let nothing interrupt the block: a process that was just started has to be known before we may end."""
    caught: list[int] = []
    with _signals(lambda number, _: caught.append(number), signal.SIGINT, signal.SIGTERM):
        yield
    for number in caught[:1]:
        signal.raise_signal(number)


@contextmanager
def _signals(handler: Callable[[int, FrameType | None], Any], *numbers: int) -> Iterator[None]:
    """Handle signals during the block; outside the main thread, where nobody can, do nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def _terminated(number: int, frame: FrameType | None) -> Never:
    raise SystemExit(128 + number)
