"""`pipeline demo crew`, as a user runs it: model calls are paid once, whatever breaks, and somebody is asked."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import IO

import pytest

from pipeline.core.errors import to_install
from tests.acceptance.test_demo import read
from tests.demos import PATIENT
from tests.servers import wait_for

pytest.importorskip("pydantic_ai")
pytestmark = pytest.mark.usefixtures("nothing_is_left")

COMMAND = [str(Path(sys.executable).with_name("pipeline")), "demo", "crew"]
#: Tokens that a call reserves before it is made.
RESERVED = 4_000
#: Makes pydantic-ai what it is where nobody has installed it.
WITHOUT = """
import sys


class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "pydantic_ai":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


sys.meta_path.insert(0, Blocker())
"""


def run(command: list[str] | str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, shell=isinstance(command, str), capture_output=True, text=True, env=environment, timeout=200,
        check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip


class AtATerminal:
    """The command with a terminal to ask on; what it says goes into a file."""

    def __init__(self, directory: Path, environment: dict[str, str]) -> None:
        self.said = directory / "said.txt"
        ours, theirs = pty.openpty()
        with self.said.open("wb") as said:
            command = [*COMMAND, *PATIENT]
            self.process = subprocess.Popen(command, stdin=theirs, stdout=said, stderr=said, env=environment)
        os.close(theirs)
        self._keys: IO[bytes] = os.fdopen(ours, "wb", buffering=0)

    def wait_until_asked(self) -> None:
        wait_for(lambda: "Send it?" in self.text or self.process.poll() is not None, "the question", 150)
        assert self.process.poll() is None, self.text

    def type(self, text: str) -> None:
        self._keys.write(text.encode())

    def end(self) -> int:
        try:
            return self.process.wait(timeout=60)
        finally:
            self.process.kill()
            self.process.wait()
            self._keys.close()

    @property
    def text(self) -> str:
        return self.said.read_text()


def test_each_model_call_is_paid_once_though_the_provider_refuses_and_the_worker_is_killed(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    # As somebody has it who uses the bus already: it may not be asked.
    environment |= {"PIPELINE_LEDGER_URL": "postgresql://nobody@127.0.0.1:1/none"}
    found = run([*COMMAND, "--yes", "--json", "--directory", "here", "--by", "grace", *PATIENT], environment)
    assert (found.returncode, found.stderr) == (0, "")
    told = json.loads(found.stdout)

    # One plan, three searches of two calls each, one report: kept in the ledger, and answered once.
    paid = told["paid"]
    assert Counter(call["agent"] for call in paid["calls"]) == {"planner": 1, "searcher": 6, "writer": 1}
    assert [call["answered"] for call in paid["calls"]] == [1] * 8
    assert (paid["twice"], paid["lost"], paid["provider"]["answered"]) == (0, 0, 8)
    assert all(call["tokens"] > 0 and call["cost"] > 0 for call in paid["calls"])
    assert paid["tokens"] == sum(call["tokens"] for call in paid["calls"])

    # It was refused, killed, and cut off before an answer; what the killed attempt had reserved counts as spent.
    assert paid["provider"]["refused"] >= 1
    assert paid["provider"]["cut_off"] >= 1
    assert told["paused"]["scope"] == "pretended"
    assert told["paused"]["waiting"] >= 1
    assert not Path(f"/proc/{told['killed']}").exists()
    used = paid["budget"]["used"]["tokens"]
    assert paid["tokens"] < used <= paid["budget"]["limit"]["tokens"]
    if told["paused"]["waiting"] == 3:  # so that one search went on alone, and what it had paid was settled
        assert used == paid["tokens"] + RESERVED

    # Who has approved is recorded, and one e-mail went out.
    assert (told["approval"]["status"], told["approval"]["by"]) == ("approved", "grace")
    assert told["sent"] == {"to": "ada@example.org", "approved_by": "grace"}
    assert list(told["mails"].values()) == [1]
    message = read(tmp_path / "here" / "mail" / f"{next(iter(told['mails']))}.eml")
    assert message["Subject"] == "About decorators, context managers and generators"
    assert "A context manager is an object that defines the" in " ".join(message.as_string().split())

    # The commands that it ends with say the same.
    trace, budget, approval, events = (run(command, environment) for command in told["try"])
    assert [one.stderr for one in (trace, budget, approval, events)] == [""] * 4
    assert len(re.findall(r"step (?:plans|finds|writes): model\b", trace.stdout)) == 8
    assert "-> searcher: succeeded" in trace.stdout
    assert "2 attempts" in trace.stdout
    assert f"{paid['budget']['used']['tokens']:,}" in budget.stdout
    assert "grace" in approval.stdout
    assert [json.loads(line)["type"] for line in events.stdout.splitlines()] == ["report.written", "report.sent"]


def test_whoever_is_asked_may_say_no(tmp_path: Path, environment: dict[str, str]) -> None:
    crew = AtATerminal(tmp_path, environment)
    crew.wait_until_asked()
    assert "  | Subject: About decorators, context managers and generators" in crew.text
    crew.type("n\n")
    assert crew.end() == 0, crew.text
    order = [crew.text.index(word) for word in ("429:", "KILLED:", "BACK:", "APPROVAL:", "VETOED by", "DONE: nothing")]
    assert order == sorted(order)
    assert "PAID TWICE: nothing. PAID AND LOST: nothing." in crew.text
    assert "0 e-mails taken" in crew.text
    assert list(tmp_path.glob("pipeline-crew-*/mail/*")) == []


def test_ctrl_c_at_the_question_ends_everything(tmp_path: Path, environment: dict[str, str]) -> None:
    crew = AtATerminal(tmp_path, environment)
    crew.wait_until_asked()
    crew.process.send_signal(signal.SIGINT)
    assert crew.end() == 130, crew.text
    assert "Traceback" not in crew.text
    assert crew.text.endswith("Send it? [y/N] ")


def test_with_another_model_nothing_is_broken_on_purpose(tmp_path: Path, environment: dict[str, str]) -> None:
    found = run([*COMMAND, "--yes", "--json", *PATIENT], {**environment, "CREW_MODEL": "test"})
    assert (found.returncode, found.stderr) == (0, "")
    told = json.loads(found.stdout)
    assert (told["killed"], told["paused"], told["paid"]["provider"]) == (None, None, None)
    assert [call["agent"] for call in told["paid"]["calls"]] == ["planner", "searcher", "searcher", "writer"]
    assert list(told["mails"].values()) == [1]


def test_without_pydantic_ai_it_says_what_to_install(tmp_path: Path, environment: dict[str, str]) -> None:
    (tmp_path / "sitecustomize.py").write_text(WITHOUT)
    found = run([*COMMAND, "--yes"], {**environment, "PYTHONPATH": str(tmp_path)})
    assert (found.returncode, found.stdout) == (1, "")
    said = f"demo crew needs pydantic-ai (No module named 'pydantic_ai'); {to_install('crew')}"
    assert found.stderr == f"pipeline: {said}\n"
    # Nobody else needs it.
    assert run([*COMMAND[:-1], "--help"], {**environment, "PYTHONPATH": str(tmp_path)}).returncode == 0


def test_a_model_that_does_not_exist_is_named(environment: dict[str, str]) -> None:
    found = run([*COMMAND, "--yes"], {**environment, "CREW_MODEL": "nonsense"})
    assert (found.returncode, found.stdout) == (1, "")
    assert found.stderr == "pipeline: CREW_MODEL=nonsense: Unknown model: nonsense\n"


def test_without_a_terminal_it_needs_to_be_told_the_answer(environment: dict[str, str]) -> None:
    found = run(COMMAND, environment)
    assert found.returncode == 2
    assert "--yes" in found.stderr
