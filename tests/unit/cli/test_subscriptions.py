"""The commands about subscriptions: what they print, and how they end."""

from __future__ import annotations

from pathlib import Path

from tests.commands import Shop

URL = "https://crm.example.com/hook"


def test_a_subscription_is_added_shown_changed_and_removed(shop: Shop) -> None:
    assert shop("subscriptions", "list").stderr == "pipeline: there are no subscriptions\n"
    added = shop.out(
        "subscriptions", "add", "crm", "--on", "order.*", "--on", "a.b", "--url", URL, "--where", "total > 5"
    )
    assert added == f"added crm: order.* a.b -> {URL}\n"
    heading, crm = shop.out("subscriptions", "list").splitlines()
    assert heading.split()[:4] == ["id", "patterns", "filter", "url"]
    assert crm.split()[:5] == ["crm", "order.*", "a.b", '{"payload.total":{"$gt":5}}', URL]
    (one,) = shop.json("subscriptions", "list")
    assert one == shop.json("subscriptions", "show", "crm")
    assert (one["id"], one["on"], one["max_concurrent"], one["signed"]) == ("crm", ["order.*", "a.b"], 10, False)
    assert "max_concurrent  10" in shop.out("subscriptions", "show", "crm")
    assert "crm" in [row["name"] for row in shop.json("agents")]
    changed = shop.json("subscriptions", "change", "crm", "--where", "", "--max-concurrent", "2")
    assert (changed["where"], changed["max_concurrent"], changed["on"]) == (None, 2, ["order.*", "a.b"])
    shop.app.publish("a.b", {})
    shop.fails(1, "'crm' is a subscription, which workers run", "ledger", "forget", "crm")
    removed = shop.out("subscriptions", "remove", "crm")
    assert removed.startswith("removed crm; 1 deliveries that waited are dead letters now")
    assert len(shop.json("dead", "list", "--agent", "crm")) == 1
    assert shop.json("subscriptions", "list") == []


def test_a_new_secret_is_printed_once_and_one_in_a_file_never(shop: Shop, tmp_path: Path) -> None:
    made = shop.json("subscriptions", "add", "crm", "--on", "a.b", "--url", URL, "--new-secret")
    assert made["secret"].startswith("whsec_")
    for told in (shop.out("subscriptions", "show", "crm"), shop.out("subscriptions", "list", "--json")):
        assert "whsec_" not in told
    (tmp_path / "secret").write_text(made["secret"] + "\n")
    changed = shop("subscriptions", "change", "crm", "--secret-file", str(tmp_path / "secret"))
    assert changed.exit_code == 0
    assert "whsec_" not in changed.output
    assert shop.app.ledger.subscriptions.get("crm", secrets=True).secret == made["secret"]
    (tmp_path / "secret").write_text("tellnobody")
    refused = shop("subscriptions", "change", "crm", "--secret-file", str(tmp_path / "secret"))
    assert refused.exit_code == 1
    assert "tellnobody" not in refused.output


def test_what_is_said_wrongly_is_answered_with_what_to_say(shop: Shop) -> None:
    add = ("subscriptions", "add")
    shop.fails(
        1, "'billing' is the id of an agent that is declared in code", *add, "billing", "--on", "a", "--url", URL
    )
    shop.fails(1, "no http:// or https:// URL", *add, "crm", "--on", "a", "--url", "crm.example.com")
    shop.fails(1, "there is no subscription 'crm'", "subscriptions", "show", "crm")
    shop.fails(2, "say what is to be another one", "subscriptions", "change", "crm")
    shop.fails(2, "not both", *add, "crm", "--on", "a", "--url", URL, "--new-secret", "--secret-file", "-")
    shop.fails(2, "cannot be read", *add, "crm", "--on", "a", "--url", URL, "--secret-file", "nowhere")
