"""The demonstrations' workers: processes of our own, which end when we do, however we end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic, sleep
from types import FrameType
from typing import Any, Never

from pipeline import Pipeline, PipelineError

#: Seconds the worker gets to finish what it is doing before it is killed.
GRACE = 5.0
#: Seconds between two looks at what is waited for.
INTERVAL = 0.02
#: Lines, and characters of each, that a failure shows of the worker's log.
TAIL, LONGEST = 20, 160
#: How the names of settings begin.
SETTINGS = ("PIPELINE_", "BRIEFING_", "CREW_", "ORDERS_", "TRADING_")
#: Threads start at once and share an index; mingling would wait a second for neighbours.
OPTIONS = ("--pool=threads", "--without-mingle", "--without-gossip", "--loglevel=INFO")
#: Handlers that a worker runs at once.
THREADS = 4


class DemoFailed(PipelineError):
    """The worker did not start, stopped, or did not answer in time; the message ends with its log."""


class _Terminated(KeyboardInterrupt):
    """SIGTERM has come; not SystemExit, which Python's compiler may drop when that comes while a module is imported."""


class Worker:
    """A `celery worker` process of our own.

    Attributes:
        pid: its process id.

    """

    def __init__(
        self,
        app: Pipeline,
        directory: Path,
        number: int,
        environment: Mapping[str, str],
        module: str = "pipeline",
        threads: int = THREADS,
    ) -> None:
        """Start it.

        Arguments:
            directory: where its log goes.
            number: tells it from the other workers.
            environment: its settings; none are taken over from ours.
            module: where Celery finds its app.
            threads: how many handlers it runs at once.

        """
        self._app = app
        self._name = f"demo-{os.getpid()}-{number}@localhost"
        self._log = directory / f"worker-{number}.log"
        self._is_killed = False
        ours = {name: value for name, value in os.environ.items() if not name.startswith(SETTINGS)}
        command = [sys.executable, "-m", "celery", "--app", module, "worker", "--hostname", self._name]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603  # our own command
                [*command, f"--concurrency={threads}", *OPTIONS],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**ours, **environment},
                start_new_session=True,  # Ctrl-C is for us; we stop the worker in our own order
            )
        self.pid = self._process.pid

    def wait_until_ready(self, deadline: float) -> None:
        """Wait until the worker answers, which it does after it has declared its queues."""
        inspect = self._app.celery.control.inspect(destination=[self._name], timeout=0.5, limit=1)
        while not inspect.ping():
            self.check()
            if monotonic() > deadline:
                raise DemoFailed(f"the worker did not become ready in time; try a larger --timeout.{self.tail()}")

    def check(self) -> None:
        """Raise DemoFailed when the worker has stopped by itself."""
        code = self._process.poll()
        if code is not None and not self._is_killed:
            raise DemoFailed(f"the worker stopped with exit code {code}.{self.tail()}")

    def tail(self) -> str:
        """Return where the log lies and its last lines, to end an error message with."""
        with suppress(OSError):
            lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()[-TAIL:]
            return "\n".join([f" The end of {self._log}:", *(f"  {line[:LONGEST]}" for line in lines)])
        return ""

    def kill(self) -> None:
        """Kill it as a power cut would (SIGKILL), in the middle of whatever it does."""
        self._is_killed = True
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()

    def stop(self) -> None:
        """Let it finish what it is doing, then kill it and whatever it started."""
        self._process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(GRACE)
        self.kill()


@contextmanager
def running(
    app: Pipeline,
    directory: Path,
    number: int,
    environment: Mapping[str, str],
    module: str = "pipeline",
    threads: int = THREADS,
) -> Iterator[list[Worker]]:
    """Run workers, and stop them whatever happens; what ends this process, a signal too, kills them first.

    Yields them; start() adds another one.
    """
    workers: list[Worker] = []
    try:
        with _signals(_terminated, signal.SIGTERM):
            for _ in range(number):
                start(workers, app, directory, environment, module, threads)
            yield workers
            for worker in workers:
                worker.stop()
    except _Terminated:
        raise SystemExit(128 + signal.SIGTERM) from None
    finally:
        with _signals_held():
            for worker in workers:
                worker.kill()
            app.close()


def start(
    workers: list[Worker],
    app: Pipeline,
    directory: Path,
    environment: Mapping[str, str],
    module: str = "pipeline",
    threads: int = THREADS,
) -> Worker:
    """Start one more among those that run, so that it ends with them; return it."""
    with _signals_held():
        workers.append(Worker(app, directory, len(workers) + 1, environment, module, threads))
    return workers[-1]


def until(
    condition: Callable[[], bool],
    what: str,
    workers: Sequence[Worker],
    deadline: float,
    still_open: Callable[[], str | None],
) -> None:
    """Wait for something; raise DemoFailed when a worker has stopped, or when it takes too long.

    Arguments:
        deadline: monotonic time.
        still_open: says what is not done yet.

    """
    while not condition():
        for worker in workers:
            worker.check()
        if monotonic() > deadline:
            late = f"out of time, waiting for {what}: {still_open()}; try a larger --timeout"
            raise DemoFailed(f"{late}.{workers[-1].tail()}")
        sleep(INTERVAL)


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
    raise _Terminated
