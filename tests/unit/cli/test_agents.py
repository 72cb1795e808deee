"""The command that lists the agents: what it prints, where, and with which exit code."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from pipeline.cli.agents import agent_rows
from pipeline.cli.group import load_app
from pipeline.core.ids import delivery_id
from pipeline.core.times import SECOND, as_json_time
from pipeline.ledger.database.tables import workers
from pipeline.ledger.facts import Delivery
from pipeline.ledger.waiting.wait import PAUSE, Parking, Wait
from tests.commands import Shop, process

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
        "did": None,
        "waiting": None,
        "running": 0,
        "retrying": 0,
        "parked": {},
        "oldest": None,
        "paused": None,
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


def test_a_paused_agent_is_listed_with_since_when_and_why(shop: Shop) -> None:
    assert shop.out("agents", "pause", "billing", "--reason", "the index is rebuilt") == "paused billing\n"
    assert shop.out("agents", "pause", "billing", "--reason", "a new disk") == "billing was paused already\n"
    heading, billing, stock = shop.out("agents").splitlines()
    assert heading.split()[-3:] == ["paused", "since", "reason"]
    assert billing.endswith("a new disk")
    assert stock.split()[-2:] == ["-", "-"]
    rows = {row["name"]: row["paused"] for row in json.loads(shop.out("agents", "--json"))}
    assert rows["stock"] is None
    assert rows["billing"]["reason"] == "a new disk"
    assert shop.out("agents", "resume", "billing") == "resumed billing\n"
    assert shop.out("agents", "resume", "billing") == "billing was not paused\n"
    assert "paused since" not in shop.out("agents")


def test_what_waits_for_each_agent_is_listed(shop: Shop) -> None:
    event = shop.app.publish("order.placed", {"order_id": "A1", "total": 1})
    claim = shop.app.ledger.claim(Delivery(delivery_id(event.id, "billing"), event, "billing"), worker="w1")
    assert claim.attempt == 1
    wait = Wait(PAUSE, "waits for gpt", key="gpt")
    parked = Delivery(delivery_id(event.id, "stock"), event, "stock")
    shop.app.ledger.waiting.waits.park(Parking(parked, shop.app.ledger.claim(parked, worker="w1").attempt, wait))
    found = {row["name"]: row for row in json.loads(shop.out("agents", "--json"))}
    assert [found["billing"][name] for name in ("running", "retrying", "parked")] == [1, 0, {}]
    assert [found["stock"][name] for name in ("running", "retrying", "parked")] == [0, 0, {"pause": 1}]
    assert found["stock"]["oldest"] == as_json_time(event.time)
    heading, billing, stock = shop.out("agents").splitlines()
    assert heading.split()[-5:] == ["waiting", "running", "retrying", "parked", "oldest"]
    assert stock.split()[-4:-1] == ["0", "1", "pause"]
    assert billing.split()[-4:-1] == ["1", "0", "-"]


def test_an_agent_that_nobody_knows_is_not_paused(shop: Shop) -> None:
    shop.fails(1, "no agent is called 'biling'; did you mean 'billing'?", "agents", "pause", "biling")


def test_who_is_there_is_listed(shop: Shop) -> None:
    about = {"host": "h1", "pid": 7, "agents": {"billing": {"capacity": 4, "capabilities": [{"id": "bill"}]}}}
    shop.app.ledger.subscribers.register({"billing": (("order.#",), None)}, "w1", {}, about)
    shop.app.ledger.subscribers.register({"stock": (("order.placed",), None)})
    heading, billing, stock = shop.out("agents", "--live").splitlines()
    assert heading.split()[:4] == ["agent", "state", "workers", "running"]
    assert billing.split()[:6] == ["billing", "online", "1", "0", "4", "0%"]
    assert billing.split()[-1] == "bill"
    assert stock.split()[:4] == ["stock", "offline", "0", "0"]
    found = shop.json("agents", "--live")
    assert [(one["agent"], one["state"], one["free"]) for one in found] == [
        ("billing", "online", 4),
        ("stock", "offline", 0),
    ]
    with shop.app.ledger.database.transaction() as connection:
        connection.execute(update(workers).values(seen=workers.c.seen - 100 * SECOND))
    result = shop("agents", "--live")
    assert "suspected" in result.stdout
    assert "billing: the worker h1:7 was last heard of at" in result.stderr
