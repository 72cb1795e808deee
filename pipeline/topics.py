"""Event types and topic patterns, with AMQP's meaning: `*` is one word, `#` is zero or more words."""

from __future__ import annotations

import re
from functools import lru_cache

from .errors import InvalidEvent, InvalidPattern

#: AMQP 0-9-1 limits a routing key to 255 bytes (shortstr).
MAX_TYPE_LENGTH = 255

_WORD = r"[A-Za-z0-9_-]+"
_TYPE = re.compile(rf"{_WORD}(\.{_WORD})*")
_PATTERN = re.compile(rf"({_WORD}|\*|#)(\.({_WORD}|\*|#))*")


def check_type(event_type: str) -> str:
    """Return `event_type` if it is dotted words, else raise InvalidEvent."""
    if not isinstance(event_type, str) or not _TYPE.fullmatch(event_type):
        raise InvalidEvent(
            f"type: {event_type!r} is not an event type; use words of letters, digits, '_' and '-' "
            "joined by dots, such as 'user.query'"
        )
    if len(event_type) > MAX_TYPE_LENGTH:
        raise InvalidEvent(f"type: {len(event_type)} characters are too many; AMQP allows {MAX_TYPE_LENGTH}")
    return event_type


def check_pattern(pattern: str) -> str:
    """Return `pattern` if AMQP understands it as a topic pattern, else raise InvalidPattern."""
    if not isinstance(pattern, str) or not _PATTERN.fullmatch(pattern) or len(pattern) > MAX_TYPE_LENGTH:
        raise InvalidPattern(
            f"{pattern!r} is not a topic pattern; use words joined by dots, where '*' stands for one word "
            "and '#' for zero or more words, such as 'task.*' or 'agent.#'"
        )
    return pattern


def matches(pattern: str, event_type: str) -> bool:
    """Say whether a topic exchange would route `event_type` to a queue bound with `pattern`."""
    return _compiled(pattern).fullmatch(event_type) is not None


@lru_cache(maxsize=4096)
def _compiled(pattern: str) -> re.Pattern[str]:
    words = pattern.split(".")
    # Runs of '#' mean the same as one, and one keeps the expression free of nested repetition.
    words = [word for i, word in enumerate(words) if word != "#" or i == 0 or words[i - 1] != "#"]
    if words == ["#"]:
        return re.compile(r".*", re.S)
    return re.compile("".join(_parts(words)), re.S)


def _parts(words: list[str]) -> list[str]:
    """Build the expression word by word; a '#' takes the dot beside it into its own group."""
    parts: list[str] = []
    for i, word in enumerate(words):
        if word == "#":
            # A leading '#' owns the dot after it, any other the dot before it.
            parts.append(r"(?:[^.]*\.)*" if i == 0 else r"(?:\.[^.]*)*")
            continue
        if i > 0 and not (words[i - 1] == "#" and i == 1):
            parts.append(r"\.")
        parts.append("[^.]*" if word == "*" else re.escape(word))
    return parts
