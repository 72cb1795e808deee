"""Answers that a model can read: as much of something as fits, and what was left off."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

#: Characters of an answer, which are some 25,000 tokens.
MOST = 100_000
#: Characters of one of a list.
MOST_OF_ONE = 20_000
#: How much of each text and each list stays, in characters and in items, the first that fits.
_LEVELS = ((8000, 400), (2000, 200), (500, 50), (100, 10), (40, 3))
#: How deep what is shown is nested, where all of it is too much.
_DEPTH = 8


@dataclass(frozen=True)
class Page:
    """A list that is answered from its beginning.

    Attributes:
        rows: what it has, each as JSON data, with the place from which on the next page begins.
        more: whether there is more behind it.
        beside: what is said beside it.

    """

    name: str
    rows: Sequence[tuple[dict[str, Any], str | None]]
    more: bool = False
    beside: dict[str, Any] = field(default_factory=dict)

    def fitted(self) -> dict[str, Any]:
        """Return it as JSON data, without what does not fit; `left_off` says how much that is, `next` goes on."""
        beside = clipped(self.beside, MOST_OF_ONE)
        rows, had = [], len(text_of(beside))
        for row, _ in self.rows:
            one = clipped(row, MOST_OF_ONE)
            had += len(text_of(one)) + 1
            if had > MOST - 1000:
                break
            rows.append(one)
        left = len(self.rows) - len(rows)
        shown: dict[str, Any] = {self.name: rows, **beside}
        if left:
            shown["left_off"] = f"{left} of {len(self.rows)}, which are too long together; ask for fewer, or for one"
        last = self.rows[len(rows) - 1][1] if rows else None
        if last is not None:
            shown["next"] = last if left or self.more else None
        return shown


def text_of(data: Any) -> str:
    """Return JSON data as a text."""
    try:
        return orjson.dumps(data, default=str, option=orjson.OPT_UTC_Z).decode()
    except TypeError:  # half of a character, which somebody has sent as JSON; or it is nested too deeply
        return json.dumps(data, default=str)


def clipped(data: Any, most: int = MOST) -> Any:
    """Return JSON data with its texts and lists cut where all of it would be too long.

    Arguments:
        most: characters.

    """
    if len(text_of(data)) <= most:
        return data
    cut: Any = None
    for texts, items in _LEVELS:
        cut = _cut(data, texts, items, _DEPTH)
        if len(text_of(cut)) <= most:
            return cut
    return {"left_off": "all of it, which is too long in every part"}


def _cut(data: Any, texts: int, items: int, depth: int) -> Any:
    if isinstance(data, str):
        return data if len(data) <= texts else f"{data[:texts]} ... ({len(data) - texts:,} characters left off)"
    if not isinstance(data, (dict, list, tuple)):
        return data
    if depth == 0:
        return f"({len(data):,} left off, which are nested too deeply)"
    if isinstance(data, dict):
        shown = {str(name)[:texts]: _cut(value, texts, items, depth - 1) for name, value in list(data.items())[:items]}
        return shown if len(data) <= items else {**shown, "left_off": f"{len(data) - items:,} names"}
    cut = [_cut(value, texts, items, depth - 1) for value in data[:items]]
    return cut if len(data) <= items else [*cut, f"({len(data) - items:,} left off)"]
