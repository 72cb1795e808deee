"""The `pipeline` command as a whole: help, settings, and how it ends."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from pipeline.cli.main import cli
from tests.commands import process, wait_until_in

pytestmark = pytest.mark.usefixtures("empty_directory")


def commands(command: Any, *way: str) -> Iterator[tuple[str, ...]]:
    """Yield the words of every command there is, beginning with the whole."""
    if not way or not hasattr(command, "commands"):
        yield way
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, *way, name)


EVERY_COMMAND = sorted(commands(get_command(cli)))


# -- help, and how quick it is


@pytest.mark.parametrize("command", EVERY_COMMAND, ids=" ".join)
def test_help_has_examples(command: tuple[str, ...]) -> None:
    result = CliRunner().invoke(cli, [*command, "--help"])
    assert result.exit_code == 0
    example = " ".join(("pipeline", *command))
    assert f"\n    {example}" in result.stdout.replace("pipeline --app shop.bus:app ", "pipeline ")


@pytest.mark.parametrize("group", sorted({command[0] for command in EVERY_COMMAND if len(command) > 1}))
def test_a_groups_help_lists_its_commands(group: str) -> None:
    result = CliRunner().invoke(cli, [group, "--help"])
    assert result.exit_code == 0
    for command in EVERY_COMMAND:
        assert command[:1] != (group,) or f"\n  {command[1]} " in result.stdout


def test_the_version_is_printed() -> None:
    from pipeline import __version__

    assert CliRunner().invoke(cli, ["--version"]).stdout == f"pipeline {__version__}\n"


def test_a_command_that_does_not_exist_is_a_usage_error() -> None:
    result = CliRunner().invoke(cli, ["publsh"])
    assert result.exit_code == 2
    assert "publsh" in result.stderr


def test_help_does_not_import_the_database(tmp_path: Path) -> None:
    script = (
        "import sys, pipeline.cli.main as c\n"
        "try: c.cli(['subscriptions', '--help'])\n"
        "except SystemExit: pass\n"
        "print([name for name in ('sqlalchemy', 'alembic', 'httpcore') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout.splitlines()[-1] == "[]"


# -- settings


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


# -- Ctrl-C


def test_ctrl_c_ends_a_command_without_a_traceback(module: str) -> None:
    command = [sys.executable, "-m", "pipeline.cli.main", "--app", module, "publish", "order.created", "--data", "-"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        wait_until_in(running.pid, "read")
        running.send_signal(signal.SIGINT)
        _, said = running.communicate(timeout=20)
    assert running.returncode == 130
    assert said.strip() == ""


# -- demo


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([""], "a question has 1 to"),
        (["briefing", ""], "a question has 1 to"),
        (["--", "crew", ""], "a question has 1"),
    ],
)
def test_a_demo_that_is_not_named_is_the_briefing(arguments: list[str], says: str) -> None:
    result = CliRunner().invoke(cli, ["demo", *arguments])
    assert result.exit_code == 2
    assert says in " ".join(result.stderr.split())


def test_a_topic_of_the_crew_is_not_empty() -> None:
    pytest.importorskip("pydantic_ai")
    result = CliRunner().invoke(cli, ["demo", "crew", ""])
    assert result.exit_code == 2
    assert "a topic has 1 to 500 characters" in " ".join(result.stderr.split())


def test_celerys_command_finds_ours_and_imports_what_it_needs_only_when_it_runs() -> None:
    code = (
        "import sys; from celery.bin.celery import celery\n"
        "print('pipeline' in celery.commands, [m for m in ('typer', 'pipeline.cli.main') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert found.stdout == "True []\n"
