"""JSONPath (RFC 9535), rooted at the envelope, with its regular expressions on RE2."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

from ..paths import ALIASES, METADATA, PAYLOAD, Path, parse_path, path_of
from ..values import Result, Test, Trouble, check_length, compiled, guarded, wrong

if TYPE_CHECKING:
    from jsonpath import JSONPath, JSONPathEnvironment

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
        found = next(iter(_compiled(self.query).finditer(_seen_by(event))), None)
        return (None if found is None else found.obj), self.path.around(event)

    def build(self) -> Test:
        """Return the function that tries it on an event."""
        from jsonpath import JSONPathError

        from .walk import selects

        whole, beginning = selects(_compiled(self.query)), selects(_beginning(self.query))

        def test(event: Mapping[str, Any]) -> Result:
            seen = _seen_by(event)
            try:
                if whole(seen):
                    return True
                return False if beginning(seen) else None
            except JSONPathError as exc:
                raise Trouble(f"JSONPath: {_reason(exc)}") from None

        return guarded(self, test)


def parse_query(text: str, place: str = "") -> Query:
    """Return the condition for a JSONPath; raise InvalidFilter with the place in the text."""
    from jsonpath import JSONPathError

    check_length(text)
    try:
        found = _compiled(text)
        _check(found, text, place)
    except JSONPathError as exc:
        token = getattr(exc, "token", None)
        at = f" at character {token.index + 1}" if token is not None else ""
        raise wrong(f"JSONPath {text!r:.100}{at}: {_reason(exc)}", place) from None
    except Trouble as exc:
        raise wrong(f"JSONPath {text!r:.100}: {exc}", place) from None
    except RecursionError:
        raise wrong(f"JSONPath {text!r:.100}: it is too deep", place) from None
    names = [str(name) for name in _names(found)]
    if not names:
        raise wrong(f"JSONPath {text!r:.100} names nothing to begin at; write $.payload... or $.type", place)
    first, rest = names[0], tuple(names[1:])
    if first in _INSIDE:
        return Query(text, Path(_INSIDE[first], rest))
    if first in ALIASES:
        raise wrong(f"JSONPath {text!r:.100}: the envelope has no {first}; write $.{ALIASES[first]}", place)
    if len(found.segments) > 1:
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
def _compiled(text: str) -> JSONPath:
    from jsonpath import JSONPath, JSONPathSyntaxError

    found = _environment().compile(text)
    if not isinstance(found, JSONPath):
        raise JSONPathSyntaxError("one query is expected", token=_first_token(text))
    return found


def _first_token(text: str) -> Any:
    return next(iter(_environment().lexer.tokenize(text)))


@lru_cache(maxsize=256)
def _beginning(text: str) -> JSONPath:
    """Return the part of a query before its first selector that is neither a name nor a number."""
    from jsonpath import JSONPath

    whole = _compiled(text)
    return JSONPath(env=_environment(), segments=whole.segments[: len(_names(whole))])


def _names(query: JSONPath) -> list[str | int]:
    from jsonpath.segments import JSONPathChildSegment
    from jsonpath.selectors import IndexSelector, NameSelector

    names: list[str | int] = []
    for segment in query.segments:
        (selector, *others) = segment.selectors
        if others or not isinstance(segment, JSONPathChildSegment):
            break
        if isinstance(selector, NameSelector):
            names.append(selector.name)
        elif isinstance(selector, IndexSelector):
            names.append(selector.index)
        else:
            break
    return names


def _check(query: JSONPath, text: str, place: str) -> None:
    """Refuse what would take too long, and patterns that RE2 refuses."""
    from jsonpath.filter import FunctionExtension, RootFilterQuery, StringLiteral

    sweeps = sum(segment.__class__.__name__ == "JSONPathRecursiveDescentSegment" for segment in _segments(query))
    for expression in _expressions(query):
        if isinstance(expression, RootFilterQuery) and not expression.path.singular_query():
            sweeps += 1
        if isinstance(expression, FunctionExtension) and expression.name in ("match", "search"):
            pattern = expression.args[1]
            if isinstance(pattern, StringLiteral):
                compiled(pattern.value)
    if sweeps > MOST_SWEEPS:
        raise wrong(
            f"JSONPath {text!r:.100}: {sweeps} of `..` and of queries from the root within conditions take too long "
            f"together; {MOST_SWEEPS} is allowed",
            place,
        )
    if math.prod(len(segment.selectors) for segment in _segments(query)) > MOST_SELECTORS:
        raise wrong(
            f"JSONPath {text!r:.100}: its brackets have too many selectors; multiplied, {MOST_SELECTORS} are allowed",
            place,
        )


def _segments(query: JSONPath) -> Iterator[Any]:
    yield from query.segments
    for expression in _expressions(query):
        if path := getattr(expression, "path", None):
            yield from path.segments


def _expressions(query: JSONPath) -> Iterator[Any]:
    """Go through everything in the conditions of a query, however deep."""
    left = [query]
    while left:
        inner: Any = left.pop()
        if hasattr(inner, "segments"):
            selectors = [selector for segment in inner.segments for selector in segment.selectors]
            left.extend(each.expression for each in selectors if hasattr(each, "expression"))
            continue
        yield inner
        if hasattr(inner, "path"):
            left.append(inner.path)
        else:
            left.extend(inner.children())


def _reason(error: Exception) -> str:
    return str(error.args[0]) if error.args else type(error).__name__


@cache
def _environment() -> JSONPathEnvironment:
    from jsonpath import JSONPathEnvironment
    from jsonpath.function_extensions import ExpressionType, FilterFunction

    class OnRe2(FilterFunction):
        """`match` and `search` of RFC 9535; a pattern that RE2 refuses is an error, also one out of an event."""

        arg_types = [ExpressionType.VALUE, ExpressionType.VALUE]
        return_type = ExpressionType.LOGICAL

        def __init__(self, *, whole: bool) -> None:
            self.whole = whole

        def __call__(self, value: object, pattern: object) -> bool:
            if not isinstance(value, str) or not isinstance(pattern, str):
                return False
            try:
                expression = compiled(pattern)
            except Trouble:  # the pattern may be the event's: errors are the same for all events
                raise Trouble("RE2 refuses the regular expression of match() or search()", pattern) from None
            return expression.matches(value) if self.whole else expression.found(value)

    environment = JSONPathEnvironment(strict=True)
    environment.function_extensions.update(match=OnRe2(whole=True), search=OnRe2(whole=False))
    return environment
