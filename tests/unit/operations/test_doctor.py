"""The doctor: what it finds, and what it says mends it."""

import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pipeline.cli.group import load_app
from pipeline.cli.main import cli
from pipeline.core.errors import to_install
from pipeline.operations.doctor import OLDEST
from pipeline.operations.listeners import listeners
from tests.commands import process
from tests.records import die

pytestmark = pytest.mark.usefixtures("empty_directory")

Run = Callable[..., Any]


def checks(result: Any) -> dict[str, dict[str, str]]:
    return {check["name"]: check for check in json.loads(result.stdout)}


def test_the_doctor_finds_a_fresh_installation_healthy(run: Run, module: str) -> None:
    result = run("doctor", "--json")
    found = checks(result)
    assert result.exit_code == 0
    assert {name for name, check in found.items() if check["status"] != "ok"} == {"workers", "listeners"}
    assert {"python", "celery", "kombu", "sqlite", "broker", "broker file", "results", "agents", "consumer"} <= set(
        found
    )
    assert found["agents"]["detail"] == "2: billing, audit"
    assert f"celery -A {module} worker" in found["workers"]["mend"]


def test_the_doctor_finds_a_gap_between_upcasters(run: Run, module: str) -> None:
    app = load_app(module)
    assert checks(run("doctor", "--json"))["schemas"]["detail"] == "1 event types with a class, 0 upcasters"
    app.upcaster("order.created", "1.0.0", "2.0.0")(lambda data: data)
    found = run("doctor", "--json")
    assert found.exit_code == 1
    assert "the upcaster of order.created from 1.0.0 to 2.0.0" in checks(found)["schemas"]["detail"]


def test_the_doctor_says_what_it_finds_line_by_line(run: Run) -> None:
    lines = run("doctor").stdout.splitlines()
    assert any(line.startswith("ok   broker: sqlite:///") for line in lines)
    at = next(at for at, line in enumerate(lines) if line.startswith("warn workers: none answers"))
    assert lines[at + 1].strip().startswith("start one in this directory")


def test_the_doctor_says_where_each_setting_comes_from(module: str, tmp_path: Path) -> None:
    (tmp_path / "pipeline.toml").write_text("max_event_bytes = 5000")
    url = f"sqlite:///{tmp_path / 'other.db'}"
    hooks = '{"hub": {"style": "github", "secrets": ["tellnobody"]}}'
    environment = {"PIPELINE_CONFIRM": "false", "PIPELINE_WEBHOOK_SOURCES": hooks}
    found = process("--broker-url", url, "--app", module, "doctor", "--json", **environment)
    assert "tellnobody" not in found.stdout + found.stderr
    shown = {c["name"]: c["detail"] for c in json.loads(found.stdout) if c["name"].startswith("setting ")}
    origin = {name.removeprefix("setting "): detail.partition("  [")[2][:-1] for name, detail in shown.items()}
    assert origin["broker_url"] == "--broker-url"
    assert origin["confirm"] == "environment PIPELINE_CONFIRM"
    assert origin["max_event_bytes"] == "file pipeline.toml"
    assert origin["publish_timeout"] == "argument of Pipeline()"
    assert origin["webhook_sources"] == "environment PIPELINE_WEBHOOK_SOURCES"
    assert origin["agents"] == "default"


def test_the_doctor_reports_a_broker_that_is_away(module: str) -> None:
    found = process("--broker-url", "redis://:secret@127.0.0.1:1/0", "--app", module, "doctor", "--json")
    checked = {check["name"]: check for check in json.loads(found.stdout)}
    assert found.returncode == 1
    assert checked["broker"]["status"] == "fail"
    assert "PIPELINE_BROKER_URL" in checked["broker"]["mend"]
    assert checked["chords"]["status"] == "warn"  # results lie in a file, the broker does not
    assert "workers" not in checked
    assert "secret" not in found.stdout + found.stderr


def test_the_doctor_says_which_package_is_missing(run: Run, module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    load_app(module).celery.conf.broker_url = "redis://localhost/0"
    monkeypatch.setattr("pipeline.operations.doctor._is_installed", lambda package: False)
    assert checks(run("doctor", "--json"))["broker"]["mend"] == to_install("redis")


def test_the_doctor_knows_the_lowest_versions_that_pip_installs() -> None:
    wanted = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]["dependencies"]
    assert {f"{name}>={'.'.join(map(str, oldest))}" for name, oldest in OLDEST.items()} <= set(wanted)


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


def test_the_doctor_reports_a_worker_consumer_that_takes_no_events(run: Run, module: str) -> None:
    load_app(module).celery.conf.worker_consumer = "celery.worker.consumer.consumer:Consumer"
    found = checks(run("doctor", "--json"))
    assert found["consumer"]["status"] == "fail"
    assert "AgentConsumer" in found["consumer"]["mend"]


def test_the_doctor_warns_about_time_limits_that_no_pool_keeps(run: Run, module: str) -> None:
    load_app(module).celery.conf.worker_pool = "threads"
    found = checks(run("doctor", "--json"))
    assert found["time limits"]["status"] == "warn"
    assert "billing" in found["time limits"]["detail"]
    assert "audit" not in found["time limits"]["detail"]


def test_the_doctor_reports_agents_that_cannot_be_imported(tmp_path: Path) -> None:
    found = process("doctor", PIPELINE_AGENTS='["no_such_agents"]')
    assert found.returncode == 1
    assert "fail agents: importing no_such_agents: ModuleNotFoundError" in found.stdout


# -- silence


def test_the_doctor_says_that_no_agent_has_ever_run_and_names_the_users_app(run: Run, module: str) -> None:
    found = checks(run("doctor", "--json"))["listeners"]
    assert found["status"] == "warn"
    assert "no agent has ever run on the ledger" in found["detail"]
    assert found["mend"].endswith(f"celery -A {module} worker")


def test_the_doctor_says_which_agents_no_worker_has_run_yet(run: Run, module: str) -> None:
    load_app(module).ledger.subscribers.register({"audit": (("#",), None)})
    assert "no worker has run billing yet" in checks(run("doctor", "--json"))["listeners"]["detail"]
    load_app(module).ledger.subscribers.register({"billing": (("order.*",), None)})
    assert checks(run("doctor", "--json"))["listeners"]["status"] == "ok"


def test_the_doctor_finds_what_nobody_was_given(run: Run, module: str) -> None:
    app = load_app(module)
    app.bus.agents._by_name.pop("audit")  # which would be given whatever there is
    app.publish("order.paid")
    app.publish("ordr.paid")
    app.publish("ordr.paid")
    app.ledger.subscribers.register({"billing": (("order.*",), None)})
    said = run("doctor").stdout
    assert "warn unrouted: 1 event came before there was a worker with the agents that listen: order.paid" in said
    assert f"deliver them: pipeline -A {module} unrouted --replay" in said
    assert "warn unrouted: 2 events went to nobody, and nobody listens now either: ordr.paid" in said
    assert f"or the agent's on=: pipeline -A {module} agents" in said


def test_the_doctor_tries_where_blobs_are_kept_and_leaves_nothing_there(run: Run, module: str, tmp_path: Path) -> None:
    found = checks(run("doctor", "--json"))["blobs"]
    place = load_app(module).settings.directory / "blobs"
    assert (found["status"], found["detail"]) == ("ok", f"Directory('{place}') can be written, read and cleared")
    assert [path for path in place.rglob("*") if path.is_file()] == []


def test_the_doctor_says_what_to_do_where_blobs_cannot_be_kept(run: Run, module: str) -> None:
    place = load_app(module).settings.directory / "blobs"
    place.parent.mkdir(exist_ok=True)
    place.write_text("a file")
    result = run("doctor", "--json")
    found = checks(result)["blobs"]
    assert (result.exit_code, found["status"]) == (1, "fail")
    assert f"blob_store: {place} cannot be used" in found["detail"]
    assert "check its permissions and the space on its disk" in found["detail"]


def test_the_doctor_counts_dead_letters(run: Run, module: str) -> None:
    app = load_app(module)
    die(app, app.publish("order.paid"))
    found = checks(run("doctor", "--json"))["dead letters"]
    assert found["detail"].startswith("1: ")
    assert f"pipeline -A {module} dead list" in found["mend"]


def test_the_doctor_finds_workers_that_use_another_ledger(module: str) -> None:
    app = load_app(module)
    running = {"w1@here": "prefork"}
    found = {check.name: check for check in listeners(app.bus, module, running)}
    assert "1 answer on the broker, but none of them uses the ledger" in found["workers"].detail
    app.ledger.workers.heartbeat("w1")
    assert "workers" not in {check.name for check in listeners(app.bus, module, running)}


@pytest.mark.usefixtures("empty_directory")
def test_the_doctor_says_that_no_app_was_named() -> None:
    found = checks(CliRunner().invoke(cli, ["doctor", "--json"]))
    assert found["app"]["status"] == "warn"
    assert "pipeline -A MODULE doctor" in found["app"]["mend"]
