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
            private |= {(named(path), name) for name in names if re.match(r"pipeline\.(?!families$|examples\b)", name)}
    assert private == set()
