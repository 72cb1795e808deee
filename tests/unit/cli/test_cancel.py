"""`pipeline cancel --tree`: what was stopped, what ran, and what had happened, as a table and as data."""

from __future__ import annotations

from pipeline.core.ids import delivery_id
from pipeline.ledger.facts import Delivery
from tests.commands import Shop
from tests.records import order, rows, succeed


def test_a_tree_is_stopped_with_who_and_why(shop: Shop) -> None:
    event = shop.app.publish(order())
    succeed(shop.app, event, "stock")
    shop.app.ledger.claim(Delivery(delivery_id(event.id, "billing"), event, "billing"), worker="w")
    stopped = shop("cancel", "--tree", event.id, "--by", "ada", "--reason", "wrong customer")
    assert stopped.exit_code == 0
    heading, *lines = [line.split() for line in stopped.stdout.splitlines()]
    assert heading == ["what", "agent", "type", "event", "was"]
    assert lines == [
        ["ran", "billing", "order.placed", event.id, "running"],
        ["had", "ended", "stock", "order.placed", event.id, "succeeded"],
    ]
    assert stopped.stderr == (
        f"pipeline: cancelled {event.id}: 0 stopped, 1 ran (what they emit is refused), 1 had ended before\n"
    )
    found = shop.json("cancel", "--correlation", event.correlation_id, "--by", "eve")
    assert (found["tree"], found["by"], found["reason"]) == (event.id, "ada", "wrong customer")
    assert (found["stopped"], found["running"], found["delayed"]) == ([], [], [])
    assert [part["outcome"] for part in found["done"]] == ["succeeded"]
    assert "-> billing: cancelled" in shop.out("trace", event.id)
    assert [row["outcome"] for row in rows(shop.app, agent="billing")] == ["cancelled"]


def test_what_cannot_be_stopped_is_said(shop: Shop) -> None:
    shop.fails(1, "the ledger has no event and no correlation 'x'; nothing was cancelled", "cancel", "--tree", "x")
    shop.fails(2, "say one of them", "cancel")
    shop.fails(2, "say one of them", "cancel", "x", "--tree", "x")
    shop.fails(2, "they are for --tree and --correlation", "cancel", "x", "--by", "ada")
    shop.fails(1, "`pipeline cancel --tree` stops what it has caused", "cancel", shop.app.publish(order()).id)
