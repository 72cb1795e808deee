"""The command that publishes: what it prints, where, and with which exit code."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from pipeline import Event
from pipeline.cli.group import load_app
from tests.commands import process

pytestmark = pytest.mark.usefixtures("empty_directory")


Run = Callable[..., Any]


def test_publish_prints_the_id_alone(run: Run, module: str) -> None:
    load_app(module).ledger.subscribers.register({"billing": (("order.*",), None)})
    result = run("publish", "order.created", "--data", '{"number": 7}')
    assert (result.exit_code, result.stderr) == (0, "")
    assert len(result.stdout.strip()) == 36


def test_publish_prints_the_event_as_json(run: Run, module: str) -> None:
    load_app(module).ledger.subscribers.register({"audit": (("#",), None), "billing": (("order.*",), None)})
    options = [
        "--priority",
        "1",
        "--correlation-id",
        "c-1",
        "--subject",
        "s",
        "--target",
        "audit",
        "--target",
        "billing",
    ]
    result = run("publish", "order.created", "--data", '{"number": 7}', *options, "--json")
    event = Event.decode(result.stdout)
    assert event.data == {"number": 7}
    assert (event.priority, event.correlation_id, event.subject) == (1, "c-1", "s")
    assert event.targets == ("audit", "billing")


def test_publish_reads_data_from_a_file_or_standard_input(run: Run, tmp_path: Path) -> None:
    (tmp_path / "order.json").write_text('{"number": 8}')
    from_file = run("publish", "order.created", "--data", "@order.json", "--json")
    from_stdin = run("publish", "order.created", "--data", "-", "--json", stdin='{"number": 8}')
    assert Event.decode(from_file.stdout).data == Event.decode(from_stdin.stdout).data == {"number": 8}


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["order created"], 1, "type: 'order created' is not an event type"),
        (["order.created", "--data", "{number: 7}"], 2, "--data: not JSON"),
        (["order.created", "--data", "@missing.json"], 2, "--data: missing.json: No such file"),
        (["order.created", "--priority", "11"], 2, "--priority"),
        (["order.placed", "--data", f'"{"x" * 300_000}"'], 1, "the limit is 262,144"),
        (["order.created", "--data", "{}"], 1, "for agent 'billing' does not validate: number: Field required"),
    ],
)
def test_publish_names_the_wrong_field(run: Run, arguments: list[str], code: int, said: str) -> None:
    result = run("publish", *arguments)
    assert result.exit_code == code
    assert said in result.stderr
    assert result.stdout == ""


def test_publish_to_an_agent_that_is_unknown_names_the_nearest(run: Run, module: str) -> None:
    load_app(module).ledger.subscribers.register({"billing": (("order.*",), None)})
    result = run("publish", "order.created", "--target", "biling")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "pipeline: targets: no agent is called 'biling'; did you mean 'billing'?\n"


def test_publish_later_prints_the_id_and_nothing_else(run: Run, module: str) -> None:
    result = run("publish", "order.placed", "--delay", "60")
    assert (result.exit_code, result.stderr) == (0, "")
    assert load_app(module).cancel(result.stdout.strip())
    at = f"{datetime.now(UTC).year + 50}-03-01T09:30:00"
    later = run("publish", "order.placed", "--at", f"{at}Z", "--json")
    assert later.stderr == ""
    assert Event.decode(later.stdout).time.isoformat() == f"{at}+00:00"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--delay", "1", "--at", "2199-03-01"], "--delay and --at: not both of them"),
        (["--delay", "-1"], "--delay"),
        (["--at", "tomorrow"], "--at"),
    ],
)
def test_publish_later_wants_one_time(run: Run, options: list[str], said: str) -> None:
    result = run("publish", "order.created", *options)
    assert result.exit_code == 2
    assert said in result.stderr


def test_publish_without_a_broker_is_accepted_by_the_ledger(module: str) -> None:
    load_app(module).ledger.subscribers.register({"audit": (("#",), None)})
    broker = ["--broker-url", "amqp://me:secret@127.0.0.1:1//"]
    found = process(*broker, "--app", module, "publish", "order.placed")
    assert (found.returncode, len(found.stdout.strip())) == (0, 36)
    assert found.stderr.startswith("pipeline: BrokerUnavailable: the broker amqp://me:**@127.0.0.1:1// did not take")
    assert found.stderr.endswith("; what was accepted is kept and sent later\n")
    assert [each.event.id for each in load_app(module).get_events()] == [found.stdout.strip()]
    assert process(*broker, "--app", module, "publish", "order.placed", "--delay", "60").stderr == ""


def test_publish_without_broker_and_ledger_is_one_line_without_the_password(module: str) -> None:
    broker = ["--broker-url", "amqp://me:secret@127.0.0.1:1//"]
    found = process(*broker, "--app", module, "publish", "order.placed", PIPELINE_LEDGER_URL="")
    assert (found.returncode, found.stdout) == (1, "")
    assert process(*broker, "--ledger-url", "", "--app", module, "publish", "order.placed").returncode == 1
    assert found.stderr.startswith("pipeline: the broker amqp://me:**@127.0.0.1:1// did not take the event")
    assert len(found.stderr.splitlines()) == 1


def test_fork_publishes_an_event_again_edited_and_prints_its_id(run: Run, module: str) -> None:
    app = load_app(module)
    app.ledger.subscribers.register({"billing": (("order.*",), None)})
    id = run("publish", "order.created", "--data", '{"number": 7}', "--metadata", "user=u1").stdout.strip()
    result = run("fork", id, "--agent", "billing", "--data", '{"number": 8}')
    assert (result.exit_code, result.stderr) == (0, "")
    forked = app.get_event(result.stdout.strip()).event
    assert (forked.data, forked.targets) == ({"number": 8}, ("billing",))
    assert forked.metadata == {"user": "u1", "forked_from": id}
    same = Event.decode(run("fork", id, "--json").stdout)
    assert (same.data, same.targets) == ({"number": 7}, ())
    wrong = run("fork", "nothing")
    assert wrong.exit_code == 1
    assert "no event 'nothing'" in wrong.stderr
