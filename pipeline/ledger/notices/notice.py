"""What a handler says while it works, and who says it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from ...core.times import as_json_time

#: Characters of a text that one notice has.
LONGEST = 8192


class Speaker(NamedTuple):
    """Who says something: an attempt at a delivery."""

    correlation: str
    delivery: str
    agent: str
    attempt: int


@dataclass(frozen=True)
class Notice:
    """Something that a handler has said.

    Attributes:
        seq: its number; later ones have higher ones.
        delivery: the delivery's id.
        attempt: which attempt at it: what an earlier one has said is over when a later one begins.
        fraction: how much of the work is done, 0 to 1; None for a piece of a text, and where that is not known.
        name: the name of the text that it continues; None for what says how far the work is.
        text: the piece, or what is being done.

    """

    seq: int
    at: datetime
    correlation: str
    delivery: str
    agent: str
    attempt: int
    fraction: float | None
    name: str | None
    text: str

    @property
    def kind(self) -> str:
        """What it is: progress, or a chunk of a text."""
        return "progress" if self.name is None else "chunk"

    def as_data(self) -> dict[str, Any]:
        """Return it as JSON data: of a piece of a text without `fraction`, of progress without `name`."""
        data = {**vars(self), "at": as_json_time(self.at)}
        del data["fraction" if self.name is not None else "name"]
        return data
