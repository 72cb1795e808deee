"""The `pipeline` command: what it prints, where, and with which exit code."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pipeline import ConfigError, Event
from pipeline.cli import agent_rows, cli, load_app
from pipeline.doctor import without_passwords
from pipeline.ledger.missing import register

SHOP = """
from celery import Celery
from pipeline import Context, Payload, Pipeline, Retry

class OrderCreated(Payload, type="order.created"):
    number: int

app = Pipeline("shop", directory={directory!r}, publish_timeout=1.5)

@app.agent(on=[OrderCreated, "order.*"], retry=Retry(max=7), rate_limit="30/m", timeout=2.5)
def billing(order: OrderCreated) -> None: ...

@app.agent(on="#")
async def audit(data, ctx: Context) -> None: ...
"""

#: Modules stay imported, so each test has one of its own.
NAMES = (f"shop_of_test_{n}" for n in count())

Run = Callable[..., Any]


@pytest.fixture(autouse=True)
def clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("PIPELINE_"):
            monkeypatch.delenv(name)
    for name in (
        "PIPELINE_CONFIG",
        "PIPELINE_BROKER_URL",
        "PIPELINE_LEDGER_URL",
    ):  # set first, so that they are gone after the test
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[str]:
    name = next(NAMES)
    (tmp_path / f"{name}.py").write_text(SHOP.format(directory=str(tmp_path / "state")))
    yield name
    if name in sys.modules:
        sys.modules[name].app.close()


@pytest.fixture
def run(shop: str) -> Run:
    def call(*arguments: str, app: str = shop, stdin: str | None = None) -> Any:
        return CliRunner().invoke(cli, ["--app", app, *arguments], input=stdin)

    return call


def process(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipeline.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, check=False)


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


def test_publish_prints_the_event_as_json(run: Run, shop: str) -> None:
    register(load_app(shop).ledger, {"audit": (("#",), None), "billing": (("order.*",), None)})
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


def test_publish_to_an_agent_that_is_unknown_names_the_nearest(run: Run, shop: str) -> None:
    register(load_app(shop).ledger, {"billing": (("order.*",), None)})
    result = run("publish", "order.created", "--target", "biling")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "pipeline: targets: no agent is called 'biling'; did you mean 'billing'?\n"


def test_publish_later_prints_the_id_and_nothing_else(run: Run, shop: str) -> None:
    result = run("publish", "order.created", "--delay", "60")
    assert (result.exit_code, result.stderr) == (0, "")
    assert load_app(shop).cancel(result.stdout.strip())
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


def test_publish_without_a_broker_is_accepted_by_the_ledger(shop: str) -> None:
    broker = ["--broker-url", "amqp://me:secret@127.0.0.1:1//"]
    found = process(*broker, "--app", shop, "publish", "order.created")
    assert (found.returncode, len(found.stdout.strip())) == (0, 36)
    assert found.stderr == (
        "pipeline: the broker amqp://me:**@127.0.0.1:1// is away; the event is accepted, and a worker sends it when "
        "the broker is back\n"
    )
    assert [each.event.id for each in load_app(shop).get_events()] == [found.stdout.strip()]
    assert process(*broker, "--app", shop, "publish", "order.created", "--delay", "60").stderr == ""


def test_publish_without_broker_and_ledger_is_one_line_without_the_password(shop: str) -> None:
    broker = ["--broker-url", "amqp://me:secret@127.0.0.1:1//"]
    found = process(*broker, "--app", shop, "publish", "order.created", PIPELINE_LEDGER_URL="")
    assert (found.returncode, found.stdout) == (1, "")
    assert process(*broker, "--ledger-url", "", "--app", shop, "publish", "order.created").returncode == 1
    assert found.stderr.startswith("pipeline: the broker amqp://me:**@127.0.0.1:1// did not take the event")
    assert len(found.stderr.splitlines()) == 1


# -- apps and settings


def test_an_app_is_found_by_name_by_its_module_or_by_its_celery_app(shop: str) -> None:
    app = load_app(f"{shop}:app")
    assert load_app(shop) is app
    assert load_app(f"{shop}:app.celery".rpartition(".")[0]) is app
    vars(sys.modules[shop])["celery_app"] = app.celery
    assert load_app(f"{shop}:celery_app") is app


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


def test_rows_can_be_had_without_the_command(shop: str) -> None:
    assert [row["name"] for row in agent_rows(load_app(shop))] == ["billing", "audit"]


# -- doctor


def checks(result: Any) -> dict[str, dict[str, str]]:
    return {check["name"]: check for check in json.loads(result.stdout)}


def test_the_doctor_finds_a_fresh_installation_healthy(run: Run) -> None:
    result = run("doctor", "--json")
    found = checks(result)
    assert result.exit_code == 0
    assert {name for name, check in found.items() if check["status"] != "ok"} == {"workers"}
    assert {"python", "celery", "kombu", "sqlite", "broker", "broker file", "results", "agents", "consumer"} <= set(
        found
    )
    assert found["agents"]["detail"] == "2: billing, audit"
    assert "celery -A pipeline worker" in found["workers"]["mend"]


def test_the_doctor_says_what_it_finds_line_by_line(run: Run) -> None:
    lines = run("doctor").stdout.splitlines()
    assert any(line.startswith("ok   broker: sqlite:///") for line in lines)
    at = next(at for at, line in enumerate(lines) if line.startswith("warn workers: none answers"))
    assert lines[at + 1].strip().startswith("start one:")


def test_the_doctor_says_where_each_setting_comes_from(shop: str, tmp_path: Path) -> None:
    (tmp_path / "pipeline.toml").write_text("max_event_bytes = 5000")
    url = f"sqlite:///{tmp_path / 'other.db'}"
    found = process("--broker-url", url, "--app", shop, "doctor", "--json", PIPELINE_CONFIRM="false")
    shown = {c["name"]: c["detail"] for c in json.loads(found.stdout) if c["name"].startswith("setting ")}
    origin = {name.removeprefix("setting "): detail.partition("  [")[2][:-1] for name, detail in shown.items()}
    assert origin["broker_url"] == "--broker-url"
    assert origin["confirm"] == "environment PIPELINE_CONFIRM"
    assert origin["max_event_bytes"] == "file pipeline.toml"
    assert origin["publish_timeout"] == "argument of Pipeline()"
    assert origin["agents"] == "default"


def test_the_doctor_reports_a_broker_that_is_away(shop: str) -> None:
    found = process("--broker-url", "redis://:secret@127.0.0.1:1/0", "--app", shop, "doctor", "--json")
    checked = {check["name"]: check for check in json.loads(found.stdout)}
    assert found.returncode == 1
    assert checked["broker"]["status"] == "fail"
    assert "PIPELINE_BROKER_URL" in checked["broker"]["mend"]
    assert checked["joins"]["status"] == "warn"  # results lie in a file, the broker does not
    assert "workers" not in checked
    assert "secret" not in found.stdout + found.stderr


def test_the_doctor_says_which_package_is_missing(run: Run, shop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    load_app(shop).celery.conf.broker_url = "redis://localhost/0"
    monkeypatch.setattr("pipeline.doctor._is_installed", lambda package: False)
    assert checks(run("doctor", "--json"))["broker"]["mend"] == "pip install 'pipeline[redis]'"


def test_the_doctor_reports_settings_that_are_wrong(tmp_path: Path) -> None:
    (tmp_path / "pipeline.toml").write_text("publish_timeout = -1")
    found = process("doctor", "--json")
    assert found.returncode == 1
    assert "publish_timeout = -1" in json.loads(found.stdout)[-1]["detail"]


@pytest.mark.parametrize("name", ["broker.db", "results.db"])
def test_the_doctor_reports_a_damaged_file(run: Run, tmp_path: Path, name: str) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / name).write_bytes(b"this is no database at all" * 100)
    result = run("doctor", "--json")
    broken = [check for check in checks(result).values() if check["status"] == "fail"]
    assert result.exit_code == 1
    assert [name in check["detail"] and "damaged" in check["detail"] for check in broken] == [True]


def test_the_doctor_reports_a_worker_consumer_that_takes_no_events(run: Run, shop: str) -> None:
    load_app(shop).celery.conf.worker_consumer = "celery.worker.consumer.consumer:Consumer"
    found = checks(run("doctor", "--json"))
    assert found["consumer"]["status"] == "fail"
    assert "AgentConsumer" in found["consumer"]["mend"]


def test_the_doctor_warns_about_time_limits_that_no_pool_keeps(run: Run, shop: str) -> None:
    load_app(shop).celery.conf.worker_pool = "threads"
    found = checks(run("doctor", "--json"))
    assert found["time limits"]["status"] == "warn"
    assert "billing" in found["time limits"]["detail"]
    assert "audit" not in found["time limits"]["detail"]


def test_the_doctor_reports_agents_that_cannot_be_imported(tmp_path: Path) -> None:
    found = process("doctor", PIPELINE_AGENTS='["no_such_agents"]')
    assert found.returncode == 1
    assert "fail agents: importing no_such_agents: ModuleNotFoundError" in found.stdout


# -- Ctrl-C


def test_ctrl_c_ends_a_command_without_a_traceback(shop: str) -> None:
    command = [sys.executable, "-m", "pipeline.cli", "--app", shop, "publish", "order.created", "--data", "-"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        wait_until_reading(running.pid)
        running.send_signal(signal.SIGINT)
        _, said = running.communicate(timeout=20)
    assert running.returncode == 130
    assert said.strip() == ""


def wait_until_reading(pid: int) -> None:
    """Wait until the process sleeps in read(0)."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        call = Path(f"/proc/{pid}/syscall").read_text().split()
        if call[:2] == ["0", "0x0"]:
            return
        time.sleep(0.02)
    raise AssertionError("the command did not read its standard input")


def test_an_app_with_two_pipelines_wants_a_name(shop: str) -> None:
    from pipeline import Pipeline

    load_app(shop)
    vars(sys.modules[shop])["second"] = Pipeline("second")
    with pytest.raises(ConfigError, match="has 2 Pipelines"):
        load_app(shop)
