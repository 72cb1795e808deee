"""The commands that read the ledger and keep it in order: what they print, where, and with which exit code."""

import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from pipeline import Event
from pipeline.cli import cli
from pipeline.ids import delivery_id
from pipeline.ledger.migrate import HEAD
from pipeline.ledger.tables import events, timers
from pipeline.terminal import printable, read_age, read_moment, read_time, working
from tests.commands import Shop, opened
from tests.records import age, die, lose_outbox, order, rows, settle, succeed

HOUR = 3_600_000_000
UNKNOWN = "01980c5e-7d1c-7a52-9f0e-6a4e8f7f0d11"
COMMANDS = [
    ["events"], ["event"], ["trace"], ["settle"], ["timers"], ["cancel"], ["ledger"],
    *(["ledger", name] for name in ("upgrade", "status", "prune", "restore", "rebuild", "forget")),
]  # fmt: skip


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    with opened(tmp_path, monkeypatch) as found:
        yield found


def backdated(shop: Shop, number: int, micros: int = HOUR) -> list[Event]:
    """Publish events that are done, and were recorded longer ago."""
    published = [shop.app.publish(order(n)) for n in range(number)]
    settle(shop.app, published)
    lose_outbox(shop.app)
    age(shop.app, published, micros)
    with shop.app.ledger.store.transaction() as connection:
        connection.exec_driver_sql("UPDATE pipeline_agents SET seq = 1000")
    return published


# -- help, and how quick it is


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_examples(command: list[str]) -> None:
    result = CliRunner().invoke(cli, [*command, "--help"])
    assert result.exit_code == 0
    if command != ["ledger"]:
        assert "\n    pipeline " in result.stdout
        assert " ".join(command) in result.stdout.partition("Examples:")[2]


def test_help_does_not_import_the_database(tmp_path: Path) -> None:
    script = (
        "import sys, pipeline.cli as c\n"
        "try: c.cli(['ledger', '--help'])\n"
        "except SystemExit: pass\n"
        "print([name for name in ('sqlalchemy', 'alembic') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout.splitlines()[-1] == "[]"


# -- times


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("120", 120),
        ("0", 0),
        ("2026-03-01T09:30:00Z", datetime(2026, 3, 1, 9, 30, tzinfo=UTC)),
        ("2026-03-01T09:30:00+02:00", datetime(2026, 3, 1, 7, 30, tzinfo=UTC)),
        (" 2026-03-01 ", datetime(2026, 3, 1).astimezone()),
    ],
)
def test_a_moment_is_a_number_or_a_time(text: str, found: Any) -> None:
    assert read_moment(text) == found


def test_a_time_without_a_zone_is_local(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    try:
        assert read_time("2026-07-01T09:30") == datetime(2026, 7, 1, 13, 30, tzinfo=UTC)
        assert read_moment("2026-01-01T09:30") == datetime(2026, 1, 1, 14, 30, tzinfo=UTC)
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("90s", timedelta(seconds=90)),
        ("30m", timedelta(minutes=30)),
        ("1.5h", timedelta(hours=1.5)),
        ("7d", timedelta(days=7)),
        ("4w", timedelta(weeks=4)),
    ],
)
def test_an_age_is_a_number_and_a_unit(text: str, found: timedelta) -> None:
    assert read_age(text) == found
    assert abs(read_moment(text) - (datetime.now(UTC) - found)) < timedelta(seconds=10)  # type: ignore[operator]


@pytest.mark.parametrize(
    "text", ["", "soon", "2h30", "h", "-5", "2y", "9" * 19, "9" * 5000, "²", "999999999999d", "90000000d",
             "0001-01-01T00:00+14:00", "2026-13-01"]
)  # fmt: skip
def test_what_is_no_moment_is_a_usage_error(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="is no time; write an ISO time such as"):
        read_moment(text)


@pytest.mark.parametrize("text", ["", "7", "d", "-1d", "999999999999w"])
def test_what_is_no_age_is_a_usage_error(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="is no age; write one such as"):
        read_age(text)


def test_a_wrong_time_names_the_option(shop: Shop) -> None:
    shop.fails(2, "Invalid value for '--since': 'soon' is no time", "events", "--since", "soon")
    shop.fails(2, "Invalid value for '--up-to': '1y' is no time", "events", "--up-to", "1y")
    shop.fails(2, "Invalid value for '--older-than': '30' is no age", "ledger", "prune", "--older-than", "30")
    shop.fails(2, "Invalid value for '--at': '2h' is no time", "publish", "order.paid", "--at", "2h")


# -- events


def test_events_are_lines_with_number_time_type_id_subject_and_source(shop: Shop) -> None:
    first = shop.app.publish("order.paid", subject="A1")
    second = shop.app.publish("order.shipped")
    lines = [line.split() for line in shop.out("events").splitlines()]
    assert [[line[0], *line[2:]] for line in lines] == [
        ["1", "order.paid", first.id, "A1", "/shop"],
        ["2", "order.shipped", second.id, "-", "/shop"],
    ]
    assert abs(datetime.fromisoformat(lines[0][1]) - first.time) < timedelta(milliseconds=1)


def test_events_as_json_are_lines_of_cloudevents_with_their_number(shop: Shop) -> None:
    published = [shop.app.publish("order.paid", {"n": n}) for n in range(3)]
    found = shop.json_lines("events")
    assert [line["seq"] for line in found] == [1, 2, 3]
    assert [Event.decode(json.dumps(line)) for line in found] == published


def test_events_are_chosen_by_type_subject_correlation_and_time(shop: Shop) -> None:
    paid = shop.app.publish("order.paid", subject="A1", correlation_id="c1")
    placed = shop.app.publish("order.placed", subject="A2")

    def ids(*options: str) -> list[str]:
        return [line["id"] for line in shop.json_lines("events", *options)]

    assert ids("--type", "*.none") == []
    assert ids("--type", "*.paid") == [paid.id] == ids("--agent-id", "A1") == ids("--correlation", "c1")
    assert ids("--since", "2") == [placed.id] == ids("--since", placed.time.isoformat())
    assert ids("--up-to", "1") == [paid.id]
    assert ids("--since", "1h") == [paid.id, placed.id]
    assert ids("--up-to", "1h") == []
    shop.fails(1, "order..p", "events", "--type", "order..p")


def test_more_events_than_the_limit_are_pointed_out(shop: Shop) -> None:
    for _ in range(5):
        shop.app.publish("order.paid")
    result = shop("events", "--limit", "3")
    assert len(result.stdout.splitlines()) == 3
    assert result.stderr.startswith("pipeline: there are more than 3 events; ")
    assert shop("events", "--limit", "5").stderr == ""
    everything = shop("events", "--limit", "3", "--all")
    assert (len(everything.stdout.splitlines()), everything.stderr) == (5, "")


def test_what_replays_emitted_is_listed_on_request(shop: Shop) -> None:
    from pipeline.ledger.rows import Record

    event = shop.app.publish("order.paid")
    copy = event.evolve(id="r-1")
    shop.app.ledger.append([Record(copy, copy.encode(), replay="again")], due=None)
    assert [line["id"] for line in shop.json_lines("events")] == [event.id]
    assert shop.json_lines("events", "--replayed")[1]["replay"] == "again"


def test_what_a_terminal_would_obey_is_shown(shop: Shop) -> None:
    shop.app.publish("order.paid", {"text": "\x9b2J"}, subject="a\x1b[2Jb\nc")
    assert "a\\x1b[2Jb\\nc" in shop.out("events")
    assert printable("a\x1b\n\tö", keep="\n") == "a\\x1b\n\\tö"
    event = shop.json_lines("events")[0]["id"]
    assert not {"\x1b", "\x9b"} & set(shop.out("event", event))


def test_a_reader_that_goes_away_is_no_error(shop: Shop) -> None:
    shop.app.publish_many([("order.paid", "x" * 1000)] * 300)
    with subprocess.Popen(shop.command("events", "--json", "--all"), stdout=-1, stderr=-1, text=True) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        running.stdout.readline()
        running.stdout.close()
        assert running.stderr.read() == ""


# -- one event


def test_an_event_is_shown_with_its_data_and_deliveries(shop: Shop) -> None:
    event = shop.app.publish(order(7), subject="A7", priority=2)
    succeed(shop.app, event, "stock")
    die(shop.app, event, error="card refused\nfor good")
    said = shop.out("event", event.id)
    assert '"order_id": "A7"' in said
    assert f"correlationid   {event.id}" in said
    table = [line.split() for line in said.partition("agent  ")[2].splitlines()[1:]]
    assert [line[:4] for line in table] == [["stock", "succeeded", "1", "0"], ["billing", "dead", "1", "0"]]
    assert "card refused\\nfor good" in said
    found = shop.json("event", event.id)
    assert (found["seq"], found["data"], found["priority"]) == (1, event.data, 2)
    assert [(each["agent"], each["outcome"]) for each in found["deliveries"]] == [
        ("stock", "succeeded"),
        ("billing", "dead"),
    ]
    assert found["deliveries"][0]["started"].endswith("Z")


def test_an_event_without_deliveries_says_so(shop: Shop) -> None:
    event = shop.app.publish(order())
    assert shop("event", event.id).stderr == "pipeline: it has no deliveries\n"
    assert shop.json("event", event.id)["deliveries"] == []


@pytest.mark.parametrize("command", ["event", "trace", "settle"])
def test_an_unknown_id_is_an_error(shop: Shop, command: str) -> None:
    shop.fails(1, f"no event '{UNKNOWN}' is in the ledger", command, UNKNOWN)
    shop.fails(2, "Missing argument 'ID'", command)


# -- traces


def test_a_trace_is_a_tree(shop: Shop) -> None:
    event = shop.app.publish(order())
    succeed(shop.app, event, "stock")
    said = shop.out("trace", event.id)
    assert f"order.placed {event.id} from /shop" in said
    assert "  -> stock: succeeded" in said
    assert [each["id"] for each in shop.json("trace", event.id)["events"]] == [event.id]


def test_settling_waits_until_everything_is_done(shop: Shop) -> None:
    event = shop.app.publish(order())
    shop.fails(1, f"after 0.1 s event {event.id} has not settled: ", "settle", event.id, "--timeout", "0.1")
    settle(shop.app, [event])
    lose_outbox(shop.app)
    assert "-> billing: succeeded" in shop.out("settle", event.id, "--timeout", "5")
    assert len(shop.json("settle", event.id)["events"][0]["deliveries"]) == 2
    shop.fails(2, "--timeout", "settle", event.id, "--timeout", "-1")


def test_ctrl_c_while_waiting_says_how_to_go_on(shop: Shop) -> None:
    event = shop.app.publish(order())
    command = shop.command("settle", event.id, "--timeout", "60")
    with subprocess.Popen(command, stdout=-1, stderr=-1, text=True) as running:
        wait_until_open(running.pid, "ledger.db")
        time.sleep(0.3)
        running.send_signal(signal.SIGINT)
        said, complained = running.communicate(timeout=20)
    assert (running.returncode, said) == (130, "")
    assert complained == f"pipeline: waiting for {event.id} stopped; `pipeline trace {event.id}` shows what is done\n"


def wait_until_open(pid: int, name: str) -> None:
    """Wait until a process has a file open."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        for link in Path(f"/proc/{pid}/fd").iterdir():
            try:
                if os.readlink(link).endswith(name):
                    return
            except FileNotFoundError:
                continue
        time.sleep(0.02)
    raise AssertionError(f"{name} was not opened")


# -- timers


def test_delayed_events_are_listed_and_cancelled(shop: Shop) -> None:
    at = (datetime.now(UTC) + timedelta(days=2)).replace(microsecond=0)
    later = shop.out("publish", "order.paid", "--at", at.isoformat()).strip()
    sooner = shop.out("publish", "order.shipped", "--delay", "60").strip()
    heading, *lines = [line.split() for line in shop.out("timers").splitlines()]
    assert heading == ["kind", "due", "id", "type", "agent"]
    assert [[line[0], *line[2:]] for line in lines] == [
        ["publish", sooner, "order.shipped", "-"],
        ["publish", later, "order.paid", "-"],
    ]
    found = shop.json("timers")
    assert datetime.fromisoformat(found[1]["due"]) == at
    assert shop("timers", "--limit", "1").stderr.startswith("pipeline: there are more than 1; ")
    assert shop.out("cancel", sooner) == f"cancelled {sooner}\n"
    assert shop.json("cancel", later) == {"id": later, "cancelled": True}
    assert rows(shop.app, timers) == [] == rows(shop.app, events)
    shop.fails(1, f"no event '{later}' is due later", "cancel", later)
    empty = shop("timers")
    assert (empty.stdout, empty.stderr) == ("", "pipeline: nothing is due later\n")
    assert shop.json("timers") == []


def test_a_retry_is_listed_with_its_agent(shop: Shop) -> None:
    event = shop.app.publish(order())
    id = delivery_id(event.id, "billing")
    shop.app.ledger.claim(id, event, "billing", worker="w")
    assert shop.app.ledger.again(id, event, 1, delay=60, error="busy", timer=True)
    (timer,) = shop.json("timers")
    assert (timer["kind"], timer["id"], timer["type"], timer["agent"]) == ("retry", id, "order.placed", "billing")
    shop.fails(1, "is due later", "cancel", id)


# -- the ledger itself


def test_upgrading_says_from_where_to_where(shop: Shop, tmp_path: Path) -> None:
    assert f"is up to date, with schema {HEAD}" in shop.out("ledger", "upgrade")
    url = f"sqlite:///{tmp_path}/state/ledger.db"
    assert shop.json("ledger", "upgrade") == {"ledger": url, "before": HEAD, "after": HEAD}
    url = f"sqlite:///{tmp_path}/deep/new.db"
    command = [sys.executable, "-m", "pipeline.cli", "--ledger-url", url, "ledger", "upgrade"]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    assert found.stdout == f"the ledger {url} was created, with schema {HEAD}\n"


def test_a_newer_schema_is_left_alone(shop: Shop) -> None:
    with shop.app.ledger.store.transaction() as connection:
        connection.exec_driver_sql("UPDATE pipeline_version SET version_num = '9999'")
    for command in (["ledger", "upgrade"], ["ledger", "status"], ["events"]):
        found = shop.process(*command)
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
    command = [sys.executable, "-m", "pipeline.cli", "--ledger-url", "postgresql://me:secret@127.0.0.1:1/x"]
    found = subprocess.run([*command, "ledger", "status"], capture_output=True, text=True, check=False)
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
    shop.app.settings = shop.app.settings.model_copy(update={"ledger_url": ""})
    shop.app.close()
    shop.app._ledger = None
    for command in commands:
        shop.fails(1, "the setting ledger_url is empty", *command)


def test_the_option_names_the_ledger(shop: Shop, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/other.db"
    shop.app.publish(order())
    command = [sys.executable, "-m", "pipeline.cli", "--ledger-url", url, "--app", shop.name]
    found = subprocess.run([*command, "ledger", "status", "--json"], capture_output=True, text=True, check=True)
    assert (json.loads(found.stdout)["ledger"], json.loads(found.stdout)["events"]) == (url, 0)
    found = subprocess.run([*command, "doctor", "--json"], capture_output=True, text=True, check=False)
    shown = {check["name"]: check["detail"] for check in json.loads(found.stdout)}
    assert shown["setting ledger_url"] == f"{url}  [--ledger-url]"


# -- pruning and restoring


def test_pruning_writes_an_archive_that_can_be_restored(shop: Shop) -> None:
    backdated(shop, 3)
    found = shop.json("ledger", "prune", "--older-than", "30m", "--archive", "old.jsonl.gz", "--yes")
    assert found == {"events": 3, "deliveries": 6, "dead": 0, "unfinished": 0, "archive": "old.jsonl.gz"}
    assert shop.json_lines("events") == []
    assert "3 events and 6 deliveries are back" in shop.out("ledger", "restore", "old.jsonl.gz")
    assert len(shop.json_lines("events")) == 3
    assert shop.json("ledger", "restore", "old.jsonl.gz") == {"events": 0, "deliveries": 0, "known": 3}


def test_pruning_says_what_stays(shop: Shop) -> None:
    backdated(shop, 3)
    dead = shop.app.publish(order(9))
    die(shop.app, dead)
    said = shop.out("ledger", "prune", "--keep", "0", "--yes")
    assert said == "3 events and 6 deliveries have left the ledger; 1 stay with dead letters\n"


def test_pruning_asks_first(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    backdated(shop, 2)
    prune = ["ledger", "prune", "--older-than", "30m"]
    shop.fails(2, "--yes: needed, because standard input is no terminal", *prune, stdin="y\n")
    monkeypatch.setattr("pipeline.terminal.can_ask", lambda: True)
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
        time.sleep(0.5)
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


def test_ctrl_c_in_a_long_work_says_how_far_it_came() -> None:
    def stopped(said: str) -> str:
        try:
            with working("pruning", "events", "go on later") as show:
                show(1200)
                raise KeyboardInterrupt(said) if said else KeyboardInterrupt
        except KeyboardInterrupt as exc:
            return str(exc)

    assert stopped("") == "pruning stopped after 1,200 events; go on later"
    assert stopped("said already") == "said already"


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
