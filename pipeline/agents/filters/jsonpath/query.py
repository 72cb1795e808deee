"""JSONPath (RFC 9535), rooted at the envelope: a condition of a filter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from ....core.errors import InvalidFilter
from ..paths import ALIASES, METADATA, PAYLOAD, Path, parse_path, path_of
from ..values import Result, Test, check_length, guarded, wrong
from .reading import Reader
from .walk import Segment, exists, nodes

#: How many `..`, and queries from the root within conditions, a query may have: the time grows with the size of the
#: event to this power, and one more.
MOST_SWEEPS = 1
#: How many selectors there may be in each bracket, multiplied: a query visits nodes so many times.
MOST_SELECTORS = 16
_INSIDE = {"data": PAYLOAD, "payload": PAYLOAD, "metadata": METADATA}


@dataclass(frozen=True)
class Query:
    """A JSONPath that matches where it selects something; missing where the names that it begins with do not exist."""

    query: str
    path: Path = field(compare=False)

    @property
    def paths(self) -> tuple[Path, ...]:
        """The names that it begins with."""
        return (self.path,)

    @property
    def text(self) -> str:
        """The query."""
        return self.query

    def as_data(self) -> dict[str, Any]:
        """Return it as a mapping filter has it."""
        return {"$jsonpath": self.query}

    def seen(self, event: Mapping[str, Any]) -> tuple[Any, list[str]]:
        """Return the first value that it selects, and the names around the place that it begins at."""
        seen = _seen_by(event)
        return next(nodes(_segments(self.query))(seen, seen), None), self.path.around(event)

    def build(self) -> Test:
        """Return the function that tries it on an event."""
        segments = _segments(self.query)
        whole, beginning = exists(segments), exists(segments[: len(_names(segments))])

        def test(event: Mapping[str, Any]) -> Result:
            seen = _seen_by(event)
            if whole(seen, seen):
                return True
            return False if beginning(seen, seen) else None

        return guarded(self, test)


def parse_query(text: str, place: str = "") -> Query:
    """Return the condition for a JSONPath; raise InvalidFilter with the place in the text."""
    check_length(text)
    try:
        segments = _segments(text)
    except InvalidFilter as exc:
        raise wrong(str(exc), place) from None
    names = _names(segments)
    if not names:
        raise wrong(f"JSONPath {text!r:.100} names nothing to begin at; write $.payload... or $.type", place)
    first, rest = names[0], names[1:]
    if first in _INSIDE:
        return Query(text, Path(_INSIDE[first], rest))
    if first in ALIASES:
        raise wrong(f"JSONPath {text!r:.100}: the envelope has no {first}; write $.{ALIASES[first]}", place)
    if len(segments) > 1:
        hint = f"for the payload's write $.payload.{first}"
        raise wrong(f"JSONPath {text!r:.100}: the envelope's {first} is one value without fields; {hint}", place)
    return Query(text, path_of(["event", first], place))


def _seen_by(event: Mapping[str, Any]) -> dict[str, Any]:
    """Return an event as queries see it: its data under both names, and the metadata as an object."""
    seen = dict(event)
    if "data" in seen:
        seen["payload"] = seen["data"]
    if "metadata" in seen:
        seen["metadata"] = parse_path("metadata").getter()(event)
    return seen


@lru_cache(maxsize=256)
def _segments(text: str) -> tuple[Segment, ...]:
    """Return what a text consists of; raise InvalidFilter also for what would take too long."""
    reader = Reader(text)
    segments = reader.read()
    if reader.sweeps > MOST_SWEEPS:
        raise wrong(
            f"JSONPath {text!r:.100}: {reader.sweeps} of `..` and of queries from the root within conditions take too "
            f"long together; {MOST_SWEEPS} is allowed"
        )
    if reader.selectors > MOST_SELECTORS:
        raise wrong(
            f"JSONPath {text!r:.100}: its brackets have too many selectors; multiplied, {MOST_SELECTORS} are allowed"
        )
    return segments


def _names(segments: tuple[Segment, ...]) -> tuple[str, ...]:
    """Return the names and numbers that a query begins with."""
    names: list[str] = []
    for segment in segments:
        if segment.only is None:
            break
        names.append(str(segment.only))
    return tuple(names)
