"""`pipeline up`: everything that development needs in one command, which follows what one writes."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.http import Server
from tests.servers import wait_for

SHOP = """
from pipeline import Pipeline

app = Pipeline("shop")


@app.agent(on="order.placed")
def billing(data: dict) -> None:
    print(f"VERSION billed {data['n']}")
"""


@dataclass(frozen=True)
class Running:
    """The command, as it runs."""

    process: subprocess.Popen[bytes]
    log: Path

    def said(self, text: str, times: int = 1) -> None:
        """Wait until it has said something so often."""
        wait_for(lambda: self.log.read_text().count(text) >= times or self.process.poll() is not None, text, 90)
        assert self.log.read_text().count(text) >= times, self.log.read_text()

    def server(self, time: int = 1) -> Server:
        """Return what serves the page, the so-manieth time."""
        self.said("serving http://", time)
        return Server(int(re.findall(r"serving http://127\.0\.0\.1:(\d+)", self.log.read_text())[time - 1]))


@contextmanager
def up(directory: Path, *options: str) -> Iterator[Running]:
    log = directory / "up.txt"
    command = [str(Path(sys.executable).with_name("pipeline")), "-A", "shop", "up", "--port", "0", "--pool", "threads"]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PIPELINE_")}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, *options], cwd=directory, env=clean, stdout=output, stderr=output, stdin=subprocess.DEVNULL
        )
    try:
        yield Running(process, log)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


def write(directory: Path, version: str) -> None:
    (directory / "shop.py").write_text(SHOP.replace("VERSION", version))


def test_one_command_runs_all_and_follows_what_one_writes(tmp_path: Path) -> None:
    write(tmp_path, "first")
    with up(tmp_path) as running:
        running.said("ready.")
        assert running.server().post("/events", {"type": "order.placed", "data": {"n": 1}}).status == 201
        running.said("first billed 1")
        running.said("beat   | ")
        (tmp_path / "shop.py").write_text("this is no Python")
        running.said("shop.py has changed")
        running.said("it starts again when a file has changed", 3)
        write(tmp_path, "second")
        running.said("shop.py has changed", 2)
        running.said("ready.", 2)
        assert running.server(2).post("/events", {"type": "order.placed", "data": {"n": 2}}).status == 201
        running.said("second billed 2")
        running.process.send_signal(signal.SIGINT)
        assert running.process.wait(60) == 130
        assert "first billed 2" not in running.log.read_text()


def test_without_following_it_ends_when_a_part_of_it_does(tmp_path: Path) -> None:
    write(tmp_path, "only")
    with up(tmp_path, "--no-reload") as running:
        running.said("ready.")
        worker = subprocess.run(
            ["pgrep", "-P", str(running.process.pid), "-f", "worker"], capture_output=True, text=True, check=True
        )
        os.kill(int(worker.stdout.split()[0]), signal.SIGKILL)
        assert running.process.wait(60) == 1
        running.said("worker has ended with exit code -9")


@pytest.mark.parametrize("text", ["import nothing_of_that_name", "app = 1"])
def test_an_app_that_cannot_be_used_is_said_once_and_nothing_starts(tmp_path: Path, text: str) -> None:
    (tmp_path / "shop.py").write_text(text)
    with up(tmp_path) as running:
        assert running.process.wait(60) == 1
        said = running.log.read_text()
        assert "shop" in said
        assert " | " not in said
