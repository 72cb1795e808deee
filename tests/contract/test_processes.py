"""Workers and their processes are told apart, however they were started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline import Pipeline
from pipeline.ledger.workers import is_gone, process_number
from pipeline.workers.step import SweeperStep
from tests.nursery import start_anew
from tests.servers import wait_for

on_linux = pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="tells nothing of a process's start")


@contextmanager
def sleeping() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", "import time; print(flush=True); time.sleep(600)"], stdout=-1) as one:
        assert one.stdout is not None
        one.stdout.readline()
        yield one
        one.kill()


def test_a_process_that_lives_is_not_gone_and_one_that_has_ended_is() -> None:
    assert not is_gone(process_number(os.getpid()))
    assert not is_gone(None)
    with sleeping() as one:
        number = process_number(one.pid)
        assert not is_gone(number)
    assert is_gone(number)


@on_linux
def test_a_process_is_not_taken_for_an_older_one_of_the_same_id() -> None:
    older = process_number(os.getpid()) - (1 << 32)
    assert older & 0xFFFFFFFF == os.getpid()
    assert is_gone(older)


@on_linux
def test_a_process_that_has_died_is_gone_before_anybody_has_asked_for_its_end() -> None:
    with sleeping() as one:
        number = process_number(one.pid)
        os.kill(one.pid, signal.SIGKILL)
        os.waitid(os.P_PID, one.pid, os.WEXITED | os.WNOWAIT)
        assert is_gone(number)


def test_a_forked_process_has_a_number_of_its_own() -> None:
    read, write = os.pipe()
    mine = process_number(os.getpid())
    child = os.fork()
    if not child:
        os.write(write, str(process_number(os.getpid())).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as answer:
        theirs = int(answer.read())
    os.waitpid(child, 0)
    assert theirs & 0xFFFFFFFF == child
    assert theirs != mine


def test_workers_that_are_forked_from_one_process_have_names_of_their_own(app: Pipeline) -> None:
    worker = SimpleNamespace(app=app.celery)
    names = {app.bus.worker_id}
    for _ in range(3):  # each stands for one that is forked where the app was made
        SweeperStep(worker)
        names.add(app.bus.worker_id)
    assert len(names) == 4


COUNTING = """
import gc
from pipeline import Pipeline
app = Pipeline("counting")
@app.agent(on="to.count", name="count")
def count(data: int) -> dict[str, int]:
    return {"left": gc.get_freeze_count(), "looked": len(gc.get_objects())}
"""


@pytest.mark.parametrize(("pool", "shares"), [("prefork", True), ("threads", False)])
def test_the_processes_of_a_pool_share_what_their_worker_had_imported(tmp_path: Path, pool: str, shares: bool) -> None:
    (tmp_path / "counting.py").write_text(COUNTING)
    app = Pipeline("asking", directory=tmp_path / ".pipeline")
    with closing(app), open_worker(tmp_path, "-A", "counting", "worker", "-P", pool, "-c", "2"):
        wait_for(lambda: app.ledger.subscribers.versions(()), "the worker")
        found = app.request("to.count", 1, timeout=60).result
    assert (found["left"] > found["looked"]) is shares, found


@contextmanager
def open_worker(directory: Path, *arguments: str) -> Iterator[None]:
    """Run a worker of its own, of a process that has imported nothing before."""
    environment = {**os.environ, "PIPELINE_DIRECTORY": str(directory / ".pipeline")}
    one = start_anew([*arguments], environment, directory, directory / "worker.log")
    try:
        yield
    finally:
        one.terminate()
        one.wait(60)
