"""The command that says who gets an event, and why not: explain."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.commands import Shop

pytestmark = pytest.mark.usefixtures("empty_directory")

Run = Callable[..., Any]


def test_each_agent_answers_and_each_condition_says_what_it_saw(run: Run) -> None:
    where = ("--agent", "billing", "--where", "total > 100 AND metadata.tenant = acme")
    found = run("explain", "--type", "order.created", "--data", '{"total": 5}', *where).stdout
    assert found.startswith("no   billing: it listens to")
    assert "false   payload.total > 100   (saw 5)" in found
    assert "missing metadata.tenant" in found
    as_json = run("explain", "--type", "order.created", "--data", "{}", "--json").stdout
    assert {answer["agent"]: answer["gets"] for answer in json.loads(as_json)}["billing"] is True


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ((), "say one of them"),
        (("an-id", "--last", "3"), "say one of them"),
        (("--last", "3", "--where", "a = 1"), "say whose filter it is to be"),
        (("--type", "a.b", "--agent", "billing", "--where", "{no json"), "not JSON"),
        (("--type", "a.b", "--data", "{", "--agent", "billing"), "not JSON"),
    ],
)
def test_what_cannot_be_explained_is_a_usage_error(run: Run, arguments: tuple[str, ...], what: str) -> None:
    result = run("explain", *arguments)
    assert result.exit_code == 2
    assert what in " ".join(result.stderr.split())


def test_a_filter_that_is_wrong_says_where(run: Run) -> None:
    result = run("explain", "--type", "order.created", "--agent", "billing", "--where", "total >")
    assert result.exit_code == 1
    assert "character" in result.stderr


def test_the_newest_events_are_counted(shop: Shop) -> None:
    event = shop.app.publish("order.placed", {"order_id": "A1", "total": 5})
    where = ("explain", "--last", "10", "--agent", "billing", "--where", "total > 100")
    (found,) = json.loads(shop.out(*where, "--json"))
    assert (found["gets"], found["filtered"], found["lost"]) == (0, 1, [event.id])
    assert f"billing: would no longer get {event.id}" in shop.out(*where)
