"""The commands that handle dead letters: what they print, where, and with which exit code."""

import getpass
import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from pipeline import Event
from tests.commands import Shop
from tests.records import HOUR, backdate, die, messages, order, rows

UNKNOWN = "01980c5e-7d1c-7a52-9f0e-6a4e8f7f0d11"


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
    assert outcomes(shop, letters) == ["queued", "dead", "dead"]
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
    shop.lose_broker()
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
