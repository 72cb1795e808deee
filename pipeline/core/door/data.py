"""Data that everybody on the way can read, store, send and show: the strictest of their limits, in one place.

orjson encodes 254 levels and pydantic decodes 199; both databases and JavaScript's neighbours read integers of 64 bits
with a sign; JSON has no NaN; PostgreSQL's text has no NUL; UTF-8 has no lone surrogates (RFC 8259, sections 6 to 9).
"""

from __future__ import annotations

import dataclasses
import re
from datetime import date, datetime, time
from enum import Enum
from typing import Any
from uuid import UUID

import orjson

#: Levels of lists and objects that an event's JSON may have, its own envelope among them.
MAX_DEPTH = 100
MIN_INTEGER, MAX_INTEGER = -(2**63), 2**63 - 1

_BRACKETS = bytes(set(range(256)) - set(b"{}[]"))
_SURROGATE = re.compile("[\ud800-\udfff]")
#: What CloudEvents forbids in its strings (1.0, section "Type System"), but for surrogates, which pydantic refuses.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\ufdd0-\ufdef\ufffe\uffff]")
_WORD = re.compile(r"\w{1,64}")


def flaw(value: Any, place: str = "data") -> str | None:
    """Return what is wrong with a value and where in it, or None when it is JSON that everybody can carry."""
    found = _flaw(value, MAX_DEPTH - (place == "data"))
    return None if found is None else f"{place}{found[0]}".removeprefix(".") + f": {found[1]}"


def control_in(text: str) -> str:
    """Return the first character that has no place in a CloudEvents attribute, or nothing."""
    found = None if text.isprintable() else _CONTROL.search(text)
    return found[0] if found else ""


def is_shallow(body: bytes) -> bool:
    """Say whether the brackets of encoded JSON close within the limit; those within strings may make it say no."""
    brackets = body.translate(None, _BRACKETS)
    for _ in range(MAX_DEPTH):
        left = brackets.replace(b"{}", b"").replace(b"[]", b"")
        if not left or left == brackets:
            return not left
        brackets = left
    return False


def other_class(value: Any) -> str:
    """Return a time or UUID of a class that orjson does not know: clocks that stand still have their own."""
    if isinstance(value, (datetime, date, time)):
        return value.isoformat()
    if isinstance(value, UUID):
        return str(value)
    raise TypeError(f"a {type(value).__name__} is no JSON")


def largest(value: Any, place: str = "data") -> tuple[str, int]:
    """Return what takes most of some JSON data, such as data.pages.0.scan, and how many bytes it takes.

    That is the innermost part that has more than half of what it is in.
    """
    size = _size(value)
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, (list, tuple)) else ()
    for name, part in parts:
        if 2 * _size(part) > size:
            return largest(part, f"{place}.{name}")
    return place, size


def _size(value: Any) -> int:
    return len(orjson.dumps(value, default=other_class))


def _flaw(value: Any, depth: int) -> tuple[str, str] | None:
    """Return the place of the first flaw within a value, and the reason."""
    if isinstance(value, str):
        reason = _flaw_of_text(value)
    elif value is None or isinstance(value, bool):
        return None
    elif isinstance(value, int):
        reason = "" if MIN_INTEGER <= value <= MAX_INTEGER else "an integer has at most 64 bits; write it as text"
    elif isinstance(value, float):
        reason = "" if -float("inf") < value < float("inf") else f"JSON has no {value}; leave it out, or write None"
    elif isinstance(value, (dict, list, tuple)):
        reason = "" if depth else f"more than {MAX_DEPTH} levels of lists and objects are too deep"
        if depth:
            return _flaw_within(value, depth - 1)
    elif isinstance(value, Enum):
        return _flaw(value.value, depth)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _flaw({field.name: getattr(value, field.name, None) for field in dataclasses.fields(value)}, depth)
    else:
        reason = _flaw_of_stranger(value)
    return ("", reason) if reason else None


def _flaw_within(value: Any, depth: int) -> tuple[str, str] | None:
    if not isinstance(value, dict):
        for index, item in enumerate(value):
            if found := _flaw(item, depth):
                return f"[{index}]{found[0]}", found[1]
        return None
    for key, item in value.items():
        if not isinstance(key, str):
            return "", f"the key {_shown(key)} is no text"
        if reason := _flaw_of_text(key):
            return "", f"in the key {_shown(key)} {reason}"
        if found := _flaw(item, depth):
            return f"{f'.{key}' if _WORD.fullmatch(key) else f'[{_shown(key)}]'}{found[0]}", found[1]
    return None


def _flaw_of_text(text: str) -> str:
    if "\0" in text:
        return "databases take no NUL character; remove it"
    if not text.isascii() and _SURROGATE.search(text):
        return "a lone surrogate is no character; decode the text with errors='replace'"
    return ""


def _flaw_of_stranger(value: Any) -> str:
    """Return why a value of another kind cannot be carried; nothing when orjson knows it."""
    try:
        orjson.dumps(value, default=other_class)
    except TypeError:
        return f"a {type(value).__name__} is no JSON; event data is numbers, text, lists and objects"
    return ""


def _shown(key: Any) -> str:
    text = repr(key)
    return ascii(key)[:60] if len(text) > 60 or not text.isprintable() else text
