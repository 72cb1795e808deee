"""The commands that give events to agents once more: what they print, where, and with which exit code."""

import getpass
import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pipeline import Event
from pipeline.cli.main import cli
from tests.commands import Shop
from tests.records import AWAY, HOUR, backdate, die, lose_outbox, messages, order, rows, run_agents, settle

UNKNOWN = "01980c5e-7d1c-7a52-9f0e-6a4e8f7f0d11"
COMMANDS = [["dead", name] for name in ("list", "show", "count", "requeue", "drop")] + [["replay"], ["unrouted"]]


@pytest.fixture
def letters(shop: Shop) -> list[str]:
    """Three dead letters, the oldest first: two of billing, one of stock; the first is two hours old."""
    found = [
        die(shop.app, shop.app.publish(order(1)), error="card refused"),
        die(shop.app, shop.app.publish("order.paid", {"order_id": "A2", "total": 2}), error="Timeout: no answer"),
        die(shop.app, shop.app.publish(order(3)), "stock", error="boom"),
    ]
    backdate(shop.app, found[0], 2 * HOUR)
    return found


def outcomes(shop: Shop, ids: list[str]) -> list[str]:
    by_id = {row["id"]: row["outcome"] for row in rows(shop.app)}
    return [by_id[id] for id in ids]


def audit(shop: Shop, type: str) -> list[dict[str, Any]]:
    return [line["data"] for line in shop.json_lines("events", "--type", type)]


def without_broker(shop: Shop) -> None:
    shop.app.celery.conf.broker_url = AWAY
    shop.app.publisher.close()


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_examples(command: list[str]) -> None:
    result = CliRunner().invoke(cli, [*command, "--help"])
    assert result.exit_code == 0
    assert f"\n    pipeline {' '.join(command)}" in result.stdout


# -- looking at them


def test_dead_letters_are_listed_newest_first(shop: Shop, letters: list[str]) -> None:
    heading, *lines = shop.out("dead", "list").splitlines()
    assert heading.split() == ["id", "agent", "type", "attempts", "given", "up", "error"]
    assert [line.split()[:4] for line in lines] == [
        [letters[2], "stock", "order.placed", "1"],
        [letters[1], "billing", "order.paid", "1"],
        [letters[0], "billing", "order.placed", "1"],
    ]
    assert lines[1].endswith("  Timeout: no answer")


def test_dead_letters_are_chosen_by_agent_error_type_and_age(shop: Shop, letters: list[str]) -> None:
    def ids(*options: str) -> list[str]:
        return [letter["id"] for letter in shop.json("dead", "list", *options)]

    assert ids("--agent", "stock") == [letters[2]]
    assert ids("--error", "TIMEOUT") == [letters[1]] == ids("--type", "*.paid")
    assert ids("--older-than", "1h") == [letters[0]]
    shop.fails(1, "order..p", "dead", "list", "--type", "order..p")


def test_dead_letters_come_in_pages(shop: Shop, letters: list[str]) -> None:
    result = shop("dead", "list", "--limit", "2", "--json")
    page = json.loads(result.stdout)
    assert [letter["id"] for letter in page] == letters[:0:-1]
    assert f"--after {page[-1]['cursor']}" in result.stderr
    assert [one["id"] for one in shop.json("dead", "list", "--after", page[-1]["cursor"])] == letters[:1]
    shop.fails(1, "is not the cursor of a dead letter", "dead", "list", "--after", "x")


def test_one_dead_letter_is_shown_with_event_and_traceback(shop: Shop, letters: list[str]) -> None:
    said = shop.out("dead", "show", letters[0][:8])
    assert f"id              {letters[0]}\n" in said
    assert '"order_id": "A1"' in said
    assert said.endswith("traceback\nTraceback of card refused\n")
    found = shop.json("dead", "show", letters[0])
    assert (found["error"], found["agent"], found["traceback"]) == (
        "card refused", "billing", "Traceback of card refused"
    )  # fmt: skip
    assert Event.decode(json.dumps(found["event"])).data == {"order_id": "A1", "total": 1.0}
    assert datetime.fromisoformat(found["ended"]).tzinfo is not None


@pytest.mark.parametrize("command", ["show", "requeue", "drop"])
def test_an_unknown_dead_letter_is_an_error(shop: Shop, command: str) -> None:
    shop.fails(1, f"there is no dead letter '{UNKNOWN}'", "dead", command, UNKNOWN)
    shop.fails(1, "'x' is too short", "dead", command, "x")


def test_dead_letters_are_counted(shop: Shop, letters: list[str]) -> None:
    lines = [line.split()[:2] for line in shop.out("dead", "count").splitlines()]
    assert lines == [["agent", "number"], ["billing", "2"], ["stock", "1"]]
    assert {row["agent"]: row["number"] for row in shop.json("dead", "count")} == {"billing": 2, "stock": 1}


def test_no_dead_letters_are_said_on_stderr(shop: Shop) -> None:
    for command in ("list", "count"):
        result = shop("dead", command)
        assert (result.exit_code, result.stdout, result.stderr) == (0, "", "pipeline: no dead letters\n")
        assert shop.json("dead", command) == []


# -- requeuing and dropping


def test_requeuing_gives_it_back_to_its_agent_and_says_who_did_it(shop: Shop, letters: list[str]) -> None:
    assert shop.out("dead", "requeue", letters[0][:13], "--by", "ada") == "requeued 1 dead letter\n"
    assert outcomes(shop, letters) == ["waiting", "dead", "dead"]
    assert [message[1]["data"]["order_id"] for message in messages(shop.app, "billing")].count("A1") >= 1
    assert audit(shop, "delivery.requeued")[0]["by"] == "ada"
    assert shop.json("dead", "requeue", letters[1]) == {"requeued": 1, "skipped": 0, "sent": True}
    assert audit(shop, "delivery.requeued")[1]["by"] == getpass.getuser()


def test_requeuing_what_was_requeued_is_skipped_or_unknown(shop: Shop, letters: list[str]) -> None:
    shop.out("dead", "requeue", letters[0])
    said = shop.out("dead", "requeue", letters[0], letters[1])
    assert said == "requeued 1 dead letter; 1 had been handled by somebody else\n"


def test_many_are_requeued_by_filter_or_all(shop: Shop, letters: list[str]) -> None:
    assert (
        shop.out("dead", "requeue", "--agent", "billing", "--older-than", "1h", "--yes") == "requeued 1 dead letter\n"
    )
    assert shop.out("dead", "requeue", "--all", "--yes") == "requeued 2 dead letters\n"
    assert shop.out("dead", "requeue", "--all") == "requeued 0 dead letters\n"


@pytest.mark.parametrize("command", ["requeue", "drop"])
def test_which_ones_has_to_be_said_in_one_way(shop: Shop, letters: list[str], command: str) -> None:
    for choice in ([], [letters[0], "--all"], ["--agent", "billing", "--all"], [letters[0], "--error", "x"]):
        shop.fails(2, "dead letters: say which: ids, or filters", "dead", command, *choice, "--yes")
    assert outcomes(shop, letters) == ["dead"] * 3


@pytest.mark.parametrize("command", ["requeue", "drop"])
def test_many_are_asked_about(shop: Shop, letters: list[str], command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.fails(2, "--yes: needed, because standard input is no terminal", "dead", command, "--all", stdin="y\n")
    monkeypatch.setattr("pipeline.cli.group.can_ask", lambda: True)
    refused = shop("dead", command, "--agent", "billing", stdin="no\n")
    assert refused.exit_code == 1
    assert f"{command.title()} 2 dead letters of sqlite:///" in refused.stderr
    assert "nothing was done" in refused.stderr
    assert outcomes(shop, letters) == ["dead"] * 3
    assert shop("dead", command, "--agent", "stock", stdin="y\n").exit_code == 0
    assert outcomes(shop, letters)[:2] == ["dead"] * 2
    assert outcomes(shop, letters)[2] != "dead"


def test_other_data_goes_to_the_agent_alone(shop: Shop, letters: list[str], tmp_path: Path) -> None:
    (tmp_path / "mended.json").write_text('{"order_id": "B1", "total": 5}')
    messages(shop.app, "billing")
    shop.out("dead", "requeue", letters[0], "--data", "@mended.json")
    assert messages(shop.app, "billing")[0][1]["data"] == {"order_id": "B1", "total": 5}
    shop.out("dead", "requeue", letters[1], "--data", "-", stdin='{"order_id": "B2", "total": 6}')
    assert audit(shop, "delivery.requeued")[1]["after"] == {"order_id": "B2", "total": 6}


@pytest.mark.parametrize(
    ("data", "code", "said"),
    [
        ('{"order_id": "B1"}', 1, "total: Field required"),
        ("null", 1, "does not validate"),
        ("{total: 5}", 2, "--data: not JSON"),
        ("@missing.json", 2, "--data: missing.json: No such file"),
        (json.dumps({"order_id": "x" * 300_000, "total": 1}), 1, "the limit is 262,144"),
    ],
)
def test_other_data_is_checked_before_anything_is_changed(
    shop: Shop, letters: list[str], data: str, code: int, said: str
) -> None:
    shop.fails(code, said, "dead", "requeue", letters[0], "--data", data)
    assert outcomes(shop, letters) == ["dead"] * 3


def test_other_data_is_for_exactly_one(shop: Shop, letters: list[str]) -> None:
    for choice in (letters[:2], ["--all"], ["--agent", "stock"]):
        shop.fails(2, "--data: it is for exactly one dead letter", "dead", "requeue", *choice, "--data", "1", "--yes")


def test_other_data_needs_the_agent(shop: Shop) -> None:
    letter = die(shop.app, shop.app.publish(order()), "former")
    shop.fails(1, "agent 'former' is not declared in this process", "dead", "requeue", letter, "--data", "1")


def test_requeuing_without_a_broker_is_left_to_the_workers(shop: Shop, letters: list[str]) -> None:
    without_broker(shop)
    result = shop("dead", "requeue", letters[0])
    assert (result.exit_code, result.stdout) == (0, "requeued 1 dead letter\n")
    assert result.stderr == "pipeline: the broker is away; the workers send what was requeued when it is back\n"
    assert rows(shop.app, id=letters[0])[0]["due"] == 0


def test_dropping_keeps_the_row_and_says_who_did_it(shop: Shop, letters: list[str]) -> None:
    assert shop.out("dead", "drop", letters[0], "--by", "ada") == "dropped 1 dead letter\n"
    assert shop.json("dead", "drop", "--all", "--yes") == {"dropped": 2, "skipped": 0}
    assert outcomes(shop, letters) == ["dropped"] * 3
    assert audit(shop, "delivery.dropped")[0]["by"] == "ada"
    shop.fails(1, f"delivery {letters[0]} is dropped, not dead", "dead", "show", letters[0])


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
    deliver, done = shop.app.publisher.deliver, []

    def once(agent: str, items: Any) -> None:
        if done:
            raise KeyboardInterrupt
        done.append(deliver(agent, items))

    monkeypatch.setattr(shop.app.publisher, "deliver", once)
    monkeypatch.setattr("pipeline.operations.replay.BATCH", 1)
    monkeypatch.setattr("pipeline.operations.replay._ToAgent.size", 1)
    result = shop("replay", "--to", "billing", "--all", "--id", "r1")
    assert (result.exit_code, result.stdout) == (130, "")
    assert result.stderr.startswith("pipeline: the replay r1 stopped after 1 events; repeat it with id='r1'")


def test_a_replay_without_a_broker_is_an_error(shop: Shop) -> None:
    published(shop, 1)
    without_broker(shop)
    shop.fails(1, "did not take", "replay", "--to", "billing", "--all")


# -- events that nobody listened to


def test_unrouted_events_are_listed_and_given_to_new_agents(shop: Shop) -> None:
    seen, left = shop.app.publish("user.seen"), shop.app.publish("user.left")
    assert [line.split()[3] for line in shop.out("unrouted").splitlines()] == [left.id, seen.id]
    assert [line["id"] for line in shop.json_lines("unrouted", "--type", "*.seen")] == [seen.id]
    assert shop("unrouted", "--limit", "1").stderr.startswith("pipeline: there are more than 1 unrouted events; ")
    run_agents(shop.app, {"tracker": "user.#"})
    assert shop.json("unrouted", "--replay", "--type", "*.seen") == {"replayed": 1}
    assert shop.out("unrouted", "--replay") == "1 events have an agent now; the workers send them\n"
    result = shop("unrouted")
    assert (result.stdout, result.stderr) == ("", "pipeline: no unrouted events\n")
