"""The briefing example's research: what is found in the reference and in the library, and when nothing is."""

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline.examples.briefing import corpus
from pipeline.examples.briefing.search import Index, Passage, words_of

ZOO = [Passage(f"animal{n}", f"The animal of number {n} eats.") for n in range(30)]
ZOO.append(Passage("zebra", "A zebra is an animal.", "zebra"))


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("indexes")


@pytest.mark.parametrize(
    ("question", "words"),
    [
        ("How do context managers work?", ["context", "managers"]),
        ("How does the with statement work?", ["with", "statement"]),
        ("How do I work with files in Python?", ["files"]),
        ("what is it", []),
    ],
)
def test_only_the_words_that_say_what_a_question_is_about_count(question: str, words: list[str]) -> None:
    assert words_of(question) == words


@pytest.mark.parametrize(
    ("question", "title", "said"),
    [
        ("How do context managers work?", "With Statement Context Managers", "A context manager is an object"),
        ("What is a decorator?", "Function definitions", "may be wrapped by one or more decorator"),
        ("How do exceptions work?", "Exceptions", "means of breaking out of the normal flow"),
        ("How do I split a string?", "str.split", "list of the words"),
    ],
)
def test_the_reference_knows_the_language(shelf: Path, question: str, title: str, said: str) -> None:
    best = Index(shelf, "reference", corpus.reference).search(question)[0]
    assert best.title == title
    assert said in best.summary
    assert "::=" not in best.summary
    assert "**" not in best.summary


@pytest.mark.parametrize(
    ("question", "title"),
    [
        ("How do I read a CSV file?", "csv"),
        ("How do I sort a list?", "list.sort"),
        ("How do I use threads?", "threading"),
    ],
)
def test_the_library_knows_the_modules(shelf: Path, question: str, title: str) -> None:
    assert Index(shelf, "library", corpus.library, lead=True).search(question)[0].title == title


@pytest.mark.parametrize("question", ["What is the capital of France?", "what is it", '"; DROP TABLE x', "* OR NEAR("])
def test_nothing_is_found_where_nothing_is_said(shelf: Path, question: str) -> None:
    assert Index(shelf, "reference", corpus.reference).search(question) == []


def test_a_passage_that_covers_little_of_the_question_is_no_answer(shelf: Path) -> None:
    assert Index(shelf, "reference", corpus.reference).search("How do I read a CSV file?") == []


def test_an_index_is_built_once_for_all_threads_and_later_processes(tmp_path: Path) -> None:
    built = []

    def passages() -> Iterator[Passage]:
        built.append(1)
        yield from ZOO

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: Index(tmp_path, "zoo", passages).search("zebra"), range(8)))
    assert [hits[0].summary for hits in found] == ["A zebra is an animal."] * 8
    assert len(built) == 1
    assert not list(tmp_path.glob("*.tmp"))


def test_a_draft_left_by_a_killed_process_does_no_harm(tmp_path: Path) -> None:
    index = Index(tmp_path, "zoo", lambda: ZOO)
    index.search("zebra")
    file = next(tmp_path.glob("*.db"))
    file.unlink()
    file.with_suffix(f".{os.getpid()}.tmp").write_bytes(b"half")
    assert index.search("zebra")


def test_reading_the_library_imports_none_of_it() -> None:
    code = (
        "import sys; from pipeline.examples.briefing import corpus; n = len(list(corpus.library()));"
        "print(n, {'antigravity', 'this', 'idlelib', 'tkinter', 'test', 'turtle', 'ftplib'} & set(sys.modules))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    count, _, imported = found.stdout.strip().partition(" ")
    assert int(count) > 1000
    assert imported == "set()"
    assert found.stderr == ""


def test_prose_is_told_from_code_tables_and_notes() -> None:
    text = """
A decorator changes a function. It is applied with an at sign:

   @decorate
   def f(): return 1

* Each bullet is a paragraph
  that goes on here.

Changed in version 3.9: More is allowed now, in a number of ways.

+-----+
| a b |
"""
    assert corpus.prose_of(text) == [
        "A decorator changes a function.",
        "Each bullet is a paragraph that goes on here.",
    ]
