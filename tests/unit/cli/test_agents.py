"""The command that lists the agents: what it prints, where, and with which exit code."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.cli.agents import agent_rows
from pipeline.cli.group import load_app
from tests.commands import process

pytestmark = pytest.mark.usefixtures("empty_directory")


Run = Callable[..., Any]


def test_agents_are_listed_with_their_options(run: Run) -> None:
    result = run("agents")
    heading, billing, audit = result.stdout.splitlines()
    assert heading.split()[:3] == ["agent", "patterns", "payload"]
    assert " ".join(billing.split()) == "billing order.created order.* OrderCreated 7 30/m 2.5 s agent.billing"
    assert audit.split() == ["audit", "#", "-", "3", "-", "-", "agent.audit"]


def test_agents_are_printed_as_json(run: Run) -> None:
    billing = json.loads(run("agents", "--json").stdout)[0]
    assert billing == {
        "name": "billing",
        "patterns": ["order.created", "order.*"],
        "payload": "OrderCreated",
        "retries": 7,
        "rate_limit": "30/m",
        "timeout": 2.5,
        "priority": None,
        "queue": "agent.billing",
    }


def test_without_settings_the_agents_are_those_of_the_briefing() -> None:
    found = process("agents", "--json")
    assert {row["name"] for row in json.loads(found.stdout)} >= {"audit", "notifier", "research", "email"}


def test_an_agent_module_that_cannot_be_imported_is_named_with_the_line(tmp_path: Path) -> None:
    (tmp_path / "broken_agents.py").write_text("\nraise RuntimeError('out of coffee')\n")
    found = process("agents", PIPELINE_AGENTS='["broken_agents"]')
    assert found.returncode == 1
    assert "importing broken_agents: RuntimeError: out of coffee" in found.stderr
    assert "broken_agents.py:2" in found.stderr
    assert len(found.stderr.splitlines()) == 1


def test_rows_can_be_had_without_the_command(module: str) -> None:
    assert [row["name"] for row in agent_rows(load_app(module))] == ["billing", "audit"]
