"""How the tests themselves run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import children, end_processes

ROOT = Path(__file__).parents[2]


def test_tests_that_interrupt_a_process_pass_where_a_shell_ignores_interrupts() -> None:
    # As for what a script starts with `&`: it is inherited, and who waits for the interrupted process waits for ever.
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "tests/unit/cli/test_main.py",
        "-k",
        "ctrl_c",
    ]
    ignoring = ["sh", "-c", "trap '' INT QUIT; exec \"$@\"", "sh", *command]
    done = subprocess.run(ignoring, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, "1 passed" in done.stdout) == (0, True), done.stdout


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="the kernel does not list a process's children")
def test_what_a_test_leaves_running_is_ended_with_its_children() -> None:
    before = children()
    nested = "import subprocess, sys, time; subprocess.Popen(['sleep', '600']); print(flush=True); time.sleep(600)"
    with subprocess.Popen([sys.executable, "-c", nested], stdout=subprocess.PIPE) as left:
        assert left.stdout is not None
        left.stdout.readline()
        (command,) = end_processes(children() - before)
        assert "sleep(600)" in command
        assert left.stdout.read() == b"", "nobody has it open any more"
