"""An app with a ledger in a module of its own, and the `pipeline` command run on it."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pipeline import Pipeline
from pipeline.cli import cli
from tests.records import run_agents

SOURCE = """
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

#: Modules stay imported, so each test has one of its own.
_NAMES = (f"shop_of_commands_{n}" for n in count())


class Shop:
    """The app, and the command on it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.app: Pipeline = importlib.import_module(name).app

    def __call__(self, *arguments: str, stdin: str | None = None) -> Any:
        return CliRunner().invoke(cli, ["--app", self.name, *arguments], input=stdin)

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

    def process(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run the command in a process of its own."""
        return subprocess.run(self.command(*arguments), capture_output=True, text=True, check=False, **options)

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "pipeline.cli", "--app", self.name, *arguments]


@contextmanager
def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    """Make the app in an empty directory, with a ledger that knows its agents."""
    for name in [name for name in os.environ if name.startswith("PIPELINE_")]:
        monkeypatch.delenv(name)
    for name in ("PIPELINE_CONFIG", "PIPELINE_BROKER_URL", "PIPELINE_LEDGER_URL"):  # so that they are gone afterwards
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    name = next(_NAMES)
    (tmp_path / f"{name}.py").write_text(SOURCE.format(directory=str(tmp_path / "state")))
    shop = Shop(name)
    run_agents(shop.app, {"billing": "order.#", "stock": "order.placed"})
    yield shop
    shop.app.close()
