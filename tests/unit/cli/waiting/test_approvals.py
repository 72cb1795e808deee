"""The commands for what somebody has to approve: what they print, where, and with which exit code."""

from __future__ import annotations

import getpass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from pipeline.families import ActionProposed
from pipeline.workers.chores import meets
from tests.commands import Shop

SCHEMA = {"type": "object", "properties": {"amount": {"type": "number"}}, "required": ["amount"]}


def propose(shop: Shop, id: str, **more: Any) -> str:
    wanted = {"agent_id": "support", "action": "refund", "params": {"amount": 5}, "response_schema": SCHEMA, **more}
    shop.app.publish(ActionProposed(action_id=id, **wanted))
    return id


@pytest.fixture
def asked(shop: Shop) -> list[str]:
    """Two approvals, the oldest first."""
    deadline = datetime.now(UTC) + timedelta(hours=1)
    first = propose(shop, "a1000000-1", message="Pay 5?", deadline=deadline, who=("ada", "finance"))
    return [first, propose(shop, "b2000000-2", agent_id="sales", action="discount")]


def test_what_waits_for_a_decision_is_listed(shop: Shop, asked: list[str]) -> None:
    heading, *lines = shop.out("approvals", "list").splitlines()
    assert heading.split() == ["id", "agent", "action", "args", "asked", "expires", "status"]
    assert [line.split()[:4] for line in lines] == [
        [asked[0], "support", "refund", '{"amount":5}'],
        [asked[1], "sales", "discount", '{"amount":5}'],
    ]
    assert [each["id"] for each in shop.json("approvals", "list", "--agent", "sales")] == [asked[1]]
    assert [each["id"] for each in shop.json("approvals", "list", "--action", "refund")] == [asked[0]]
    of_one = shop.json("approvals", "list", "--correlation", shop.app.approvals.show(asked[1]).correlation)
    assert [each["id"] for each in of_one] == [asked[1]]
    assert shop("approvals", "list", "--limit", "1").stderr.startswith("pipeline: there are more than 1")
    shop.fails(1, "status: 'vetod' is none; did you mean 'vetoed'?", "approvals", "list", "--status", "vetod")


def test_one_is_shown_with_the_names_of_interrupts(shop: Shop, asked: list[str]) -> None:
    shown = shop.json("approvals", "show", "a1000000")
    assert shown.keys() == {"id", "reason", "message", "responseSchema", "expiresAt", "metadata"}
    assert (shown["id"], shown["reason"], shown["message"]) == (asked[0], "refund", "Pay 5?")
    assert shown["responseSchema"] == SCHEMA
    about = shown["metadata"]
    assert (about["agent"], about["args"], about["who"]) == ("support", {"amount": 5}, ["ada", "finance"])
    lines = shop.out("approvals", "show", asked[0]).splitlines()
    assert [line.split(maxsplit=1)[1] for line in lines if line.startswith(("message", "args", "status"))] == [
        "Pay 5?",
        "pending",
        '{"amount":5}',
    ]


def test_an_approval_with_other_arguments_says_what_it_came_to(shop: Shop, asked: list[str]) -> None:
    command = ("approvals", "approve", asked[0], "--by", "eve")
    shop.fails(1, "eve may not decide this; it is for ada, finance", *command)
    shop.fails(1, 'amount: "x" is not of type "number"', *command, "--edit", '{"amount": "x"}')
    shop.fails(2, "not JSON", *command, "--edit", "{")
    done = shop.json(*command, "--group", "finance", "--reason", "half", "--edit", '{"amount": 2.5}')
    decision = done["metadata"]["decision"]
    assert (decision["by"], decision["reason"]) == ("eve", "half")
    assert decision["answer"] == {"id": asked[0], "status": "approved", "payload": {"amount": 2.5}}
    shop.fails(1, f"refund ({asked[0]}) was approved by eve at", "approvals", "veto", asked[0], "--by", "ada")
    assert "decision_by     eve" in shop.out("approvals", "show", asked[0])
    assert [each["id"] for each in shop.json("approvals", "list", "--status", "approved")] == [asked[0]]
    assert [each["id"] for each in shop.json("approvals", "list", "--status", "all")] == asked


def test_a_veto_is_by_whoever_has_logged_in(shop: Shop, asked: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(getpass, "getuser", lambda: "ada")
    assert shop.out("approvals", "veto", asked[1], "--reason", "no") == f"vetoed discount ({asked[1]})\n"
    (event,) = shop.json_lines("events", "--type", "action.vetoed")
    assert (event["data"]["by"], event["data"]["reason"]) == ("ada", "no")


def test_how_many_have_still_to_approve_is_said(shop: Shop) -> None:
    id = propose(shop, "c3000000-3", n_of=2)
    said = shop.out("approvals", "approve", id, "--by", "ada")
    assert said == f"approved refund ({id}); 1 more have to approve\n"
    assert shop.out("approvals", "approve", id, "--by", "bob") == f"approved refund ({id})\n"


def test_rules_are_added_listed_and_removed(shop: Shop, asked: list[str]) -> None:
    assert shop("approvals", "rules").stderr == "pipeline: no rules: somebody is asked each time\n"
    add = ("approvals", "rules", "add", "refund", "--agent", "support", "--by", "ada")
    shop.fails(1, "the text ends too early", *add, "--where", "amount <")
    shop.fails(2, "say one of them", *add, "--for", "30d", "--until", "2999-01-01")
    shop.fails(1, "the rule would never hold", *add, "--until", "2001-01-01")
    rule = shop.json(*add, "--where", "amount < 10", "--for", "30d")
    assert (rule["action"], rule["agent"], rule["by"]) == ("refund", "support", "ada")
    (line,) = shop.out("approvals", "rules").splitlines()[1:]
    assert line.split()[:3] == [rule["id"], "refund", "support"]
    shop.app.ledger.waiting.approvals.look(meets)
    assert [each["id"] for each in shop.json("approvals", "list")] == [asked[1]]
    assert shop.json("approvals", "rules", "list") == [rule]
    assert shop.out("approvals", "rules", "remove", rule["id"]) == "refund is asked for again\n"
    shop.fails(1, "there is no rule", "approvals", "rules", "remove", rule["id"])


def test_what_is_not_there_is_named(shop: Shop) -> None:
    assert shop("approvals", "list").stderr == "pipeline: nothing waits for a decision\n"
    for verb in ("show", "approve", "veto"):
        shop.fails(1, "there is no approval 'a1000000'", "approvals", verb, "a1000000")
