"""Apps in modules of their own, and the `pipeline` command run on them."""

from __future__ import annotations

import importlib
import json
import os
import platform
import subprocess
import sys
from itertools import count
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from pipeline import Pipeline
from pipeline.cli.main import cli
from tests.records import AWAY
from tests.servers import wait_for

#: Agents and read models, for the commands of the ledger.
WITH_LEDGER = """
from pipeline import Payload, Pipeline
from sqlalchemy import text

class Order(Payload, type="order.placed"):
    order_id: str
    total: float

app = Pipeline("shop", directory={directory!r}, publish_timeout=1.5)

@app.agent(on="order.#")
def billing(order: Order) -> None: ...

@app.agent(on="order.placed")
def stock(order: Order) -> None: ...

@app.projection(on="order.#")
def revenue(event, session) -> None:
    session.execute(text("INSERT INTO revenue VALUES (:id)"), {{"id": event.id}})

@revenue.reset
def _(session) -> None:
    session.execute(text("DROP TABLE IF EXISTS revenue"))
    session.execute(text("CREATE TABLE revenue (id TEXT)"))

@app.projection(on="order.#")
def forever(event, session) -> None: ...
"""

#: Agents with options, for the other commands.
WITH_OPTIONS = """
from celery import Celery
from pipeline import Context, Payload, Pipeline, Retry

class OrderCreated(Payload, type="order.created"):
    number: int

app = Pipeline("shop", directory={directory!r}, publish_timeout=1.5)

@app.agent(on=[OrderCreated, "order.*"], retry=Retry(max=7), rate_limit="30/m", timeout=2.5)
def billing(order: OrderCreated) -> None: ...

@app.agent(on="#")
async def audit(data, ctx: Context) -> None: ...
"""

#: Modules stay imported, so each test has one of its own.
_NAMES = (f"shop_of_commands_{n}" for n in count())


def write_module(directory: Path, source: str) -> str:
    """Write a module with an app into a directory; return its name."""
    name = next(_NAMES)
    (directory / f"{name}.py").write_text(source.format(directory=str(directory / "state")))
    return name


def process(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own."""
    command = [sys.executable, "-m", "pipeline.cli.main", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, check=False)


class Shop:
    """The app, and the command on it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.app: Pipeline = importlib.import_module(name).app

    def __call__(self, *arguments: str, stdin: str | None = None) -> Any:
        return CliRunner().invoke(cli, ["--app", self.name, *arguments], input=stdin)

    def lose_broker(self) -> None:
        """Let nobody answer at the broker's address from now on."""
        self.app.celery.conf.broker_url = AWAY
        self.app.bus.publisher.close()

    def out(self, *arguments: str, stdin: str | None = None) -> str:
        """Run a command that must work; return what it printed on stdout."""
        result = self(*arguments, stdin=stdin)
        assert result.exit_code == 0, (result.stderr, result.exception)
        return str(result.stdout)

    def json(self, *arguments: str) -> Any:
        return json.loads(self.out(*arguments, "--json"))

    def json_lines(self, *arguments: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out(*arguments, "--json").splitlines()]

    def fails(self, code: int, said: str, *arguments: str, stdin: str | None = None) -> None:
        """Run a command that must fail with one line (a usage error has more)."""
        result = self(*arguments, stdin=stdin)
        shown = " ".join(result.stderr.replace("│", "").split())
        assert result.exit_code == code, (result.stdout, result.stderr, result.exception)
        assert said in shown
        assert result.stdout == ""
        if code == 1:
            assert len(result.stderr.splitlines()) == 1
            assert result.stderr.startswith("pipeline: ")

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "pipeline.cli.main", "--app", self.name, *arguments]


#: System calls with what they are asked for, by the machine's name: standard input is read, a sleep by the clock.
_CALLS = {
    "x86_64": {"read": ["0", "0x0"], "sleep": ["230", "0x1"]},
    "aarch64": {"read": ["63", "0x0"], "sleep": ["115", "0x1"]},
}


def wait_until_in(pid: int, call: str) -> None:
    """Wait until a process reads its standard input, or sleeps."""
    wanted = _CALLS[platform.machine()][call]
    wait_for(lambda: Path(f"/proc/{pid}/syscall").read_text().split()[:2] == wanted, f"the command to {call}")
