"""The `pipeline` command: what it prints, where, and with which exit code."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pipeline import ConfigError, Event
from pipeline.cli.main import agent_rows, cli, load_app
from pipeline.ledger.reconcile import register
from pipeline.operations.doctor import without_passwords
from tests.commands import process, wait_until_in

pytestmark = pytest.mark.usefixtures("empty_directory")

Run = Callable[..., Any]


# -- help


@pytest.mark.parametrize("command", [[], ["publish"], ["agents"], ["doctor"], ["demo"]])
def test_help_has_examples(command: list[str]) -> None:
    result = CliRunner().invoke(cli, [*command, "--help"])
    assert result.exit_code == 0
    assert f"\n    {' '.join(['pipeline', *command])}" in result.stdout


def test_the_version_is_printed() -> None:
    from pipeline import __version__

    assert CliRunner().invoke(cli, ["--version"]).stdout == f"pipeline {__version__}\n"


def test_a_command_that_does_not_exist_is_a_usage_error() -> None:
    result = CliRunner().invoke(cli, ["publsh"])
    assert result.exit_code == 2
    assert "publsh" in result.stderr


# -- publish


def test_publish_prints_the_id_alone(run: Run) -> None:
    result = run("publish", "order.created", "--data", '{"number": 7}')
    assert (result.exit_code, result.stderr) == (0, "")
    assert len(result.stdout.strip()) == 36


def test_publish_prints_the_event_as_json(run: Run, module: str) -> None:
    register(load_app(module).ledger, {"audit": (("#",), None), "billing": (("order.*",), None)})
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
        (["order.created", "--data", f'"{"x" * 300_000}"'], 1, "the limit is 262,144"),
    ],
)
def test_publish_names_the_wrong_field(run: Run, arguments: list[str], code: int, said: str) -> None:
    result = run("publish", *arguments)
    assert result.exit_code == code
    assert said in result.stderr
    assert result.stdout == ""


def test_publish_to_an_agent_that_is_unknown_names_the_nearest(run: Run, module: str) -> None:
    register(load_app(module).ledger, {"billing": (("order.*",), None)})
    result = run("publish", "order.created", "--target", "biling")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "pipeline: targets: no agent is called 'biling'; did you mean 'billing'?\n"


def test_publish_later_prints_the_id_and_nothing_else(run: Run, module: str) -> None:
    result = run("publish", "order.created", "--delay", "60")
    assert (result.exit_code, result.stderr) == (0, "")
    assert load_app(module).cancel(result.stdout.strip())
    at = Event.decode(run("publish", "order.created", "--at", "2199-03-01T09:30:00Z", "--json").stdout)
    assert at.time.isoformat() == "2199-03-01T09:30:00+00:00"


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
    broker = ["--broker-url", "amqp://me:secret@127.0.0.1:1//"]
    found = process(*broker, "--app", module, "publish", "order.created")
    assert (found.returncode, len(found.stdout.strip())) == (0, 36)
    assert found.stderr == (
        "pipeline: the broker amqp://me:**@127.0.0.1:1// is away; the event is accepted, and a worker sends it when "
        "the broker is back\n"
    )
    assert [each.event.id for each in load_app(module).get_events()] == [found.stdout.strip()]
    assert process(*broker, "--app", module, "publish", "order.created", "--delay", "60").stderr == ""


def test_publish_without_broker_and_ledger_is_one_line_without_the_password(module: str) -> None:
    broker = ["--broker-url", "amqp://me:secret@127.0.0.1:1//"]
    found = process(*broker, "--app", module, "publish", "order.created", PIPELINE_LEDGER_URL="")
    assert (found.returncode, found.stdout) == (1, "")
    assert process(*broker, "--ledger-url", "", "--app", module, "publish", "order.created").returncode == 1
    assert found.stderr.startswith("pipeline: the broker amqp://me:**@127.0.0.1:1// did not take the event")
    assert len(found.stderr.splitlines()) == 1


# -- apps and settings


def test_an_app_is_found_by_name_by_its_module_or_by_its_celery_app(module: str) -> None:
    app = load_app(f"{module}:app")
    assert load_app(module) is app
    assert load_app(f"{module}:app.celery".rpartition(".")[0]) is app
    vars(sys.modules[module])["celery_app"] = app.celery
    assert load_app(f"{module}:celery_app") is app


@pytest.mark.parametrize(("spec", "said"), [("no_such_shop:app", "no_such_shop"), ("json:loads", "is no Pipeline")])
def test_an_app_that_is_none_is_an_error(run: Run, spec: str, said: str) -> None:
    result = run("agents", app=spec)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"pipeline: --app {spec}: ")
    assert said in result.stderr


def test_a_wrong_setting_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "my.toml").write_text("brokr_url = 'x'")
    found = process("--config", "my.toml", "agents")
    assert found.returncode == 1
    assert found.stderr == "pipeline: my.toml: unknown setting 'brokr_url'; did you mean 'broker_url'?\n"


def test_a_setting_with_a_password_is_shown_without_it() -> None:
    found = process("--broker-url", "amqpx://me:secret@host", "agents")
    assert found.returncode == 1
    assert "secret" not in found.stderr
    assert "did you mean 'amqp'?" in found.stderr


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("amqp://me:secret@host//", "amqp://me:**@host//"),
        ("redis://:secret@host/0 and smtp://a:b%40c@d", "redis://:**@host/0 and smtp://a:**@d"),
        ("amqp://me:s@cr:et@host//", "amqp://me:**@host//"),
        ("http://host:80/a@b sqlite:////tmp/x.db", "http://host:80/a@b sqlite:////tmp/x.db"),
    ],
)
def test_passwords_in_urls_are_hidden(text: str, shown: str) -> None:
    assert without_passwords(text) == shown


def test_an_app_with_two_pipelines_wants_a_name(module: str) -> None:
    from pipeline import Pipeline

    load_app(module)
    vars(sys.modules[module])["second"] = Pipeline("second")
    with pytest.raises(ConfigError, match="has 2 Pipelines"):
        load_app(module)


# -- agents


def test_agents_are_listed_with_their_options(run: Run) -> None:
    result = run("agents")
    heading, billing, audit = result.stdout.splitlines()
    assert heading.split()[:3] == ["agent", "patterns", "payload"]
    assert " ".join(billing.split()) == "billing order.created order.* OrderCreated 7 30/m 2.5 s agent.billing"
    assert audit.split() == ["audit", "#", "-", "3", "-", "-", "agent.audit"]


def test_agents_are_printed_as_json(run: Run) -> None:
    billing = json.loads(run("agents", "--json").stdout)[0]
    assert billing == {
        "name": "billing",
        "patterns": ["order.created", "order.*"],
        "payload": "OrderCreated",
        "retries": 7,
        "rate_limit": "30/m",
        "timeout": 2.5,
        "priority": None,
        "queue": "agent.billing",
    }


def test_without_settings_the_agents_are_those_of_the_briefing() -> None:
    found = process("agents", "--json")
    assert {row["name"] for row in json.loads(found.stdout)} >= {"audit", "notifier", "research", "email"}


def test_an_agent_module_that_cannot_be_imported_is_named_with_the_line(tmp_path: Path) -> None:
    (tmp_path / "broken_agents.py").write_text("\nraise RuntimeError('out of coffee')\n")
    found = process("agents", PIPELINE_AGENTS='["broken_agents"]')
    assert found.returncode == 1
    assert "importing broken_agents: RuntimeError: out of coffee" in found.stderr
    assert "broken_agents.py:2" in found.stderr
    assert len(found.stderr.splitlines()) == 1


def test_rows_can_be_had_without_the_command(module: str) -> None:
    assert [row["name"] for row in agent_rows(load_app(module))] == ["billing", "audit"]


# -- Ctrl-C


def test_ctrl_c_ends_a_command_without_a_traceback(module: str) -> None:
    command = [sys.executable, "-m", "pipeline.cli.main", "--app", module, "publish", "order.created", "--data", "-"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        wait_until_in(running.pid, "read")
        running.send_signal(signal.SIGINT)
        _, said = running.communicate(timeout=20)
    assert running.returncode == 130
    assert said.strip() == ""
