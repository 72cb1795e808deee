"""The wheel in empty environments: what it holds, and that each extra brings what its broker or ledger needs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline import __version__
from pipeline.core.errors import to_install
from tests.blobs import s3_environment, s3_server
from tests.servers import PostgreSQL, Server, free_port, wait_for
from tests.webhooks import NEARBY, hooked

ROOT = Path(__file__).parents[2]
WHEEL = f"celery_eventbus-{__version__}-py3-none-any.whl"
EXTRAS = ("redis", "postgres", "flower", "s3", "webhooks")
SHOP = """
from pipeline import Pipeline

app = Pipeline("shop")


@app.agent(on="order.*")
def billing(data: dict) -> None:
    print(f"billed {data['order_id']}")


if __name__ == "__main__":
    print(app.settle(app.publish("order.placed", {"order_id": "A1"}), timeout=60))
"""
REPORTS = """
from pipeline import Blob, Payload, Pipeline

app = Pipeline("reports")


class Report(Payload, type="report.ready"):
    pdf: Blob


@app.agent(on=Report)
def reader(report: Report) -> None:
    print(f"read {len(report.pdf.read())} bytes")


if __name__ == "__main__":
    print(app.settle(app.publish(Report(pdf=Blob(b"x" * 1_000_000))), timeout=60))
"""


def pip(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


class Installed:
    """An environment with the wheel and some of its extras, and a directory with an app."""

    def __init__(self, wheels: Path, directory: Path, extra: str) -> None:
        self.directory = directory
        (directory / "shop.py").write_text(SHOP)
        python = directory / "env" / "bin" / "python"
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", directory / "env"], check=True)
        source = ["--no-index", "--find-links", str(wheels)]  # from where the index's wheels have been brought
        what = f"{wheels / WHEEL}[{extra}]" if extra else str(wheels / WHEEL)
        done = pip("--python", str(python), "install", "--no-compile", *source, what)
        assert done.returncode == 0, done.stderr

    def environment(self, **more: str) -> dict[str, str]:
        foreign = ("PIPELINE_", "CELERY_", "PYTHON", "VIRTUAL_ENV")
        clean = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
        path = f"{self.directory / 'env' / 'bin'}:{os.environ['PATH']}"
        return {**clean, "PATH": path, "PYTHONUNBUFFERED": "1", **more}

    def run(self, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a command of the environment to its end."""
        return subprocess.run(
            command, cwd=self.directory, env=self.environment(**environment), capture_output=True, text=True,
            timeout=90, check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def start(self, log: Path, *command: str, **environment: str) -> subprocess.Popen[bytes]:
        """Start a command of the environment in a process group of its own."""
        with log.open("wb") as output:
            return subprocess.Popen(
                command, cwd=self.directory, env=self.environment(**environment), stdout=output, stderr=output,
                stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the wheel, and with those of all that it and its extras need."""
    directory = tmp_path_factory.mktemp("wheels")
    done = pip("wheel", "--wheel-dir", str(directory), f"{ROOT}[{','.join(EXTRAS)}]")
    if "connection broken" in done.stderr and "index" not in os.environ.get("TESTS_REQUIRE", ""):
        pytest.skip("the package index does not answer")
    assert done.returncode == 0, done.stderr
    return directory


@pytest.fixture(scope="module")
def installed(wheels: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Installed]:
    """Install the wheel with an extra, or with none, into an environment of its own, once."""
    made: dict[str, Installed] = {}

    def install(extra: str) -> Installed:
        if extra not in made:
            made[extra] = Installed(wheels, tmp_path_factory.mktemp(extra or "bare"), extra)
        return made[extra]

    return install


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Start commands that end with the test; returns what they say."""
    started: list[subprocess.Popen[bytes]] = []

    def start(where: Installed, *command: str, until: Callable[[str], object], **environment: str) -> Path:
        log = tmp_path / "output.log"
        process = where.start(log, *command, **environment)
        started.append(process)
        wait_for(lambda: until(log.read_text()) or process.poll() is not None, f"{command[:4]} to be ready", 90)
        assert process.poll() is None, log.read_text()
        return log

    yield start
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(timeout=20)


def test_the_wheel_holds_the_whole_package_and_nothing_else(wheels: Path) -> None:
    with zipfile.ZipFile(wheels / WHEEL) as wheel:
        held = set(wheel.namelist())
        (commands,) = [wheel.read(name).decode() for name in held if name.endswith("entry_points.txt")]
    files = {str(path.relative_to(ROOT)) for path in (ROOT / "pipeline").rglob("*") if path.is_file()}
    files = {name for name in files if "__pycache__" not in name}
    files = files - {"pipeline/testing/plugin.py"} | {"_celery_eventbus_pytest.py"}  # pytest imports no package for it
    assert {name for name in held if ".dist-info/" not in name} == files
    assert {"pipeline/py.typed", "pipeline/ledger/database/migrations/env.py"} <= files
    assert any(name.endswith("/licenses/LICENSE") for name in held)
    assert "pipeline = pipeline.cli.main:main" in commands
    assert "celery-eventbus = _celery_eventbus_pytest" in commands
    assert f"./{WHEEL}" in (ROOT / "docs" / "installing.md").read_text()


@pytest.mark.parametrize(
    ("extra", "setting", "server"),
    [
        ("", "", ""),
        ("", "PIPELINE_BROKER_URL", "rabbitmq"),
        ("redis", "PIPELINE_BROKER_URL", "redis"),
        ("postgres", "PIPELINE_LEDGER_URL", "postgresql"),
    ],
)
def test_with_its_extra_alone_an_event_is_published_and_handled_on(
    extra: str, setting: str, server: str, installed: Callable[[str], Installed], start: Callable[..., Path],
    servers: Callable[[str], Server], tmp_path: Path,
) -> None:  # fmt: skip
    shop = installed(extra)
    environment = {"PIPELINE_DIRECTORY": str(tmp_path)}
    running = servers(server) if server else None
    if isinstance(running, PostgreSQL):
        environment[setting] = running.database()
        upgraded = shop.run("pipeline", "-A", "shop", "ledger", "upgrade", **environment)
        assert upgraded.returncode == 0, upgraded.stderr
    elif running:
        environment[setting] = running.url  # type: ignore[attr-defined]
    worker = ("celery", "-A", "shop", "worker", "--loglevel=INFO", "--concurrency=1", f"--hostname={tmp_path.name}@me")
    log = start(shop, *worker, until=lambda said: " ready." in said, **environment)
    published = shop.run("python", "shop.py", **environment)
    assert "-> billing: succeeded" in published.stdout, published.stderr
    assert "billed A1" in log.read_text()


@pytest.mark.parametrize(
    ("extra", "setting", "url"),
    [
        ("redis", "PIPELINE_BROKER_URL", "redis://127.0.0.1:1/0"),
        ("postgres", "PIPELINE_LEDGER_URL", "postgresql://127.0.0.1:1/shop"),
        ("s3", "PIPELINE_BLOB_STORE", "s3://shop/of/tests"),
    ],
)
def test_without_its_extra_one_line_says_what_brings_it(
    extra: str, setting: str, url: str, installed: Callable[[str], Installed], tmp_path: Path
) -> None:
    environment = {"PIPELINE_DIRECTORY": str(tmp_path), setting: url}
    published = installed("").run("pipeline", "-A", "shop", "publish", "order.placed", **environment)
    assert published.returncode == 1
    assert len(published.stderr.splitlines()) == 1
    assert to_install(extra) in published.stderr
    assert to_install(extra) in installed("").run("pipeline", "-A", "shop", "doctor", **environment).stdout


def test_without_its_extra_a_webhook_is_refused_where_it_is_added(
    installed: Callable[[str], Installed], tmp_path: Path
) -> None:
    add = ("pipeline", "-A", "shop", "subscriptions", "add", "crm", "--on", "order.*", "--url", "https://example.com/")
    added = installed("").run(*add, PIPELINE_DIRECTORY=str(tmp_path))
    assert added.returncode == 1
    assert added.stderr == f"pipeline: subscriptions need the package httpcore; {to_install('webhooks')}\n"


def test_without_its_extra_a_worker_that_is_to_be_measured_says_what_brings_it(
    installed: Callable[[str], Installed], tmp_path: Path
) -> None:
    environment = {"PIPELINE_DIRECTORY": str(tmp_path), "PIPELINE_METRICS_PORT": str(free_port())}
    ended = installed("").run("celery", "-A", "shop", "worker", "--concurrency=1", **environment)
    assert ended.returncode != 0
    assert to_install("metrics") in ended.stderr
    assert "Traceback" not in ended.stderr


def test_with_its_extra_webhooks_are_called(
    installed: Callable[[str], Installed], start: Callable[..., Path], tmp_path: Path
) -> None:
    shop = installed("webhooks")
    environment = {"PIPELINE_DIRECTORY": str(tmp_path), **NEARBY}
    with hooked() as hook:
        worker = ("celery", "-A", "shop", "worker", "--loglevel=INFO", "--concurrency=1")
        start(shop, *worker, f"--hostname={tmp_path.name}@me", until=lambda said: " ready." in said, **environment)
        add = ("pipeline", "-A", "shop", "subscriptions", "add", "crm", "--on", "order.*", "--url", hook.url)
        added = shop.run(*add, **environment)
        assert added.returncode == 0, added.stderr
        published = shop.run("python", "shop.py", **environment)
        assert "-> crm: succeeded" in published.stdout, published.stderr
        assert [call.data for call in hook.calls] == [{"order_id": "A1"}]


def test_with_its_extra_flower_starts(
    installed: Callable[[str], Installed], start: Callable[..., Path], tmp_path: Path
) -> None:
    page = f"http://127.0.0.1:{(port := free_port())}/healthcheck"

    def answers(_: str) -> bool:
        try:
            return bool(urllib.request.urlopen(page, timeout=5).read() == b"OK")
        except OSError:
            return False

    command = ("celery", "-A", "shop", "flower", "--address=127.0.0.1", f"--port={port}")
    start(installed("flower"), *command, until=answers, PIPELINE_DIRECTORY=str(tmp_path))


def test_with_its_extra_large_content_goes_through_s3(
    installed: Callable[[str], Installed], start: Callable[..., Path], tmp_path: Path
) -> None:
    shop = installed("s3")
    (shop.directory / "reports.py").write_text(REPORTS)
    with s3_server() as address:
        environment = {
            **s3_environment(address), "PIPELINE_BLOB_STORE": "s3://shop/of/tests", "PIPELINE_DIRECTORY": str(tmp_path),
        }  # fmt: skip
        missing = shop.run("pipeline", "-A", "reports", "doctor", **environment)
        assert "the bucket 'shop' cannot be used" in missing.stdout
        assert "create it" in " ".join(missing.stdout.split())
        shop.run("python", "-c", "import boto3; boto3.client('s3').create_bucket(Bucket='shop')", **environment)
        worker = ("celery", "-A", "reports", "worker", "--loglevel=INFO", "--concurrency=1")
        log = start(
            shop, *worker, f"--hostname={tmp_path.name}@me", until=lambda said: " ready." in said, **environment
        )
        published = shop.run("python", "reports.py", **environment)
        assert "-> reader: succeeded" in published.stdout, published.stderr
        assert "read 1000000 bytes" in log.read_text()
    assert not (tmp_path / "blobs").exists()
