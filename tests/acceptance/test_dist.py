"""What `make dist` makes: a source distribution that is whole, a wheel from it, and its types where it is installed.

`DIST` names a directory with both; without it they are built, as `make dist` does.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest

from pipeline import __version__
from tests.readme import blocks

ROOT = Path(__file__).parents[2]
NAME = f"celery_eventbus-{__version__}"
WRONG = """
from pipeline import Payload, Pipeline

app = Pipeline("shop")


class OrderPlaced(Payload, type="order.placed"):
    total: float


@app.agent(on=OrderPlaced)
def bill(order: OrderPlaced) -> None:
    print(order.total)


bill(OrderPlaced(total=9.5))
bill("A1")
"""


def run(*command: str | Path, **options: object) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; skip the test where the package index does not answer."""
    foreign = ("PIPELINE_", "PYTHON", "MYPY", "VIRTUAL_ENV")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    done = subprocess.run(
        [*map(str, command)], env=clean, capture_output=True, text=True, timeout=300, check=False,
        stdin=subprocess.DEVNULL, **options,
    )  # type: ignore[call-overload]  # fmt: skip
    if "connection broken" in done.stderr + done.stdout and "index" not in os.environ.get("TESTS_REQUIRE", ""):
        pytest.skip("the package index does not answer")
    return done


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory with both."""
    if given := os.environ.get("DIST"):
        return Path(given)
    if importlib.util.find_spec("build") is None:
        pytest.skip("build is not installed; it comes with the extra `dev`")
    place = tmp_path_factory.mktemp("dist")
    done = run(sys.executable, "-m", "build", "--outdir", place, ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    return place


@pytest.fixture(scope="module")
def python(dist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an empty environment into which the wheel was installed, with what it needs."""
    place = tmp_path_factory.mktemp("env")
    run(sys.executable, "-m", "venv", "--without-pip", place)
    python = place / "bin" / "python"
    quiet = ("--disable-pip-version-check", "--no-compile")
    done = run(sys.executable, "-m", "pip", "--python", python, "install", *quiet, dist / f"{NAME}-py3-none-any.whl")
    assert done.returncode == 0, done.stdout + done.stderr
    return python


def test_the_source_distribution_holds_every_file_of_the_repository(dist: Path) -> None:
    with tarfile.open(dist / f"{NAME}.tar.gz") as archive:
        held = {name.removeprefix(f"{NAME}/") for name in archive.getnames()}
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("only a clone with git knows which files there are")
    tracked = run("git", "ls-files", cwd=ROOT).stdout.splitlines()
    assert {name for name in tracked if (ROOT / name).exists()} - held == set()
    assert [name for name in held if re.search(r"\.venv|\.pipeline/|__pycache__|\.env$", name)] == []


def test_the_wheel_of_it_holds_the_package_with_its_licence_and_says_what_it_is(dist: Path) -> None:
    with zipfile.ZipFile(dist / f"{NAME}-py3-none-any.whl") as wheel:
        held = set(wheel.namelist())
        said = message_from_bytes(wheel.read(f"{NAME}.dist-info/METADATA"))
        licence = wheel.read(f"{NAME}.dist-info/licenses/LICENSE")
    files = {str(path.relative_to(ROOT)) for path in (ROOT / "pipeline").rglob("*") if path.is_file()}
    files = {name for name in files if "__pycache__" not in name} - {"pipeline/testing/plugin.py"}
    assert files - held == set()
    assert licence == (ROOT / "LICENSE").read_bytes()
    assert said["Version"] == __version__
    assert said["License-Expression"] == "MIT"
    assert said["Description-Content-Type"] == "text/markdown"
    assert str(said.get_payload()).startswith("# pipeline")


def test_what_is_installed_runs_the_readmes_one_file(python: Path, tmp_path: Path) -> None:
    (tmp_path / "hello.py").write_text(blocks("python", "One file")[0])
    done = run(python, "-W", "error", "hello.py", cwd=tmp_path)
    assert done.stdout == "a bill over 9.5\n", done.stderr
    assert run(python.with_name("pipeline"), "--version", cwd=tmp_path).stdout == f"pipeline {__version__}\n"


@pytest.mark.parametrize("checker", ["mypy", "pyright"])
def test_type_checkers_find_the_types_of_what_is_installed(checker: str, python: Path, tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(WRONG)
    options = {
        "mypy": ("--strict", "--config-file=", "--python-executable", python, "--cache-dir", tmp_path / "cache"),
        "pyright": ("--pythonpath", python),
    }
    found = shutil.which(checker, path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if found is None or run(found, "--version").returncode:
        pytest.skip(f"{checker} is not installed, or cannot fetch itself")
    done = run(found, *options[checker], "shop.py", cwd=tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    lines = re.findall(r"shop\.py:(\d+)(?::\d+)?(?: -)?:? error", done.stdout)
    assert lines == [str(WRONG.splitlines().index('bill("A1")') + 1)], done.stdout


def test_what_others_have_written_is_named_with_its_licence() -> None:
    foreign = {path.name for path in (ROOT / "tests" / "data").iterdir() if path.suffix == ".json"}
    said = (ROOT / "tests" / "data" / "README.md").read_text()
    assert {name for name in foreign if name not in said} == set()
    licences = {path.name for path in (ROOT / "tests" / "data").glob("*.LICENSE")}
    assert {name for name in licences if name not in said} == set()
    assert licences
