"""The first mistakes: each row of docs/first-mistakes.md is run, and says what the row says, without a traceback."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from pipeline import Event, Pipeline
from tests.readme import SHOP
from tests.servers import wait_for

PAGE = Path(__file__).parents[2] / "docs" / "first-mistakes.md"
_ROW = re.compile(r"^\| `([^`]+)`(.*) \| `(.+)` \| (\d*) ?\|$", re.MULTILINE)
BARE = "from pipeline import Pipeline\n\napp = Pipeline('x')\n\n\n@app.agent\ndef seen(data): ...\n"


class Row(NamedTuple):
    """A row of the page: the command, how it stands there, what is said, and the exit code of what ends."""

    command: str
    aside: str
    said: str
    code: int | None


ROWS = [Row(command, aside, said, int(code) if code else None) for command, aside, said, code in
        _ROW.findall(PAGE.read_text())]  # fmt: skip


class Started(NamedTuple):
    process: subprocess.Popen[bytes]
    log: Path

    def said(self) -> str:
        return " ".join(self.log.read_text(errors="replace").split())


class Desk:
    """A directory with the README's shop.py, and the terminals in it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.unprivileged = False
        self.started: list[Started] = []
        self.write("shop.py", SHOP)

    def write(self, name: str, text: str) -> None:
        (self.directory / name).write_text(text)

    @property
    def app(self) -> Pipeline:
        return Pipeline("shop", directory=self.directory / ".pipeline")

    def start(self, command: str) -> Started:
        """Run a command line in the shell, in a process group of its own."""
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("PIPELINE_", "CELERY_"))}
        environment = {**clean, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONUNBUFFERED": "1"}
        prefix = ["setpriv", "--bounding-set", "-dac_override"] if self.unprivileged and os.geteuid() == 0 else []
        log = self.directory.parent / f"{len(self.started)}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*prefix, "bash", "-c", command], cwd=self.directory, env=environment, stdout=output, stderr=output,
                stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
        self.started.append(Started(process, log))
        return self.started[-1]

    def run(self, command: str) -> str:
        """Run a command line to its end, which has to be a good one."""
        one = self.start(command)
        assert one.process.wait(timeout=60) == 0, one.said()
        return one.said()

    def work(self, command: str, until: str) -> Started:
        """Start a worker, and return when it has said something."""
        one = self.start(command)
        wait_for(lambda: until in one.said() or one.process.poll() is not None, lambda: f"{until}: {one.said()}")
        assert until in one.said()
        return one

    def end(self, one: Started) -> None:
        if one.process.poll() is None:
            os.killpg(one.process.pid, signal.SIGTERM)
            one.process.wait(timeout=30)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    directory = tmp_path / "desk"
    directory.mkdir()
    desk = Desk(directory)
    yield desk
    directory.chmod(0o755)
    for one in desk.started:
        if one.process.poll() is None:
            os.killpg(one.process.pid, signal.SIGKILL)
            one.process.wait(timeout=20)


# -- what is there before the mistake


def agents_have_run(desk: Desk) -> None:
    app = desk.app
    app.ledger.subscribers.register({"billing": (("order.placed",), None), "audit": (("order.*",), None)})
    app.close()


def published(desk: Desk) -> None:
    desk.run("python shop.py")


def another_ledger(desk: Desk) -> None:
    """Let the queues be there, and a publisher with a ledger of its own send something into them."""
    desk.end(desk.work("celery -A shop worker --loglevel=INFO", "ready."))
    desk.run("PIPELINE_LEDGER_URL=sqlite:///other.db python shop.py")


def dead_letter(desk: Desk) -> None:
    worker = desk.work("celery -A shop worker --loglevel=INFO", "ready.")
    app = desk.app
    app.publish(Event(id="e1", type="order.placed", source="/theirs", data={"order_id": "A1"}))
    app.close()
    wait_for(lambda: "does not validate" in worker.said(), "the dead letter")
    wait_for(lambda: "e1" in desk.run("pipeline -A shop dead list --json"), "the dead letter in the ledger")
    desk.end(worker)


def read_only(desk: Desk) -> None:
    desk.unprivileged = True
    desk.directory.chmod(0o555)
    one = desk.start("touch anything")
    if one.process.wait(timeout=20) == 0:
        pytest.skip("whoever runs the tests may write everywhere")


def damaged(desk: Desk) -> None:
    agents_have_run(desk)
    (desk.directory / ".pipeline" / "broker.db").write_bytes(b"no database" * 1000)


def named_one(desk: Desk) -> None:
    desk.work("celery -A shop worker -n one@here --loglevel=INFO", "ready.")


#: By the command of the row, and where several have the same, by a part of what stands behind it.
BEFORE: dict[str, Callable[[Desk], None]] = {
    "pipeline -A events agents": lambda desk: desk.write("events.py", "PLACED = 'order.placed'\n"),
    "pipeline -A broken agents": lambda desk: desk.write("broken.py", "import no_such_thing\n"),
    "python bare.py": lambda desk: desk.write("bare.py", BARE),
    "celery -A lonely worker": lambda desk: desk.write("lonely.py", "from pipeline import Pipeline\nx = Pipeline()\n"),
    "PIPELINE_DIRECTORY=elsewhere python shop.py": agents_have_run,
    "pipeline -A shop publish odrer.placed": agents_have_run,
    "celery -A shop worker": published,
    "celery -A shop worker -n two@here": another_ledger,
    "pipeline -A shop unrouted": published,
    "pipeline -A shop dead list": dead_letter,
    "pipeline -A shop events": read_only,
    "celery -A shop worker --loglevel=ERROR": read_only,
    "celery -A shop worker --pool=solo": damaged,
    "python -m shop": damaged,
    "pipeline -A shop doctor": damaged,
    "celery -A shop worker -n one@here": named_one,
}


def before(row: Row) -> Callable[[Desk], None]:
    if "may not be written" in row.aside:
        return read_only
    return BEFORE.get(row.command, lambda desk: None)


def says(row: Row, text: str) -> bool:
    """Say whether a text has what the row says, its parts in order."""
    at = 0
    for part in (" ".join(part.split()) for part in row.said.split("...")):
        found = text.find(part, at)
        if found < 0:
            return False
        at = found + len(part)
    return True


@pytest.mark.parametrize("row", ROWS, ids=[f"{row.command}{row.aside[:20]}" for row in ROWS])
def test_a_first_mistake_is_met_with_words(desk: Desk, row: Row) -> None:
    before(row)(desk)
    one = desk.start(row.command)
    if row.code is None:
        wait_for(lambda: says(row, one.said()) or one.process.poll() is not None, lambda: f"{row.said}: {one.said()}")
        assert one.process.poll() is None, one.said()
    else:
        assert one.process.wait(timeout=60) == row.code, one.said()
    assert says(row, one.said()), one.said()
    if not row.command.startswith("python"):  # what publish() and declaring raise is the caller's to catch
        assert "Traceback" not in one.said()
    assert "alembic" not in one.said()


def test_every_row_of_the_page_is_run_and_every_preparation_used() -> None:
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    assert len(rows) == len(ROWS) > 20
    assert {*BEFORE} <= {row.command for row in ROWS}
