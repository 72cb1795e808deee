"""A full-text index in one SQLite file: BM25 ranks passages, and the best sentences of the best one are the answer.

BM25: Robertson and Zaragoza, "The Probabilistic Relevance Framework", 2009; computed by SQLite's FTS5.
"""

from __future__ import annotations

import contextlib
import fcntl
import keyword
import math
import os
import re
import sqlite3
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

#: Part of the file's name, so that another way of indexing does not read files of this one.
FORMAT = 1
#: How much more a word in the title tells about a passage than one in its text.
NAMES_WEIGHT, TERMS_WEIGHT, BODY_WEIGHT = 4.0, 3.0, 1.0
#: Passages that BM25 proposes, before the share of the question that each covers decides.
CANDIDATES = 40
#: A passage that covers less of the question than this is no answer.
ENOUGH = 0.6
#: Passages that score less mention the words in passing.
GOOD = 1.0

_WORD = re.compile(r"[^\W_]+")
_SENTENCE_END = re.compile(
    r"(?<=[.!?])(?<!e\.g\.)(?<!i\.e\.)(?<!etc\.)(?<!cf\.)\s+(?=[A-Z\"“'(@\x02])|(?<=[.!?][\"”)])\s+(?=[A-Z\x02])"
)
_STOP_WORDS = """
a about all an and any are as at be best between by can could difference different do does doing easily explain
for from get give happen happens have how i in into is it its like make me mean means my need of on one or
please properly python quickly s should show simply so some tell than that the them there these they this to use
used using want was way we what when where which who why will with work working works would you your
"""
_STOP = frozenset(_STOP_WORDS.split())
_SYNTAX = {
    "statement",
    "statements",
    "keyword",
    "clause",
    "loop",
    "loops",
    "expression",
    "expressions",
    "operator",
    "block",
}
_START, _END = "\x02", "\x03"


class Passage(NamedTuple):
    """A piece of text that can be found: its name and its prose, one paragraph per line."""

    title: str
    body: str
    terms: str = ""


class Row(NamedTuple):
    """A passage that BM25 proposes, with the question's words marked."""

    id: int
    title: str
    names: str
    terms: str
    body: str
    score: float


@dataclass(frozen=True, slots=True)
class Hit:
    """A passage that was found: `relevance` is the share of the question, 0 to 1, that it covers."""

    title: str
    summary: str
    relevance: float
    score: float


class Index:
    """An index file, built when it is first needed; several threads and processes may share it."""

    def __init__(
        self, directory: Path, name: str, passages: Callable[[], Iterable[Passage]], *, lead: bool = False
    ) -> None:
        """Take where the file lies and what fills it; nothing is read yet.

        Arguments:
            lead: a passage's first sentences say what it is about, as those of docstrings do.

        """
        self.path = directory / f"{name}-{sys.implementation.cache_tag}-{sys.hexversion:x}-{FORMAT}.db"
        self._passages = passages
        self._lead = lead

    def search(self, question: str, *, limit: int = 3) -> list[Hit]:
        """Return the passages that answer `question`, best first; none when the text does not speak about it."""
        terms = words_of(question)
        if not terms:
            return []
        with self._open() as db:
            weights = _weights(db, terms)
            hits = sorted(
                (_hit(row, weights, db, self._lead) for row in _candidates(db, terms)), key=lambda hit: -hit.score
            )
        best: dict[str, Hit] = {}
        for hit in hits:
            if hit.relevance >= ENOUGH and hit.score >= GOOD:
                best.setdefault(hit.title, hit)
        return list(best.values())[:limit]

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        if not self.path.exists():
            self._build()
        with contextlib.closing(sqlite3.connect(f"{self.path.absolute().as_uri()}?mode=ro", uri=True)) as db:
            yield db

    def _build(self) -> None:
        """Write the index beside its place and move it there: nobody sees half of it."""
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self.path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # a second process waits for the first one's index
            if not self.path.exists():
                draft = self.path.with_suffix(f".{os.getpid()}.tmp")
                draft.unlink(missing_ok=True)
                _write(draft, self._passages())
                draft.replace(self.path)


def words_of(question: str) -> list[str]:
    """Return the words of a question that say what it is about.

    A stop word that is a Python keyword counts where the question speaks of syntax: "the with statement".
    """
    words = [word.lower() for word in _WORD.findall(question)]
    is_syntax = [
        keyword.iskeyword(word) and following in _SYNTAX
        for word, following in zip(words, [*words[1:], ""], strict=True)
    ]
    terms = [word for word, kept in zip(words, is_syntax, strict=True) if kept or word not in _STOP]
    return list(dict.fromkeys(terms))[:20]


def _write(path: Path, passages: Iterable[Passage]) -> None:
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        db.execute("PRAGMA journal_mode = OFF")
        db.execute("PRAGMA synchronous = OFF")  # a lost index is built again
        db.execute(
            "CREATE VIRTUAL TABLE passages USING fts5(title UNINDEXED, names, terms, body, tokenize='porter unicode61')"
        )
        db.executemany(
            "INSERT INTO passages VALUES (?, ?, ?, ?)", ((p.title, _names(p.title), p.terms, p.body) for p in passages)
        )


def _names(title: str) -> str:
    """Return the words inside a name: `csv.DictReader` also is about dict and reader."""
    words = re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+", title)
    return " ".join(word for word in words if word not in ("The", "the")) or title


def _weights(db: sqlite3.Connection, terms: list[str]) -> dict[str, float]:
    """Return how telling each term is: its inverse document frequency, highest for a word that never occurs."""
    total = db.execute("SELECT count(*) FROM passages").fetchone()[0]
    counts = {
        t: db.execute("SELECT count(*) FROM passages WHERE passages MATCH ?", (_quoted(t),)).fetchone()[0]
        for t in terms
    }
    return {term: math.log(1 + (total + 1) / (count + 1)) for term, count in counts.items()}


def _quoted(term: str) -> str:
    return f'"{term}"'


def _candidates(db: sqlite3.Connection, terms: list[str]) -> list[Row]:
    phrases = [f"{term} {following}" for term, following in pairwise(terms)]
    rows = db.execute(
        "SELECT rowid, title, highlight(passages, 1, :start, :end), highlight(passages, 2, :start, :end), "
        "highlight(passages, 3, :start, :end), -bm25(passages, 0.0, :names, :terms, :body) AS score "
        "FROM passages WHERE passages MATCH :match ORDER BY score DESC LIMIT :limit",
        {
            "start": _START, "end": _END, "names": NAMES_WEIGHT, "terms": TERMS_WEIGHT, "body": BODY_WEIGHT,
            "match": " OR ".join(map(_quoted, [*terms, *phrases])), "limit": CANDIDATES,
        },
    )  # fmt: skip
    return [Row(*row) for row in rows]


def _hit(row: Row, weights: dict[str, float], db: sqlite3.Connection, lead: bool) -> Hit:
    covered = [
        term
        for term in weights
        if db.execute("SELECT 1 FROM passages WHERE passages MATCH ? AND rowid = ?", (_quoted(term), row.id)).fetchone()
    ]
    total = sum(weights.values())
    coverage = sum(weights[term] for term in covered) / total
    named = row.names.count(_START) / len(row.names.split())
    about = min(1.0, len(_marked(row.terms)) / len(weights))
    score = row.score / total * coverage**2 * (1 + 1.5 * named + about) * 0.9 ** row.title.count(".")
    return Hit(row.title, summary(row.body, lead=lead or "." in row.title), round(coverage, 3), round(score, 3))


def summary(body: str, *, lead: bool, length: int = 3) -> str:
    """Return sentences in a row: the first ones with `lead`, else those that say most about the marked words."""
    sentences = [s for paragraph in body.split("\n") for s in _SENTENCE_END.split(paragraph) if not s.endswith(":")]
    first = 0 if lead else next((at for at, sentence in enumerate(sentences) if _START in sentence), 0)
    last = first if lead else max(first, len(sentences) - length)
    best = max(range(first, last + 1), key=lambda at: _merit(sentences[at : at + length]) + 3.0 / (1 + at - first))
    return " ".join(sentences[best : best + length]).replace(_START, "").replace(_END, "")


def _merit(sentences: list[str]) -> float:
    return sum(map(_telling, sentences))


def _telling(sentence: str) -> float:
    defines = bool(re.match(rf"(?:An?|The) \W*{_START}[^.]* (?:is|are) an? ", sentence))
    return len(_marked(sentence)) + 1.5 * defines


def _marked(text: str) -> set[str]:
    """Return the beginnings of the marked words: reader and readers count once."""
    return {word.lower()[:6] for word in re.findall(f"{_START}(.*?){_END}", text)}
