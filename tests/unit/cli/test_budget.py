"""`pipeline budget`: what may be spent, what was, and other limits."""

from __future__ import annotations

from pipeline.ledger.bounding.budget import TREE, Amounts, Scope, Use
from tests.commands import Shop
from tests.records import order


def spend(shop: Shop, scope: Scope, tokens: int) -> None:
    event = order()
    published = shop.app.publish(event)
    assert not shop.app.budgets.reserve(Use("d1", 1, 0), [scope], Amounts(tokens=tokens), published, "writer")


def test_budgets_are_listed_shown_and_changed(shop: Shop) -> None:
    assert shop("budget", "list").stderr == "pipeline: no budget is in use\n"
    spend(shop, Scope("tenant", "acme", "2026-03-01", Amounts(tokens=1000)), 250)
    heading, line = [line.split() for line in shop.out("budget", "list").splitlines()]
    assert heading == ["budget", "key", "day", "unit", "limit", "used", "left"]
    assert line == ["tenant", "acme", "2026-03-01", "tokens", "1,000", "250", "750"]
    set_ = shop.out("budget", "set", "tenant", "--key", "acme", "--tokens", "300")
    assert set_ == "set tenant of acme; 0 deliveries that waited for it go on\n"
    (found,) = [one for one in shop.json("budget", "list", "--name", "tenant") if one["period"]]
    assert found == {
        "name": "tenant", "key": "acme", "period": "2026-03-01",
        "limit": {"tokens": 300, "cost": None, "events": None},
        "used": {"tokens": 250, "cost": 0, "events": 0},
        "left": {"tokens": 50, "cost": None, "events": None},
    }  # fmt: skip
    assert shop.json("budget", "set", "tenant", "--cost", "5")["limit"] == {"tokens": None, "cost": 5, "events": None}


def test_the_budget_of_a_tree_is_found_by_any_of_its_events(shop: Shop) -> None:
    first = shop.app.publish(order(), budget={"tokens": 10})
    second = shop.app.publish(order(), correlation_id=first.correlation_id)
    for id in (first.id, second.id):
        (found,) = shop.json("budget", id)
        assert (found["name"], found["key"], found["left"]["tokens"]) == (TREE, first.id, 10)
    assert shop.out("budget", "set", "tree", "--key", first.id, "--tokens", "20").startswith("set tree of")
    assert shop.json("budget", "show", first.id)[0]["left"]["tokens"] == 20


def test_what_is_wrong_with_a_budget_is_said(shop: Shop) -> None:
    shop.fails(1, "nothing has no budget; `pipeline budget set tree --key nothing", "budget", "nothing")
    shop.fails(1, "budget 'tenant': it has no unit; give at least one of tokens=", "budget", "set", "tenant")
    shop.fails(1, "there is no budget 'tenant'", "budget", "set", "tenant", "--tokens", "1")
