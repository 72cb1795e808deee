"""A newcomer's walk: the README followed to the letter, in an empty directory, by somebody who has nothing else."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.readme import README, SHOP, blocks
from tests.servers import wait_for

ROOT = Path(__file__).parents[2]
#: What the package is built from.
CLONE = ("pyproject.toml", "README.md", "CHANGELOG.md", "LICENSE", "pipeline", "docs")
#: Where every user finds commands.
PATHS = "/usr/local/bin:/usr/bin:/bin"
#: Nobody's, on any system.
STRANGER = 65534
OLD_ENOUGH = "import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))"


class Newcomer:
    """Somebody with an empty directory, a clone of the project, and a Python; another user when root runs the tests."""

    def __init__(self, home: Path) -> None:
        self.directory, self.clone = home / "shop", home / "clone"
        self.directory.mkdir()
        self.clone.mkdir()
        for name in CLONE:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, self.clone / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, self.clone / name)
        self.log = self.directory.parent / "worker.log"
        self.started: list[subprocess.Popen[bytes]] = []
        self._who: dict[str, object] = {}
        self._path = f"{Path(sys.executable).resolve().parent}:{PATHS}"
        if os.geteuid() == 0 and self._is_enough_for_a_stranger():
            self._who = {"user": STRANGER, "group": STRANGER, "extra_groups": []}
            self._path = PATHS
            for path in (home, *home.rglob("*")):
                os.chown(path, STRANGER, STRANGER)

    @staticmethod
    def _is_enough_for_a_stranger() -> bool:
        python = shutil.which("python3", path=PATHS)
        return python is not None and subprocess.run([python, "-c", OLD_ENOUGH], check=False).returncode == 0

    def _environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if name.startswith("PIP_") or name in ("LANG", "TZ")}
        return {**kept, "PATH": self._path, "HOME": str(self.directory.parent)}

    def type(self, commands: str) -> str:
        """Type commands into a terminal; return what they print when the last one has ended well."""
        done = subprocess.run(
            ["bash", "-e", "-c", commands], cwd=self.directory, env=self._environment(), capture_output=True, text=True,
            timeout=300, check=False, stdin=subprocess.DEVNULL, **self._who,
        )  # type: ignore[call-overload]  # fmt: skip
        if "connection broken" in done.stderr and "index" not in os.environ.get("TESTS_REQUIRE", ""):
            pytest.skip("the package index does not answer")
        assert done.returncode == 0, done.stdout + done.stderr
        return str(done.stdout + done.stderr)

    def leave_running(self, commands: str) -> None:
        """Type commands of which the last one goes on; what it prints is in the log."""
        with self.log.open("wb") as output:
            process = subprocess.Popen(
                ["bash", "-c", commands], cwd=self.directory, env=self._environment(), stdout=output, stderr=output,
                stdin=subprocess.DEVNULL, start_new_session=True, **self._who,
            )  # type: ignore[call-overload]  # fmt: skip
        self.started.append(process)

    def said(self) -> str:
        return self.log.read_text(errors="replace")


@pytest.fixture
def newcomer() -> Iterator[Newcomer]:
    home = Path(tempfile.mkdtemp(prefix="newcomer-"))  # not below pytest's, which is its owner's alone
    newcomer = Newcomer(home)
    yield newcomer
    for process in newcomer.started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(timeout=20)
    shutil.rmtree(home, ignore_errors=True)


def test_the_readme_leads_from_nothing_to_the_first_handled_event(newcomer: Newcomer) -> None:
    install, work, publish = blocks("sh", "An example")
    activate = install.splitlines()[1]
    newcomer.type(install.replace("/path/to/clone", str(newcomer.clone)))
    (newcomer.directory / "shop.py").write_text(SHOP)

    newcomer.leave_running(f"{activate}\nexec {work}")
    wait_for(lambda: "ready" in newcomer.said(), lambda: f"the worker to be ready: {newcomer.said()}")
    assert newcomer.type(publish) == "", "there is nothing to complain of"
    lines = ("billing: 9.5 for order A1", "audit: order.placed {", "audit: order.paid {")
    wait_for(lambda: all(line in newcomer.said() for line in lines), lambda: f"{lines}: {newcomer.said()}")
    assert lines[0] in README
    assert "alembic" not in newcomer.said()
    assert "Traceback" not in newcomer.said()

    # Every command of the README that only looks works on what is there then.
    looks = [line for line in blocks("sh", "The ledger")[0].splitlines() if not {"ID", "upgrade"} & {*line.split()}]
    said = newcomer.type("\n".join([activate, *looks, "pipeline -A shop agents", "pipeline -A shop doctor"]))
    assert "order.paid" in said
    assert "warn" not in said.replace("warn ledger", "")
