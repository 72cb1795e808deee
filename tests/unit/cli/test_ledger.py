"""The commands that keep the ledger in order: what they print, where, and with which exit code."""

import json
import os
import pty
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from pipeline import Event
from pipeline.contracts.blobs import blobs
from pipeline.contracts.blobs.source import Given
from pipeline.core.times import now
from pipeline.ledger.aside import Bad
from pipeline.ledger.database.migrate import HEAD
from pipeline.operations.doctor import ledger
from tests.commands import Shop, process, wait_until_in
from tests.records import HOUR, age, die, lose_outbox, order, settle


def backdated(shop: Shop, number: int, micros: int = HOUR) -> list[Event]:
    """Publish events that are done, and were recorded longer ago."""
    published = [shop.app.publish(order(n)) for n in range(number)]
    settle(shop.app, published)
    lose_outbox(shop.app)
    age(shop.app, published, micros)
    with shop.app.ledger.database.transaction() as connection:
        connection.exec_driver_sql("UPDATE pipeline_agents SET seq = 1000")
    return published


# -- the ledger itself


def test_upgrading_says_from_where_to_where(shop: Shop, tmp_path: Path) -> None:
    assert f"is up to date, with schema {HEAD}" in shop.out("ledger", "upgrade")
    url = f"sqlite:///{tmp_path}/state/ledger.db"
    assert shop.json("ledger", "upgrade") == {"ledger": url, "before": HEAD, "after": HEAD}
    url = f"sqlite:///{tmp_path}/deep/new.db"
    found = process("--ledger-url", url, "ledger", "upgrade")
    assert (found.returncode, found.stdout) == (0, f"the ledger {url} was created, with schema {HEAD}\n")


def test_a_newer_schema_is_left_alone(shop: Shop) -> None:
    with shop.app.ledger.database.transaction() as connection:
        connection.exec_driver_sql("UPDATE pipeline_version SET version_num = '9999'")
    for command in (["ledger", "upgrade"], ["ledger", "status"], ["events"]):
        found = process("--app", shop.name, *command)
        assert found.returncode == 1
        assert f"has schema 9999, newer than {HEAD}" in found.stderr
        assert len(found.stderr.splitlines()) == 1


def test_the_status_is_numbers(shop: Shop) -> None:
    event = shop.app.publish(order())
    die(shop.app, event)
    found = shop.json("ledger", "status")
    assert (found["schema"], found["events"], found["agents"]) == (HEAD, 1, 2)
    assert found["outcomes"] == {"dead": 1}
    said = dict(line.rsplit(maxsplit=1) for line in shop.out("ledger", "status").splitlines())
    assert (said["events"], said["deliveries dead"]) == ("1", "1")


def test_passwords_are_not_printed() -> None:
    found = process("--ledger-url", "postgresql://me:secret@127.0.0.1:1/x", "ledger", "status")
    assert found.returncode == 1
    assert "me:***@" in found.stderr or "me:**@" in found.stderr
    assert "secret" not in found.stdout + found.stderr


def test_everything_says_that_the_ledger_is_off(shop: Shop) -> None:
    commands = [
        ["events"], ["event", "x"], ["trace", "x"], ["settle", "x"], ["timers"], ["cancel", "x"], ["ledger", "upgrade"],
        ["ledger", "status"], ["ledger", "prune", "--keep", "1", "--yes"], ["ledger", "forget", "x"],
        ["ledger", "rebuild", "revenue", "--yes"], ["dead", "list"], ["dead", "count"], ["unrouted"],
        ["replay", "--to", "billing", "--all"], ["publish", "order.paid", "--delay", "1"],
    ]  # fmt: skip
    shop.app.close()
    shop.app.bus.has_ledger = False
    for opened in ("ledger", "outbox"):
        vars(shop.app.bus).pop(opened, None)
    for command in commands:
        shop.fails(1, "the setting ledger_url is empty", *command)


def test_the_option_names_the_ledger(shop: Shop, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/other.db"
    shop.app.publish(order())
    options = ("--ledger-url", url, "--app", shop.name)
    found = process(*options, "ledger", "status", "--json")
    assert (json.loads(found.stdout)["ledger"], json.loads(found.stdout)["events"]) == (url, 0)
    found = process(*options, "doctor", "--json")
    shown = {check["name"]: check["detail"] for check in json.loads(found.stdout)}
    assert shown["setting ledger_url"] == f"{url}  [--ledger-url]"


def test_what_was_set_aside_is_counted_shown_with_the_reason_and_forgotten(shop: Shop) -> None:
    assert "nothing was set aside" in shop("ledger", "aside").stderr
    shop.app.ledger.aside.note("timers", [Bad("e1", "too\x1b deep", '{"id": "e1"}'), Bad("e2", "no JSON")])
    assert shop.json("ledger", "status")["aside"] == 2
    said = shop.out("ledger", "aside")
    assert "e1" in said
    assert "no JSON" in said
    assert "\x1b" not in said
    found = {one["id"]: one for one in shop.json("ledger", "aside")}
    assert (found["e1"]["place"], found["e1"]["body"], found["e1"]["reason"]) == (
        "timers",
        '{"id": "e1"}',
        r"too\x1b deep",
    )
    checks = {one.name: one for one in [ledger(shop.app.bus)]}
    assert (checks["ledger"].status, "2 set aside" in checks["ledger"].detail) == ("warn", True)
    assert shop.json("ledger", "aside", "--forget", "e1") == {"forgotten": 1}
    assert shop.json("ledger", "aside", "--forget", "--yes") == {"forgotten": 1}
    assert shop.json("ledger", "status")["aside"] == 0


# -- pruning and restoring


def test_pruning_writes_an_archive_that_can_be_restored(shop: Shop) -> None:
    backdated(shop, 3)
    found = shop.json("ledger", "prune", "--older-than", "30m", "--archive", "old.jsonl.gz", "--yes")
    assert found == {
        "events": 3,
        "deliveries": 6,
        "dead": 0,
        "unfinished": 0,
        "unreadable": 0,
        "archive": "old.jsonl.gz",
        "blobs": 0,
    }
    assert shop.json_lines("events") == []
    assert "3 events and 6 deliveries are back" in shop.out("ledger", "restore", "old.jsonl.gz")
    assert len(shop.json_lines("events")) == 3
    assert shop.json("ledger", "restore", "old.jsonl.gz") == {"events": 0, "deliveries": 0, "known": 3, "aside": 0}


def test_pruning_says_what_stays(shop: Shop) -> None:
    backdated(shop, 3)
    dead = shop.app.publish(order(9))
    die(shop.app, dead)
    said = shop.out("ledger", "prune", "--keep", "0", "--yes")
    assert said == "3 events and 6 deliveries have left the ledger; 1 stay with dead letters\n"


def test_pruning_says_how_many_blobs_have_gone(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.app.blobs.keep(Given(b"x" * 200_000))
    prune = ["ledger", "prune", "--keep", "0", "--yes"]
    assert shop.out(*prune) == "0 events and 0 deliveries have left the ledger\n"
    later = now() + 2 * blobs.DAY
    monkeypatch.setattr(blobs, "now", lambda: later)
    assert shop.out(*prune) == "0 events and 0 deliveries have left the ledger, and 1 blobs their store\n"


def test_pruning_asks_first(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    backdated(shop, 2)
    prune = ["ledger", "prune", "--older-than", "30m"]
    shop.fails(2, "--yes: needed, because standard input is no terminal", *prune, stdin="y\n")
    monkeypatch.setattr("pipeline.cli.group.can_ask", lambda: True)
    for answer in ("n\n", "\n", "", "maybe\n"):
        result = shop(*prune, stdin=answer)
        assert result.exit_code == 1
        assert "that are older than 0:30:00? [y/N] pipeline: nothing was done" in result.stderr
    assert len(shop.json_lines("events")) == 2
    assert shop(*prune, stdin="Y\n").exit_code == 0
    assert shop.json_lines("events") == []


def test_pruning_needs_to_know_what(shop: Shop, tmp_path: Path) -> None:
    shop.fails(2, "--older-than and --keep: say what may go", "ledger", "prune", "--yes")
    shop.fails(2, "--keep", "ledger", "prune", "--keep", "-1", "--yes")
    (tmp_path / "there").write_text("")
    shop.fails(1, "there", "ledger", "prune", "--keep", "0", "--archive", "there", "--yes")


def test_restoring_says_what_is_wrong_with_an_archive(shop: Shop, tmp_path: Path) -> None:
    shop.fails(2, "does not exist", "ledger", "restore", "none.jsonl")
    (tmp_path / "bad.jsonl").write_text("no archive\n")
    shop.fails(1, "bad.jsonl", "ledger", "restore", "bad.jsonl")


def test_a_question_on_a_terminal_can_be_answered_with_ctrl_c(shop: Shop) -> None:
    backdated(shop, 1)
    ours, theirs = pty.openpty()
    command = shop.command("ledger", "prune", "--keep", "0")
    with subprocess.Popen(command, stdin=theirs, stdout=-1, stderr=-1, text=True, start_new_session=True) as running:
        assert running.stderr is not None
        asked = running.stderr.read(len("Without"))
        wait_until_in(running.pid, "read")
        running.send_signal(signal.SIGINT)
        running.communicate(timeout=20)
    os.close(ours)
    os.close(theirs)
    assert (asked, running.returncode) == ("Without", 130)
    assert len(shop.json_lines("events")) == 1


# -- read models and agents


def test_a_read_model_is_rebuilt(shop: Shop) -> None:
    for n in range(3):
        shop.app.publish(order(n))
    assert shop.out("ledger", "rebuild", "revenue", "--yes") == "revenue: 3 events passed\n"
    assert shop.json("ledger", "rebuild", "revenue", "--yes") == {"projection": "revenue", "events": 3}
    shop.fails(2, "--yes: needed", "ledger", "rebuild", "revenue")
    shop.fails(1, "no projection is called 'revenu'; did you mean 'revenue'?", "ledger", "rebuild", "revenu")
    shop.fails(1, "projection 'forever' cannot be rebuilt", "ledger", "rebuild", "forever", "--yes")


def test_an_agent_is_forgotten(shop: Shop) -> None:
    assert shop.out("ledger", "forget", "stock") == "forgot stock\n"
    assert shop.json("ledger", "status")["agents"] == 1
    shop.fails(1, "no agent is called 'biling'; did you mean 'billing'?", "ledger", "forget", "biling")
    assert shop.json("ledger", "forget", "billing") == {"agent": "billing", "forgotten": True}


# -- Ctrl-C in a long work


@pytest.mark.parametrize(
    "command", [["ledger", "prune", "--keep", "0", "--yes"], ["ledger", "rebuild", "revenue", "-y"]]
)
def test_a_command_that_is_stopped_ends_with_130(
    shop: Shop, command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(shop.app, command[1], stopped)
    result = shop(*command)
    assert result.exit_code == 130
    assert "stopped after 0 events; " in result.stderr


# -- erasing


def test_erasing_says_what_it_would_do_asks_and_says_what_it_has_done(shop: Shop) -> None:
    event = shop.app.publish(order(), subject="ada")
    settle(shop.app, [event])
    lose_outbox(shop.app)
    assert "would blank 1 events" in shop.out("ledger", "erase", "--subject", "ada", "--dry-run")
    asked = process("--app", shop.name, "ledger", "erase", "--subject", "ada")
    assert asked.returncode == 2
    assert "Blank the data of all finished events of subject ada" in asked.stderr
    assert shop.app.get_event(event.id).event.data is not None
    erased = shop.json("ledger", "erase", "--subject", "ada", "--yes", "--by", "the law")
    assert (erased["events"], erased["unfinished"]) == (1, 0)
    assert shop.app.get_event(event.id).event.data is None
    assert shop.app.get_event(erased["record"]).event.data["by"] == "the law"


def test_erasing_wants_to_know_whose_data(shop: Shop) -> None:
    for chosen in ([], ["--subject", "ada", "--correlation", "x"]):
        found = process("--app", shop.name, "ledger", "erase", *chosen, "--yes")
        assert found.returncode == 2
        assert "exactly one of them" in found.stderr
