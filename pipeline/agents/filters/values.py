"""What a condition comes to: true, false, missing, or an error; and how values of an event are compared."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum
from functools import cache, lru_cache
from typing import Any, Final, Protocol

from ...core.errors import InvalidFilter, nearest

#: Bytes of a filter's text, of a regular expression, and of a mapping as JSON.
MOST_TEXT, MOST_REGEX, MOST_MAPPING = 4096, 1024, 65_536
#: How deep conditions may stand in each other, and how many filters an agent may have.
MOST_DEPTH, MOST_FILTERS = 16, 32
#: Words that are compared by their rank, whatever their case.
ORDINALS: Mapping[str, int] = {"low": 0, "medium": 1, "high": 2, "critical": 3}

_MOMENT = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d([.,]\d{1,9})?)?(Z|[+-]\d\d:?\d\d)", re.IGNORECASE | re.ASCII)


class Nothing(Enum):
    """The value of a field that an event does not have; null is one that it has."""

    MISSING = "missing"


MISSING: Final = Nothing.MISSING


class Trouble(Exception):
    """A condition cannot be evaluated; the text is the same for every event that has this trouble.

    Arguments:
        value: what the event had there.

    """

    def __init__(self, text: str, value: Any = None) -> None:
        super().__init__(text)
        self.value = value


class Absent(Exception):
    """A field that a condition needs is missing or null."""


@dataclass(frozen=True)
class Failed:
    """The result of a filter that could not be evaluated, which is never a match: neither it nor its negation.

    Two are equal when the same condition had the same trouble, whatever the event: it is what to count by, and to
    report once for each agent.

    Attributes:
        condition: the condition's text.
        error: what went wrong.
        value: what the event had there.

    """

    condition: str
    error: str
    value: Any = field(default=None, compare=False)

    def __bool__(self) -> bool:
        """Be no match, to whoever asks in a hurry."""
        return False

    def __str__(self) -> str:
        """Return the condition and the error."""
        return f"{self.condition}: {self.error}"


#: What a condition comes to; None is missing.
Result = bool | None | Failed
Test = Callable[[Mapping[str, Any]], Result]


def wrong(message: str, place: str = "") -> InvalidFilter:
    """Return the error for a filter that is wrong at some place."""
    error = InvalidFilter(f"{place}: {message}" if place else message)
    error.place = place
    return error


def check_length(text: str, limit: int = MOST_TEXT) -> None:
    """Raise InvalidFilter for a text that is too long, or empty."""
    if not text.strip():
        raise wrong("an empty text says nothing; leave the filter out to get every event")
    check_characters(text)
    if (length := len(text.encode())) > limit:
        raise wrong(f"a filter of {length:,} bytes is too long; {limit:,} are allowed")


def check_characters(text: str, place: str = "") -> None:
    """Raise InvalidFilter for half a character, which no event has and no JSON takes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise wrong(f"a lone surrogate in {text[:60]!a} is no character", place) from None


def place_in(text: str, position: int) -> str:
    """Return the place of a character in a text, with what stands there."""
    there = text[position : position + 20]
    return f"character {position + 1}, {there!r}" if there else f"character {position + 1}, the end"


def inverse(result: Result) -> Result:
    """Return NOT of a result; what is missing or wrong stays so."""
    return not result if result is True or result is False else result


def worse(result: Result, other: Result) -> Result:
    """Return the more telling one of two results that are not both known: the first error, or else missing."""
    return next((each for each in (result, other) if isinstance(each, Failed)), None)


class Leaf(Protocol):
    """A condition that stands for itself: on a field, on two of them, a query, or an expression of CESQL."""

    @property
    def text(self) -> str:
        """How it is written in a text filter, or its own text."""

    @property
    def paths(self) -> tuple[Any, ...]:
        """Where it looks."""

    def as_data(self) -> dict[str, Any]:
        """Return it as a mapping filter has it."""

    def seen(self, event: Mapping[str, Any]) -> tuple[Any, list[str]]:
        """Return the value that it sees in an event, and the names of the fields around it."""

    def build(self) -> Test:
        """Return the function that tries it on an event."""


def guarded(leaf: Leaf, test: Test) -> Test:
    """Return a test that never raises: whatever is wrong with an event is no match, and no reason to lose it."""

    def attempt(event: Mapping[str, Any]) -> Result:
        try:
            return test(event)
        except Absent:
            return None
        except Trouble as exc:
            return Failed(leaf.text, str(exc), exc.value)
        except Exception as exc:
            return Failed(leaf.text, type(exc).__name__, str(exc))

    return attempt


def kind_of(value: Any) -> str:
    """Return what a JSON value is, in words."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, (int, float)):
        return "a number"
    if isinstance(value, str):
        return "a text"
    if isinstance(value, datetime):
        return "a date"
    return "an object" if isinstance(value, Mapping) else "an array"


def moment(value: Any) -> datetime | None:
    """Return the moment that a value stands for: an aware datetime, or an ISO text with a time and a zone."""
    if isinstance(value, datetime):
        return value if value.tzinfo else None
    if not isinstance(value, str) or len(value) < 17 or not _MOMENT.fullmatch(value):
        return None
    try:
        return datetime.fromisoformat(value.upper())
    except ValueError:
        return None


def as_text(when: datetime) -> str:
    """Return a moment as JSON has it."""
    return when.astimezone(UTC).isoformat().replace("+00:00", "Z")


def is_number(value: Any) -> bool:
    """Say whether a JSON value is a number, which a boolean is not."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def whole(value: Any) -> str:
    """Return a text as it is."""
    return str(value)


def folded(value: Any) -> str:
    """Return a text without the difference between upper and lower case."""
    return str(value).casefold()


# -- regular expressions, on RE2 only


class Pattern:
    """A regular expression that takes linear time, whatever it is and whatever it is given."""

    __slots__ = ("_expression",)

    def __init__(self, expression: Any) -> None:
        self._expression = expression

    def found(self, text: str) -> bool:
        """Say whether it matches a part of a text."""
        return self._expression.search(text.encode()) is not None

    def matches(self, text: str) -> bool:
        """Say whether it matches a whole text."""
        return self._expression.fullmatch(text.encode()) is not None


@lru_cache(maxsize=1024)
def compiled(pattern: str, *, case_sensitive: bool = True) -> Pattern:
    """Return a regular expression; raise Trouble that says what RE2 refuses."""
    if (length := len(pattern.encode(errors="replace"))) > MOST_REGEX:
        raise Trouble(f"a regular expression of {length:,} bytes is too long; {MOST_REGEX:,} are allowed")
    return _on_re2(pattern, case_sensitive=case_sensitive, dot_nl=False)


def like(pattern: str, *, case_sensitive: bool = True) -> Pattern:
    """Return SQL's LIKE: `%` is any text, `_` one character; a backslash makes them ordinary."""
    return _wild(pattern, {"%": ".*", "_": "."}, case_sensitive=case_sensitive)


def wildcard(pattern: str, *, case_sensitive: bool = True) -> Pattern:
    """Return a pattern whose `*` is any text; a backslash makes it ordinary."""
    return _wild(pattern, {"*": ".*"}, case_sensitive=case_sensitive)


def _wild(pattern: str, meaning: Mapping[str, str], *, case_sensitive: bool) -> Pattern:
    parts, escaped = [], False
    for character in pattern:
        if escaped:
            ordinary = character in meaning or character == "\\"
            parts.append(re.escape(character if ordinary else f"\\{character}"))
        elif character != "\\":
            parts.append(meaning.get(character) or re.escape(character))
        escaped = character == "\\" and not escaped
    if escaped:
        parts.append(re.escape("\\"))
    return _on_re2("".join(parts), case_sensitive=case_sensitive, dot_nl=True)


@cache
def _options(**options: bool) -> Any:
    import re2

    given = re2.Options()
    for name, value in {"log_errors": False, "never_capture": True, **options}.items():
        setattr(given, name, value)
    return given


def _on_re2(pattern: str, **options: bool) -> Pattern:
    import re2

    try:
        return Pattern(re2.compile(pattern, _options(**options)))
    except UnicodeEncodeError:
        raise Trouble(f"a lone surrogate in {pattern!a} is no character") from None
    except re2.error as exc:
        reason = exc.args[0].decode(errors="replace") if isinstance(exc.args[0], bytes) else str(exc)
        raise Trouble(
            f"RE2 refuses the pattern {pattern!r}: {reason} (look-around and back-references do not exist there)"
        ) from None


def unknown(what: str, name: str, known: Mapping[str, Any], place: str = "") -> InvalidFilter:
    """Return the error for a name that does not exist, with the nearest one that does."""
    return wrong(f"unknown {what} {name!r}; {nearest(name, known)}", place)
