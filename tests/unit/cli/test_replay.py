"""The commands that give events to agents once more: what they print, where, and with which exit code."""

from typing import Any

import pytest

from pipeline import Event
from tests.commands import Shop
from tests.records import lose_outbox, messages, order, run_agents, settle

UNKNOWN = "01980c5e-7d1c-7a52-9f0e-6a4e8f7f0d11"


# -- replays


def published(shop: Shop, number: int) -> list[Event]:
    found = [shop.app.publish(order(n)) for n in range(number)]
    settle(shop.app, found)
    lose_outbox(shop.app)
    messages(shop.app, "billing")
    return found


def test_a_replay_goes_to_one_agent(shop: Shop) -> None:
    found = published(shop, 3)
    said = shop.out("replay", "--to", "billing", "--type", "order.#")
    assert ": 3 events sent to billing in " in said
    assert [message[1]["id"] for message in messages(shop.app, "billing")] == [event.id for event in found]


def test_a_replay_as_json_can_be_repeated_with_its_id(shop: Shop) -> None:
    found = published(shop, 3)
    shop.app.publish("user.seen")
    choice = ["--event", found[1].id, "--event", found[0].id]
    done = shop.json("replay", "--to", "billing", *choice, "--id", "again", "--broadcast", "--rate", "1000")
    assert (done["id"], done["number"], done["to"]) == ("again", 2, "billing")
    marks = [message[0] for message in messages(shop.app, "billing")]
    assert [(mark["replay"], mark["broadcast"]) for mark in marks] == [("again", True)] * 2
    assert shop.json("replay", "--to", "billing", "--all")["skipped"] == 1


def test_a_dry_run_only_counts(shop: Shop) -> None:
    published(shop, 3)
    assert shop.out("replay", "--to", "stock", "--since", "2", "--dry-run") == "2 events would be sent to stock\n"
    assert shop.json("replay", "--to", "stock", "--up-to", "1", "--dry-run")["dry_run"] is True


def test_a_replay_has_to_say_what_and_to_whom(shop: Shop) -> None:
    shop.fails(2, "Missing option '--to'", "replay", "--all")
    for choice in ([], ["--all", "--since", "1"], ["--event", "x", "--all"]):
        shop.fails(2, "events: say which: --event, or filters", "replay", "--to", "billing", *choice)
    shop.fails(1, "no agent is called 'biling'; did you mean 'billing'?", "replay", "--to", "biling", "--all")
    shop.fails(1, f"no event '{UNKNOWN}' is in the ledger", "replay", "--to", "billing", "--event", UNKNOWN)
    shop.fails(2, "--rate", "replay", "--to", "billing", "--all", "--rate", "0")
    shop.fails(1, "is no number of events per second", "replay", "--to", "billing", "--all", "--rate", "inf")
    shop.fails(1, "is not the id of a replay", "replay", "--to", "billing", "--all", "--id", "a b")
    shop.fails(2, "'--since': 'soon' is no time", "replay", "--to", "billing", "--since", "soon")


def test_ctrl_c_says_how_far_a_replay_came(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    published(shop, 3)
    send, done = shop.app.bus.publisher.send_encoded, []

    def once(batch: Any, **options: Any) -> None:
        if done:
            raise KeyboardInterrupt
        done.append(send(batch, **options))

    monkeypatch.setattr(shop.app.bus.publisher, "send_encoded", once)
    monkeypatch.setattr("pipeline.operations.replay.BATCH", 1)
    monkeypatch.setattr("pipeline.operations.replay._ToAgent.size", 1)
    result = shop("replay", "--to", "billing", "--all", "--id", "r1")
    assert (result.exit_code, result.stdout) == (130, "")
    assert result.stderr.startswith("pipeline: the replay r1 stopped after 1 events; repeat it with id='r1'")


def test_a_replay_without_a_broker_is_an_error(shop: Shop) -> None:
    published(shop, 1)
    shop.lose_broker()
    shop.fails(1, "did not take", "replay", "--to", "billing", "--all")


# -- events that nobody listened to


def test_what_came_nearest_to_an_event_that_nobody_got_is_said_once_and_is_in_the_data(shop: Shop) -> None:
    run_agents(shop.app, {"tracker": "user.seen"})
    shop.app.publish("user.seem")
    shop.app.publish("user.seem")
    result = shop("unrouted")
    assert result.stderr.count("user.seem: did you mean 'user.seen'?") == 1
    assert all("did you mean 'user.seen'?" in line["nearest"] for line in shop.json_lines("unrouted"))


def test_unrouted_events_are_listed_and_given_to_new_agents(shop: Shop) -> None:
    seen, left = shop.app.publish("user.seen"), shop.app.publish("user.left")
    assert [line.split()[3] for line in shop.out("unrouted").splitlines()] == [left.id, seen.id]
    assert [line["id"] for line in shop.json_lines("unrouted", "--type", "*.seen")] == [seen.id]
    assert "pipeline: there are more than 1 unrouted events; " in shop("unrouted", "--limit", "1").stderr
    run_agents(shop.app, {"tracker": "user.#"})
    assert shop.json("unrouted", "--replay", "--type", "*.seen") == {"replayed": 1}
    assert shop.out("unrouted", "--replay") == "1 events have an agent now; the workers send them\n"
    result = shop("unrouted")
    assert (result.stdout, result.stderr) == ("", "pipeline: no unrouted events\n")
