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


@lru_cache(maxsize=16384)
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


@lru_cache(maxsize=16384)
def matches(pattern: str, event_type: str) -> bool:
    """Say whether a topic exchange would route `event_type` to a queue bound with `pattern`.

    The usual greedy match for wildcards, on words: after a mismatch the last `#` takes one word more. Its time grows
    with the product of both lengths, whatever the pattern; a regular expression would backtrack exponentially.
    """
    pattern_words, words = pattern.split("."), event_type.split(".")
    at = position = 0
    hash_at, hash_position = -1, 0
    while position < len(words):
        if at < len(pattern_words) and pattern_words[at] == "#":
            hash_at, hash_position = at, position
            at += 1
        elif at < len(pattern_words) and pattern_words[at] in ("*", words[position]):
            at, position = at + 1, position + 1
        elif hash_at >= 0:
            hash_position += 1
            at, position = hash_at + 1, hash_position
        else:
            return False
    return all(word == "#" for word in pattern_words[at:])
