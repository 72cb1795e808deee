"""The rules of the house that no import shows: how large a file and a room may get, and who writes deliveries."""

from __future__ import annotations

import ast
import re
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "pipeline"
FILES = sorted(PACKAGE.rglob("*.py"))
MOST_LINES, MOST_FILES = 400, 12
#: What people read or run, and what a command that installs something must not name: ours is on no index under its own
#: name, and the name of the command is another project's there.
ROOMS = ("pipeline", "tests", "docs", "benchmarks", "config", ".ci")
TEXTS = [*ROOT.iterdir(), *(path for room in ROOMS for path in (ROOT / room).rglob("*"))]
KINDS_OF_TEXT = (".py", ".md", ".toml", ".yml", "")
INSTALLS = re.compile(r"\bpip3? install[^`\n]*")
ON_NO_INDEX = re.compile(r"(?<![\w./-])(pipeline|celery[-_]eventbus)(\[[^\]]*\])?(?! @)(?=[\s'\"]|$)")
#: A statement on the deliveries' table, as SQLAlchemy's function or the table's own method; `insert` may be a variable.
WRITES = re.compile(r"\b(insert|update|delete)\(\s*deliveries\b|\bdeliveries\.(insert|update|delete)\(")

#: Who may be asked for the time, or for what is random, in one file only: what a tester's clock cannot hold makes his
#: tests fail now and then. `monotonic`, which measures how long the machine takes, and `secrets` are not among them.
CLOCKS = {
    ("time", "time"), ("time", "time_ns"), ("datetime", "now"), ("datetime", "utcnow"), ("datetime", "today"),
    ("date", "today"), ("os", "urandom"), ("uuid", "uuid1"), ("uuid", "uuid4"), ("uuid", "uuid7"),
}  # fmt: skip
#: Files whose time is not the application's: how old a file is, says the file system.
OTHER_CLOCKS = {
    "pipeline/core/times.py",
    "pipeline/contracts/blobs/directory.py",
    *(f"pipeline/testing/{name}.py" for name in ("clock", "faults", "harness", "simulation", "worker")),  # a seed's
}
#: What only shows things, and what users could have written.
NOT_ASKED = ("pipeline/examples/", "pipeline/cli/demo/")


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_no_file_is_longer_than_a_reader_can_keep_in_mind() -> None:
    every = [*FILES, *(ROOT / "tests").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")]
    lines = {named(path): len(path.read_text().splitlines()) for path in every}
    assert {path: number for path, number in lines.items() if number > MOST_LINES} == {}


def test_nothing_says_that_the_package_index_has_the_package() -> None:
    texts = [path for path in TEXTS if path.is_file() and path.suffix in KINDS_OF_TEXT and path != Path(__file__)]
    commands = [(named(path), command) for path in texts for command in INSTALLS.findall(path.read_text())]
    assert [found for found in commands if ON_NO_INDEX.search(found[1])] == []
    for wrong in ("pip install pipeline", "pip install 'pipeline[x,{y}]'", "pip install -U celery-eventbus"):
        assert ON_NO_INDEX.search(wrong)


def test_no_room_has_more_files_than_one_looks_through() -> None:
    files = Counter(named(path.parent) for path in FILES if path.name != "__init__.py")
    assert {room: number for room, number in files.items() if number > MOST_FILES} == {}


def test_only_one_file_of_the_ledger_writes_deliveries() -> None:
    writers = {named(path) for path in FILES if "migrations" not in path.parts and WRITES.search(path.read_text())}
    assert writers == {"pipeline/ledger/deliveries.py"}


def test_events_of_rows_are_read_where_a_bad_one_raises_for_nobody() -> None:
    rooms = ("ledger", "history", "operations", "workers")
    decoding = {
        named(path)
        for path in FILES
        if path.relative_to(PACKAGE).parts[0] in rooms and "Event.decode(" in path.read_text()
    }
    assert decoding == {
        "pipeline/ledger/aside.py",
        "pipeline/operations/keeping/archive.py",  # lines, not rows
        "pipeline/operations/dead_letters.py",  # what was encoded just before
    }


def test_the_examples_use_what_every_application_can_use() -> None:
    private = set()
    for path in (PACKAGE / "examples").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                outside = node.level > len(path.relative_to(PACKAGE / "examples").parts)
                names = ["pipeline.<above>"] if outside else [node.module or ""] if not node.level else []
            public = r"pipeline\.(?!families$|filters$|pydantic_ai$|examples\b)"
            private |= {(named(path), name) for name in names if re.match(public, name)}
    assert private == set()


def clocks_in(source: str) -> set[str]:
    """Return what a module asks for the time, or for what is random."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name == "random"}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = {(node.module or "", alias.name) for alias in node.names}
            found |= {f"{module}.{name}" for module, name in names if (module, name) in CLOCKS or module == "random"}
        elif isinstance(node, ast.Attribute):
            owner = node.value.attr if isinstance(node.value, ast.Attribute) else getattr(node.value, "id", "")
            found |= {f"{owner}.{node.attr}"} if (owner, node.attr) in CLOCKS else set()
    return found


def test_one_file_alone_asks_for_the_time_and_for_what_is_random() -> None:
    asking = {named(path): clocks_in(path.read_text()) for path in FILES if not named(path).startswith(NOT_ASKED)}
    assert {path: found for path, found in asking.items() if found and path not in OTHER_CLOCKS} == {}
    for source in (
        "import random",
        "from random import random",
        "import time\ntime.time()",
        "from time import time_ns",
        "import datetime\ndatetime.datetime.now()",
        "from uuid import uuid4",
        "import uuid\nuuid.uuid4()",
        "import os\nos.urandom(1)",
    ):
        assert clocks_in(source), source
