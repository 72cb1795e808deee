"""The demonstrations as users run them: the installed command, and the workers that it starts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.servers import wait_for

#: The command that is installed: under `python -m` Python ends itself by SIGINT, whatever the exit code was to be, when
#: that has come within exec() of a text, as where a dataclass is made.
COMMAND = [str(Path(sys.executable).with_name("pipeline")), "demo"]
#: A demonstration has more time than it needs on a machine that does nothing else.
PATIENT = ("--timeout", "150")
#: How the names of settings begin that a test must not have from whoever runs it.
SETTINGS = ("PIPELINE_", "BRIEFING_", "CREW_", "ORDERS_", "TRADING_")


def demo(*arguments: str, environment: dict[str, str], seconds: float = 180) -> subprocess.CompletedProcess[str]:
    """Run a demonstration to its end."""
    return subprocess.run(
        [*COMMAND, *arguments, *PATIENT], capture_output=True, text=True, env=environment, timeout=seconds, check=False,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip


def interrupted(
    *arguments: str, said: str, number: int, directory: Path, environment: dict[str, str]
) -> tuple[int, str, str]:
    """Send a demonstration a signal when it has said something; return its exit code, its output, and its errors.

    Arguments:
        directory: where its workers' state is.

    """
    with subprocess.Popen(
        [*COMMAND, *arguments, *PATIENT], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as running:
        assert running.stdout is not None
        wait_for(lambda: workers_in(directory), "the worker")
        heard = ""
        while said not in heard:
            heard += running.stdout.readline()
        running.send_signal(number)
        rest, errors = running.communicate(timeout=60)
    return running.returncode, heard + rest, errors


def workers_in(directory: Path) -> list[str]:
    """Return the worker processes whose state is in `directory`."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            variables = (process / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if any(v.startswith(f"PIPELINE_CONFIG={directory}".encode()) for v in variables):
            found.append((process / "cmdline").read_text())
    return found
