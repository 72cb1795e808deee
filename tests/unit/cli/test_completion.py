"""What a shell is offered when somebody presses Tab."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

BIN = Path(sys.executable).parent
#: How each shell asks what may follow.
ASKS = {
    "bash": lambda line: {"COMP_WORDS": line, "COMP_CWORD": str(len(line.split(" ")) - 1)},
    "zsh": lambda line: {"_TYPER_COMPLETE_ARGS": line},
    "fish": lambda line: {"_TYPER_COMPLETE_ARGS": line, "_TYPER_COMPLETE_FISH_ACTION": "get-args"},
}


def offered(shell: str, line: str, *program: str) -> str:
    asked = {"_PIPELINE_COMPLETE": f"complete_{shell}", **ASKS[shell](line)}
    command = program or (str(BIN / "pipeline"),)
    found = subprocess.run(command, env={**os.environ, **asked}, capture_output=True, text=True, timeout=60, check=True)
    assert found.stderr == ""
    return found.stdout


@pytest.mark.parametrize("shell", ASKS)
def test_commands_are_offered_by_how_they_begin(shell: str) -> None:
    found = offered(shell, "pipeline de")
    assert "dead" in found
    assert "demo" in found
    assert "publish" not in found


@pytest.mark.parametrize("before", ["", "--app no_such_shop "])
def test_what_a_command_does_is_offered_whatever_the_app_is(before: str) -> None:
    assert offered("bash", f"pipeline {before}dead re").split() == ["requeue"]
    assert "--every" in offered("bash", f"pipeline {before}top --")


def test_no_app_no_database_and_no_server_is_imported_for_that(tmp_path: Path) -> None:
    program = tmp_path / "pipeline.py"
    program.write_text(
        "import sys; sys.path.pop(0)\n"
        "import pipeline.cli.main as c\n"
        "try: c.main()\n"
        "except SystemExit: pass\n"
        "print([name for name in ('shop', 'sqlalchemy', 'alembic', 'httpcore', 'fastapi') if name in sys.modules])"
    )
    (tmp_path / "shop.py").write_text("raise RuntimeError")
    found = offered("bash", "pipeline --app shop dead ", sys.executable, str(program)).splitlines()
    assert found == ["list", "show", "count", "requeue", "drop", "[]"]


def test_it_is_installed_into_a_shell(tmp_path: Path) -> None:
    clean = {"HOME": str(tmp_path), "PATH": f"{BIN}:{os.environ['PATH']}"}
    asks = 'COMP_WORDS=(pipeline de); COMP_CWORD=1; _pipeline_completion pipeline; echo "${COMPREPLY[@]}"'
    for script in ("pipeline --install-completion; true", f'. "$HOME/.bashrc"; complete -p pipeline && {asks}'):
        command = ["bash", "--norc", "-c", script]
        found = subprocess.run(command, env=clean, capture_output=True, text=True, timeout=60, check=True)
    assert found.stdout.splitlines()[-1] == "demo dead"
