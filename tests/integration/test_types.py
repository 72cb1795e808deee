"""What type checkers make of a user's application: nothing that is right is an error, and nothing that is wrong passes.

Its lines that have to be errors end in a comment that says which one mypy and which one pyright calls them.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.harness import APPS

SOURCE = (APPS / "typed_app.py").read_text()
WRONG = re.compile(r"  # ([a-z-]+), (report\w+)$")


def expected(checker: int) -> set[tuple[int, str]]:
    """Return the number of each wrong line, with the name of its error."""
    found = ((number, WRONG.search(line)) for number, line in enumerate(SOURCE.splitlines(), 1))
    return {(number, wrong[checker]) for number, wrong in found if wrong}


def run(command: Sequence[str], directory: Path) -> str:
    """Check the application where nothing else is, so that the package is somebody else's; return the output."""
    (directory / "shop.py").write_text(SOURCE)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MYPY", "PYTHON"))}
    done = subprocess.run(
        command, cwd=directory, env=environment, capture_output=True, text=True, timeout=300, check=False,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    return done.stdout


def test_mypy_in_strict_mode_finds_what_is_wrong_and_nothing_else(tmp_path: Path) -> None:
    options = ["--strict", "--config-file=", "--cache-dir", str(tmp_path / "cache"), "--no-error-summary"]
    output = run([sys.executable, "-m", "mypy", *options, "shop.py"], tmp_path)
    found = re.findall(r"^shop\.py:(\d+): error: .*\[([a-z-]+)\]$", output, re.MULTILINE)
    assert {(int(line), code) for line, code in found} == expected(1), output


def test_pyright_finds_what_is_wrong_and_nothing_else(tmp_path: Path) -> None:
    pyright = shutil.which("pyright", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    if pyright is None:
        pytest.skip("pyright is not installed; `pip install pyright` installs it, and it needs node")
    if subprocess.run([pyright, "--version"], capture_output=True, timeout=300, check=False).returncode:
        pytest.skip("pyright could not fetch itself from npm's registry, as it does when it is first used")
    (tmp_path / "pyrightconfig.json").write_text(json.dumps({"include": ["shop.py"]}))
    output = run([pyright, "--outputjson", "--pythonpath", sys.executable], tmp_path)
    errors = json.loads(output)["generalDiagnostics"]
    found = {(one["range"]["start"]["line"] + 1, one["rule"]) for one in errors}
    assert found == expected(2), json.dumps(errors, indent=1)
