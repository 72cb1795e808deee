"""Walks: what a page of the documentation says, done literally: its files written, its commands run, in its order."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.servers import free_port, wait_for

DOCS = Path(__file__).parents[1] / "docs"
_STEP = re.compile(
    r"^```(py|python|sh)\n(.*?)^```$|^!\[[^\]]*\]\((pictures)/([\w-]+)\.png\)$", re.MULTILINE | re.DOTALL
)
_FILE = re.compile(r"# (\S+\.py)(, at its end)?\n")
#: Commands that go on running, and what shows that they serve.
_SERVERS = {
    "celery": (" ready.",), "uvicorn": ("Uvicorn running on",), "python manage.py runserver": ("Quit the server with",),
    "flask": ("Running on http",), "pipeline -A briefing up": (" ready.", "serving http://"),
}  # fmt: skip
#: The commands of an environment in which everything is installed, as modules of the Python that runs the tests.
_COMMANDS = {
    "python": "", "celery": "-m celery", "pipeline": "-m pipeline.cli.main", "uvicorn": "-m uvicorn",
    "django-admin": "-m django", "flask": "-m flask",
}  # fmt: skip


def steps(page: str, chapter: str = "") -> list[tuple[str, str]]:
    """Return the code blocks of a page or of one chapter, with their languages, and its pictures, in its order."""
    text = (DOCS / page).read_text()
    begin = text.index(f"# {chapter}\n") if chapter else 0
    end = text.find("\n## ", begin) if chapter else -1
    found = _STEP.findall(text[begin : end if end > 0 else None])
    return [(language or picture, block or name) for language, block, picture, name in found]


@dataclass
class Walk:
    """Somebody who does what the documentation says, in an empty directory."""

    directory: Path
    port: int = field(default_factory=free_port)
    servers: list[subprocess.Popen[bytes]] = field(default_factory=list)
    #: What the commands that have ended printed.
    said: str = ""
    #: Called with the name of each picture, when what it shows has been done.
    look: Callable[[str], None] = lambda _: None

    def __post_init__(self) -> None:
        (self.directory / "bin").mkdir()
        (self.directory / "project").mkdir()
        for name, module in _COMMANDS.items():
            command = self.directory / "bin" / name
            command.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {module} "$@"\n')
            command.chmod(0o755)

    @property
    def project(self) -> Path:
        """Where the walk is done."""
        return self.directory / "project"

    def go(self, language: str, block: str) -> None:
        """Do one step."""
        if language == "sh":
            for line in block.splitlines():
                self._run(line.replace("8000", str(self.port)))
        elif language == "pictures":
            self.look(block)
        elif named := _FILE.match(block):
            before = self._starts()
            with (self.project / named[1]).open("a" if named[2] else "w") as file:
                file.write(block)
            # `pipeline up` begins anew, with what was written
            wait_for(lambda: all(now > then for now, then in zip(self._starts(), before, strict=True)), self.logs, 90)

    def _starts(self) -> list[int]:
        """Return how often each part of `pipeline up` has started, where that runs."""
        following = [server.args for server in self.servers if " up" in str(server.args)]
        return [self.logs().count(sign) for sign in _SERVERS["pipeline -A briefing up"] if following]

    def _run(self, line: str) -> None:
        if line.startswith("pip install"):
            check_installed(line.split()[2:])
            return
        ready = next((signs for command, signs in _SERVERS.items() if line.startswith(command)), None)
        if ready:
            self._serve(line, ready)
            return
        if line.startswith("cat "):  # what comes in a moment one would look for again
            wait_for(lambda: any(self.project.glob(line.removeprefix("cat "))), line)
        done = subprocess.run(
            line, shell=True, cwd=self.project, env=self._environment(), capture_output=True, text=True,
            timeout=120, check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert done.returncode == 0, (line, done.stdout, done.stderr, self.logs())
        self.said += done.stdout

    def _serve(self, line: str, ready: tuple[str, ...]) -> None:
        log = self.directory / f"{len(self.servers)}.log"
        with log.open("wb") as output:
            self.servers.append(
                subprocess.Popen(
                    line, shell=True, cwd=self.project, env=self._environment(), stdout=output, stderr=output,
                    stdin=subprocess.DEVNULL, start_new_session=True,
                )
            )  # fmt: skip
        last = self.servers[-1]
        wait_for(lambda: all(sign in log.read_text() for sign in ready) or last.poll() is not None, line, 90)
        assert self.servers[-1].poll() is None, log.read_text()

    def _environment(self) -> dict[str, str]:
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("PIPELINE_", "CELERY_", "DJANGO_", "PYTEST"))}
        path = f"{self.directory / 'bin'}{os.pathsep}{clean['PATH']}"
        return {**clean, "PATH": path, "PYTHONUNBUFFERED": "1", "no_proxy": "127.0.0.1"}

    def post(self, order: dict[str, Any]) -> tuple[int, str]:
        """Place an order; return the status and the body of the answer."""
        url, head = f"http://127.0.0.1:{self.port}/orders", {"Content-Type": "application/json"}
        request = urllib.request.Request(url, json.dumps(order).encode(), head)
        try:
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=60) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as exc:
            with exc:
                return exc.code, exc.read().decode()

    def logs(self) -> str:
        """Return what the commands that go on running have said."""
        return "\n".join(log.read_text() for log in sorted(self.directory.glob("*.log")))

    def expect(self, line: str) -> None:
        """Wait until some process has said a line."""
        wait_for(lambda: line in self.logs(), lambda: f"{line!r} in:\n{self.logs()}")

    def end(self) -> None:
        """End what still runs."""
        for server in self.servers:
            os.killpg(server.pid, signal.SIGTERM)  # `pipeline up` has others to end
        for server in self.servers:
            try:
                server.wait(timeout=30)
            except subprocess.TimeoutExpired:
                os.killpg(server.pid, signal.SIGKILL)
                server.wait(timeout=20)


def check_installed(packages: list[str]) -> None:
    """Skip the test where something is missing that the page has one install."""
    for package in packages:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")


@contextlib.contextmanager
def walking(directory: Path) -> Iterator[Walk]:
    """Start a walk, and end with it what it has started."""
    walk = Walk(directory)
    try:
        yield walk
    finally:
        walk.end()
