"""The commands about pauses: what they print, and how they end."""

from __future__ import annotations

from tests.commands import Shop
from tests.ledgers import new_order, record


def test_what_is_paused_is_listed_and_a_scope_cleared(shop: Shop) -> None:
    assert shop("pauses", "list").stderr == "pipeline: nothing is paused\n"
    shop.app.pause("billing", reason="maintenance")
    shop.app.ledger.waiting.pauses.hit("gpt", "RateLimited: slow down", lambda _: 60)
    heading, billing, gpt = shop.out("pauses", "list").splitlines()
    assert heading.split() == ["kind", "name", "since", "until", "waiting", "at", "once", "reason"]
    assert billing.split()[:2] == ["agent", "billing"]
    assert billing.split()[3:] == ["-", "-", "-", "maintenance"]
    assert gpt.split()[4:] == ["0", "1", "RateLimited:", "slow", "down"]
    agent, scope = shop.json("pauses", "list")
    assert (agent["kind"], agent["name"], agent["until"]) == ("agent", "billing", None)
    assert (scope["kind"], scope["name"], scope["times"], scope["waiting"]) == ("scope", "gpt", 0, 0)
    assert shop.out("pauses", "clear", "gpt") == "gpt goes on\n"
    assert [row["kind"] for row in shop.json("pauses", "list")] == ["agent"]


def test_that_an_agent_is_full_is_cleared_too(shop: Shop) -> None:
    event = new_order("agent.backpressure")
    shop.app.ledger.waiting.bounds.begin("billing", "reject-at-publish", "10 wait", 3, record(event))
    assert [row["kind"] for row in shop.json("pauses", "list")] == ["full"]
    assert shop.out("pauses", "clear", "billing") == "billing goes on\n"
    assert shop.json("pauses", "list") == []


def test_a_scope_that_is_not_paused_is_named_with_the_nearest(shop: Shop) -> None:
    shop.app.ledger.waiting.pauses.hit("openai:gpt-5", "429", lambda _: 60)
    shop.fails(1, "no scope 'openai:gpt5' is paused; did you mean 'openai:gpt-5'?", "pauses", "clear", "openai:gpt5")
