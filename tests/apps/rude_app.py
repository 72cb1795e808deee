"""Agents that do to their process what no handler should, and one that is called afterwards."""

from __future__ import annotations

import asyncio
import locale
import logging
import os
import signal
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path

from pipeline import Event, Pipeline

app = Pipeline("rude")


def to_self(number: int) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), number)


def removed_directory() -> None:
    directory = Path(tempfile.mkdtemp())
    directory.chmod(0o700)  # another handler of the process may have set its umask
    os.chdir(directory)
    directory.rmdir()


def alarm() -> None:
    signal.setitimer(signal.ITIMER_REAL, 0.01)
    time.sleep(0.1)


def forked() -> None:
    if os.fork() == 0:
        os._exit(0)


def left_threads() -> None:
    for _ in range(20):
        threading.Thread(target=time.sleep, args=(3600,), daemon=True).start()


def without_streams() -> None:
    sys.stdout = sys.stderr = sys.__stdout__ = sys.__stderr__ = None


#: What leaves the process able to go on.
HARMLESS: dict[str, Callable[[], object]] = {
    "another directory": lambda: os.chdir("/"),
    "a removed directory": removed_directory,
    "no files": lambda: os.umask(0o777),
    "no environment": os.environ.clear,
    "no streams": without_streams,
    "a hook that fails": lambda: setattr(sys, "excepthook", lambda *_: 1 / 0),
    "no path": sys.path.clear,
    "another locale": lambda: locale.setlocale(locale.LC_ALL, "C"),
    "a fork": forked,
    "a fork that comes back": os.fork,
    "threads": left_threads,
    "a policy": lambda: asyncio.set_event_loop_policy(asyncio.DefaultEventLoopPolicy()),
    "errors for warnings": lambda: warnings.simplefilter("error"),
    "no logging": lambda: logging.disable(logging.CRITICAL),
    "deep calls": lambda: sys.setrecursionlimit(100_000),
    "SIGTERM ignored": lambda: signal.signal(signal.SIGTERM, signal.SIG_IGN),
    "SIGCHLD ignored": lambda: signal.signal(signal.SIGCHLD, signal.SIG_IGN),
    "SIGINT as usual": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
}
#: What the process does not outlive, or cannot work after.
DEADLY: dict[str, Callable[[], object]] = {
    "closed descriptors": lambda: os.closerange(3, 4096),
    "an alarm": alarm,
    "exit": lambda: os._exit(0),
    "SIGKILL": to_self(signal.SIGKILL),
    "SIGSEGV": to_self(signal.SIGSEGV),
    "SIGTERM": to_self(signal.SIGTERM),
}
RUDE = {**HARMLESS, **DEADLY}


@app.agent(on="rude.#", retry=0)
def rude(event: Event) -> None:
    RUDE[event.data]()


@app.agent(on="polite.#")
async def polite(event: Event) -> None:
    await asyncio.sleep(0)
