"""What can be checked of the deployment without a container engine."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from pipeline import __version__
from pipeline.settings import Settings
from tests.http import Server

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests" / "data"
COMPOSE = ROOT / "docker-compose.yml"
STACK: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())
SERVICES: dict[str, dict[str, Any]] = STACK["services"]
#: Services that do one thing and end.
ONCE = ("ledger",)
CELERYS = ("worker", "beat", "flower")
OURS = (*CELERYS, "serve")
EVERY_SERVICE = pytest.mark.parametrize("name", SERVICES)
OUR_CONTAINERS = pytest.mark.parametrize("name", [*OURS, *ONCE])
#: Keys of RabbitMQ 4's configuration schema.
RABBITMQ_KEYS = {
    "log.console", "log.console.level", "log.file", "anonymous_login_user", "vm_memory_high_watermark.relative",
    "disk_free_limit.absolute", "consumer_timeout", "deprecated_features.permit.global_qos",
    "deprecated_features.permit.transient_nonexcl_queues",
}  # fmt: skip


def seconds(duration: str) -> float:
    """Return a Compose duration such as `40s` or `1m`."""
    number, unit = re.fullmatch(r"(\d+)(s|m)", duration).groups()  # type: ignore[union-attr]
    return int(number) * {"s": 1, "m": 60}[unit]


def environment(name: str) -> dict[str, str]:
    found: dict[str, str] = SERVICES[name].get("environment", {})
    return found


# -- docker-compose.yml


def test_the_compose_file_is_valid_by_the_compose_specification() -> None:
    schema = json.loads((DATA / "compose-spec.json").read_text())
    jsonschema.Draft202012Validator(schema).validate(STACK)


def test_a_misspelt_key_would_not_be_valid() -> None:
    schema = json.loads((DATA / "compose-spec.json").read_text())
    broken = {**STACK, "services": {"worker": {"image": "x", "helthcheck": {}}}}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(schema).validate(broken)


def test_the_stack_has_all_its_parts() -> None:
    assert set(SERVICES) == {"rabbitmq", "redis", "postgres", "mailpit", *OURS, *ONCE}


@EVERY_SERVICE
def test_every_service_has_a_health_check_or_says_why_not(name: str) -> None:
    service = SERVICES[name]
    assert ("healthcheck" in service) != ("x-no-healthcheck" in service)
    if "healthcheck" in service:
        assert service["healthcheck"]["test"][0] in ("CMD", "CMD-SHELL")
        assert seconds(service["healthcheck"]["timeout"]) < seconds(service["healthcheck"]["interval"])


@EVERY_SERVICE
def test_services_wait_until_those_they_need_are_healthy_or_done(name: str) -> None:
    for needed, how in SERVICES[name].get("depends_on", {}).items():
        if needed in ONCE:
            assert how == {"condition": "service_completed_successfully"}
        else:
            assert how == {"condition": "service_healthy"}
            assert "healthcheck" in SERVICES[needed]
        assert "profiles" not in SERVICES[needed], f"{needed} is not always there"


@EVERY_SERVICE
def test_ports_are_published_on_loopback_only(name: str) -> None:
    for port in SERVICES[name].get("ports", []):
        assert re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port), port


@EVERY_SERVICE
def test_services_come_back_after_a_crash_and_stay_within_limits(name: str) -> None:
    assert SERVICES[name]["restart"] == ("on-failure:5" if name in ONCE else "unless-stopped")
    assert set(SERVICES[name]["deploy"]["resources"]["limits"]) == {"cpus", "memory"}
    assert "no-new-privileges:true" in SERVICES[name]["security_opt"]


@EVERY_SERVICE
def test_images_are_pinned_to_a_version(name: str) -> None:
    _, _, tag = SERVICES[name]["image"].partition(":")
    assert re.match(r"v?\d", tag)


def test_volumes_are_named_and_none_is_left_over() -> None:
    mounts = [mount for service in SERVICES.values() for mount in service.get("volumes", [])]
    named = {mount.split(":")[0] for mount in mounts if not mount.startswith("./")}
    assert named == set(STACK["volumes"])
    for mount in mounts:
        if mount.startswith("./"):
            source, _, mode = mount.split(":")
            assert (ROOT / source).is_file()
            assert mode == "ro"


def test_no_password_is_written_down() -> None:
    secrets = re.findall(r"\$\{(\w+)([^}]*)\}", COMPOSE.read_text())
    passwords = [(name, rest) for name, rest in secrets if "PASSWORD" in name]
    assert passwords
    for name, rest in passwords:
        assert rest.startswith(":?"), f"{name} must not have a default"
    for name in SERVICES:
        for key, value in environment(name).items():
            if re.search(r"PASS|SECRET|AUTH", key):
                assert "_PASSWORD:?" in value, key
            plain = re.sub(r"\$\{\w+_USER:-pipeline\}", "user", value)
            for password in re.findall(r"//[^:/@\s]*:([^@\s]+)@", plain):
                assert password.startswith("${"), key


@OUR_CONTAINERS
def test_our_containers_can_write_only_where_they_must(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["tmpfs"] == ["/tmp"]
    assert "user" not in service, "the image's own user is an ordinary one"


@OUR_CONTAINERS
def test_settings_in_the_stack_are_settings_of_the_package(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(DATA)  # where no settings file is
    filled = {"RABBITMQ_USER": "u", "RABBITMQ_PASSWORD": "p", "REDIS_PASSWORD": "p"}
    filled |= {"POSTGRES_USER": "u", "POSTGRES_PASSWORD": "p"}
    filled["PIPELINE_AGENTS"] = '["shop.agents"]'
    for key, value in environment(name).items():
        if key.startswith("PIPELINE_"):
            monkeypatch.setenv(key, re.sub(r"\$\{(\w+)[^}]*\}", lambda match: filled[match[1]], value))
    settings = Settings.load()
    assert settings.broker_url == "amqp://u:p@rabbitmq:5672//"
    assert settings.result_backend == "redis://:p@redis:6379/0"
    assert settings.ledger_url == f"postgresql://u:p@postgres:5432/{SERVICES['postgres']['environment']['POSTGRES_DB']}"
    assert settings.agents == ("shop.agents",)


def test_the_ledgers_tables_are_made_before_those_start_who_need_them() -> None:
    assert SERVICES["ledger"]["command"] == ["pipeline", "ledger", "upgrade"]
    assert SERVICES["ledger"]["image"] == f"pipeline:{__version__}"
    assert "postgres" in SERVICES["ledger"]["depends_on"]
    for name in ("worker", "beat", "serve"):
        assert "ledger" in SERVICES[name]["depends_on"]


@pytest.mark.parametrize("name", CELERYS)
def test_commands_are_celery_commands_on_the_package(name: str) -> None:
    assert SERVICES[name]["command"][:4] == ["celery", "-A", "pipeline", name]
    assert SERVICES[name]["image"] == f"pipeline:{__version__}"


def test_what_is_served_lets_nobody_in_but_by_the_password_of_the_environment(
    tmp_path: Path, no_settings: None
) -> None:
    shell, option, script = SERVICES["serve"]["command"]
    assert (shell, option) == ("sh", "-c")
    programs = Path(sys.executable).parent
    # A port of its own, so that several may be tested at once.
    command = [shell, option, script.replace("$$", "$").rstrip() + " --port 0"]
    given = {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "SERVE_PASSWORD": "sesame",
        "PIPELINE_DIRECTORY": str(tmp_path),
    }
    with subprocess.Popen(command, cwd=tmp_path, env=given, stderr=subprocess.PIPE, text=True) as running:
        assert running.stderr is not None
        found = re.search(r"serving http://0\.0\.0\.0:(\d+)", running.stderr.readline())
        assert found is not None
        server = Server(int(found[1]))
        assert server.get("/events").status == 401
        assert server.get("/events", Authorization="Bearer sesame").status == 200
        program, *rest = SERVICES["serve"]["healthcheck"]["test"][1:]
        healthy = [part.replace(":8000", f":{server.port}") for part in rest]
        assert program == "python"
        subprocess.run([sys.executable, *healthy], check=True, timeout=30)
        running.send_signal(signal.SIGTERM)
        running.communicate(timeout=30)
    published = SERVICES["serve"]["ports"]
    assert [port.rpartition(":")[2] for port in published] == ["8000"], "where it listens by default"


def test_a_stopping_worker_has_time_for_its_soft_shutdown() -> None:
    worker = SERVICES["worker"]
    (option,) = [part for part in worker["command"] if part.startswith("worker.soft_shutdown_timeout=")]
    assert environment("worker")["REMAP_SIGTERM"] == "SIGQUIT"
    assert seconds(worker["stop_grace_period"]) >= float(option.partition("=")[2]) + 10


def test_mail_goes_to_mailpit() -> None:
    assert environment("worker")["BRIEFING_SMTP_URL"] == "smtp://mailpit:1025"


# -- the image


def instructions() -> list[tuple[str, str]]:
    """Return the Dockerfile's instructions as (name, arguments)."""
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in lines]


def test_the_dockerfile_builds_in_one_stage_and_runs_in_another() -> None:
    names = [name for name, _ in instructions()]
    assert names[0] == "FROM"
    assert names.count("FROM") == 2
    assert set(names) <= {"FROM", "WORKDIR", "RUN", "COPY", "ENV", "USER", "STOPSIGNAL", "CMD"}


def test_the_image_runs_as_an_ordinary_user_and_ends_on_sigterm() -> None:
    last = dict(instructions())
    assert last["USER"] not in ("root", "0")
    assert last["STOPSIGNAL"] == "SIGTERM"
    assert json.loads(last["CMD"])[:4] == ["celery", "-A", "pipeline", "worker"]
    assert "PYTHONUNBUFFERED=1" in last["ENV"]


def test_what_the_dockerfile_copies_exists_and_reaches_the_builder() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in ignored
    for name, arguments in instructions():
        if name == "COPY" and "--from" not in arguments:
            for source in arguments.split()[:-1]:
                assert (ROOT / source).exists(), source
                assert f"!{source}" in ignored, source


def test_the_image_installs_extras_that_exist() -> None:
    import tomllib

    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (install,) = [arguments for name, arguments in instructions() if name == "RUN" and "pip install" in arguments]
    wanted = re.search(r"\.\[([a-z,]+)\]", install)
    assert wanted is not None
    assert set(wanted[1].split(",")) <= set(extras)


def test_no_secret_is_baked_into_the_image() -> None:
    assert not re.search(r"password|secret|token", (ROOT / "Dockerfile").read_text(), re.IGNORECASE)
    assert ".env" not in "".join(line for line in (ROOT / ".dockerignore").read_text().splitlines() if line[0] == "!")


# -- config/


def test_rabbitmq_is_configured_with_keys_it_knows_each_once() -> None:
    lines = (ROOT / "config" / "rabbitmq.conf").read_text().splitlines()
    pairs = [line.split(" = ") for line in lines if line and not line.startswith("#")]
    assert all(len(pair) == 2 for pair in pairs)
    keys = [key for key, _ in pairs]
    assert len(set(keys)) == len(keys)
    assert set(keys) == RABBITMQ_KEYS


def test_rabbitmq_waits_longer_for_an_ack_than_the_longest_retry_delay() -> None:
    from pipeline import Retry

    text = (ROOT / "config" / "rabbitmq.conf").read_text()
    (timeout,) = re.findall(r"^consumer_timeout = (\d+)$", text, re.MULTILINE)
    assert int(timeout) / 1000 > Retry().cap


def test_flower_knows_all_options_it_is_given() -> None:
    pytest.importorskip("flower", reason="Flower is not installed")
    spec = importlib.util.spec_from_file_location("flowerconfig", ROOT / "config" / "flowerconfig.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    from flower.options import options

    given = {name for name in vars(module) if not name.startswith("_")}
    assert given <= set(options._options) | {name.replace("-", "_") for name in options._options}
    assert not any("auth" in name or "api" in name for name in given), "secrets come from the environment"


# -- make


def make(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    command = [shutil.which("make") or "make", "--no-print-directory", *arguments]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    return subprocess.run(command, cwd=cwd, env=clean, capture_output=True, text=True, timeout=60, check=False)


needs_make = pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")


@needs_make
@pytest.mark.parametrize("target", ["demo", "test", "lint", "bench", "faults", "setup-servers", "env", "clean", "help"])
def test_make_alone_lists_every_command(target: str) -> None:
    assert re.search(rf"^  {target} +\S", make().stdout, re.MULTILINE)
    assert make("--dry-run", target).returncode == 0


@needs_make
def test_make_env_writes_random_passwords_for_its_owner_only_and_keeps_them(tmp_path: Path) -> None:
    for name in ("Makefile", ".env.example"):
        shutil.copy(ROOT / name, tmp_path)
    assert make("env", cwd=tmp_path).returncode == 0
    written = tmp_path / ".env"
    assert stat.S_IMODE(written.stat().st_mode) == 0o600
    passwords = re.findall(r"^\w+_PASSWORD=([0-9a-f]{48})$", written.read_text(), re.MULTILINE)
    assert len(passwords) == len(set(passwords)) == 5
    before = written.read_text()
    assert make("env", cwd=tmp_path).returncode == 0
    assert written.read_text() == before
    # One of an earlier version gets what it lacks, and keeps what it has.
    older = re.sub(r"SERVE_PASSWORD=.*\n", "", before)
    written.write_text(older)
    assert "Added SERVE_PASSWORD to .env" in make("env", cwd=tmp_path).stdout
    assert written.read_text().startswith(older)
    assert re.search(r"^SERVE_PASSWORD=[0-9a-f]{48}$", written.read_text(), re.MULTILINE)


def test_the_example_environment_names_every_variable_of_the_stack_and_no_password() -> None:
    example = dict(re.findall(r"^(\w+)=(.*)$", (ROOT / ".env.example").read_text(), re.MULTILINE))
    assert set(example) == set(re.findall(r"\$\{(\w+)", COMPOSE.read_text()))
    assert all(not value for name, value in example.items() if name.endswith("_PASSWORD"))


def test_git_ignores_the_passwords() -> None:
    assert ".env" in (ROOT / ".gitignore").read_text().splitlines()


@needs_make
def test_make_tries_each_python_and_says_what_to_do_when_none_fits(tmp_path: Path) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "pyproject.toml").touch()
    shim = tmp_path / "shim"
    shim.write_text("#!/bin/sh\necho 'command not found' >&2\nexit 127\n")
    shim.chmod(0o755)
    found = make("demo", f"PYTHONS={shim} no-such-python", cwd=tmp_path)
    assert found.returncode != 0
    assert "Python 3.11 or later" in found.stderr
    assert not (tmp_path / ".venv").exists()


@needs_make
@pytest.mark.parametrize(
    ("arguments", "extras"),
    [
        ("crew --yes", ["crew"]),
        ("'What is a crew?'", []),
        ("", []),
        ("orders --serve", ["http"]),
        ("crew --serve", ["crew", "http"]),
    ],
)
def test_make_demo_installs_what_the_crew_and_the_page_need_where_they_are_asked_for(
    tmp_path: Path, arguments: str, extras: list[str]
) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "pyproject.toml").touch()
    found = make("--dry-run", "demo", f"ARGS={arguments}", cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    assert re.findall(r"'\.\[(\w+)\]'", found.stdout) == extras
    assert f".venv/bin/pipeline demo {arguments}" in found.stdout


@pytest.mark.parametrize("script", ["run", "setup-servers", "versions"])
def test_scripts_are_valid_bash_and_stop_at_the_first_error(script: str) -> None:
    path = ROOT / ".ci" / script
    assert "set -euo pipefail" in path.read_text()
    subprocess.run(["bash", "-n", str(path)], check=True)
