"""`pipeline limits`: what is in force, changed and taken back, and what is wrong with a change."""

from __future__ import annotations

import pytest

from pipeline import InvalidAgent, Limit
from tests.commands import Shop


@pytest.fixture(autouse=True)
def billing(shop: Shop) -> None:
    shop.app.ledger.limits.rules.declare({"billing": Limit(rate="30/m", burst=5, concurrent=2).rule})


def test_limits_are_listed_changed_and_cleared(shop: Shop) -> None:
    heading, billing = (line.split() for line in shop.out("limits", "list").splitlines())
    assert heading == ["limit", "rate", "burst", "concurrent", "running", "waiting", "keys", "changed"]
    assert billing == ["billing", "30/m", "5", "2", "0", "0", "0", "-"]
    assert shop.out("limits", "set", "billing", "--concurrent", "7").startswith("the limit billing is 30/m")
    (stated,) = shop.json("limits", "list")
    assert (stated["name"], stated["rule"]["concurrent"], stated["changed"]) == ("billing", 7, True)
    assert shop.json("limits", "set", "billing", "--rate", "none", "--concurrent", "0")["rate"] is None
    assert "30/m" in shop.out("limits", "clear", "billing")
    assert shop.json("limits", "list")[0]["changed"] is False


def test_what_is_wrong_with_a_change_is_said(shop: Shop) -> None:
    shop.fails(1, "no limit is called 'biling'; did you mean 'billing'?", "limits", "set", "biling", "--rate", "1/s")
    shop.fails(1, "no limit is called 'biling'; did you mean 'billing'?", "limits", "clear", "biling")
    shop.fails(2, "say at least one of them", "limits", "set", "billing")
    shop.fails(2, "without a rate there are no bursts", "limits", "set", "billing", "--rate", "none", "--burst", "3")
    with pytest.raises(InvalidAgent, match=r"limits.set\('billing'\) changes nothing"):
        shop.app.limits.set("billing")
    assert shop.json("limits", "list")[0]["changed"] is False
    shop.fails(1, "is not a rate such as", "limits", "set", "billing", "--rate", "often")


def test_without_any_limit_that_is_said(shop: Shop) -> None:
    with shop.app.ledger.database.transaction() as connection:
        connection.exec_driver_sql("DELETE FROM pipeline_limits")
    assert "no agent has a limit" in shop("limits", "list").stderr
