"""Attributes of an event that the bus does not know, and its metadata, which travels as one of them.

CloudEvents 1.0: names are lower-case letters and digits; values are truth values, integers of 32 bits, and texts, as
which binaries (in base64), times (RFC 3339) and addresses are written.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any

import orjson
from pydantic import BeforeValidator

from ..errors import InvalidEvent
from .data import control_in, flaw

#: Bytes of the JSON text that metadata is.
MAX_METADATA = 4096
#: Characters of a value by which events can be found.
MAX_TAG = 255
_NAME = re.compile("[a-z0-9]+")
_INTEGERS = range(-(2**31), 2**31)


def _no_binary(value: Any) -> None:
    if value is not None:
        raise ValueError("data_base64: events carry JSON; put bytes into data as a text, or keep them in a blob")


#: Binary data, which CloudEvents allows, and this bus does not carry.
NoBinary = Annotated[None, BeforeValidator(_no_binary)]


def checked(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return attributes that the bus does not know as they go out; raise ValueError for what CloudEvents has not."""
    return {name: _value(name, value) for name, value in attributes.items() if value is not None}


def _value(name: str, value: Any) -> bool | int | str:
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name}: it is no attribute of an event, and further ones have lower-case letters and digits")
    match value:
        case bool():
            return value
        case int() if value in _INTEGERS:
            return value
        case str() if character := control_in(value):
            raise ValueError(f"{name}: {character!a} is no character of a text; remove it")
        case str():
            return value
        case bytes():
            return b64encode(value).decode()
        case datetime() if value.utcoffset() is not None:
            return value.isoformat()
        case datetime():
            raise ValueError(f"{name}: {value.isoformat()} has no time zone; use datetime(..., tzinfo=UTC)")
    raise ValueError(f"{name}: {value!r} is no truth value, integer of 32 bits, text, bytes or time")


def metadata_of(value: Any, *, lenient: bool = False) -> Any:
    """Return what a `metadata` attribute says, which is the text of an object; raise ValueError for another thing.

    Arguments:
        lenient: return nothing instead: other programs may mean something else by that name.

    """
    said = value
    try:
        if isinstance(value, (str, bytes)):
            said = orjson.loads(value)
            if not isinstance(said, dict):
                raise ValueError("metadata: it is no object")  # pydantic wants it
        if said and isinstance(said, dict):
            metadata_text(said)
    except ValueError:  # orjson's, too
        if not lenient:
            raise
        return {}
    return said if isinstance(said, dict) or not lenient else {}


def named(metadata: Any) -> Mapping[str, Any]:
    """Return metadata that somebody gives to an event; raise InvalidEvent for what is no mapping."""
    if metadata is None or (isinstance(metadata, Mapping) and all(isinstance(name, str) for name in metadata)):
        return metadata or {}
    raise InvalidEvent(f"metadata: {metadata!r} is no mapping of names to values, such as {{'session_id': 's1'}}")


def metadata_text(metadata: Mapping[str, Any]) -> str:
    """Return metadata as the text of an attribute; raise ValueError that says what is wrong with it."""
    try:
        text = orjson.dumps(dict(metadata)).decode()
    except TypeError as exc:
        raise ValueError(flaw(dict(metadata), "metadata") or f"metadata: {exc}; metadata is JSON") from None
    if problem := flaw(orjson.loads(text), "metadata") or flaw(dict(metadata), "metadata"):
        raise ValueError(problem)
    if (size := len(text.encode())) > MAX_METADATA:
        raise ValueError(
            f"metadata: {size:,} bytes are too many; {MAX_METADATA:,} are allowed, for data belongs in data"
        )
    return text


def tag_of(value: Any) -> str | None:
    """Return the text by which a value of metadata is found; None for lists, objects, null and long texts."""
    if isinstance(value, str):
        return value if len(value) <= MAX_TAG else None
    return orjson.dumps(value).decode() if isinstance(value, (bool, int, float)) else None


def tags_of(metadata: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the names and texts by which an event with such metadata is found."""
    tags = ((name, tag_of(value)) for name, value in metadata.items() if len(name) <= MAX_TAG)
    return [(name, tag) for name, tag in tags if tag is not None]
