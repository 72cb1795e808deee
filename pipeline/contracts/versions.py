"""Semantic versions of event types, as `Payload` classes declare them and events carry them."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

from ..core.errors import InvalidEvent

_SEMVER = re.compile(r"(\d{1,9})\.(\d{1,9})\.(\d{1,9})", re.ASCII)


class Version(NamedTuple):
    """A semantic version: readers of a major version read all of its minor versions and patches."""

    major: int
    minor: int
    patch: int

    def __str__(self) -> str:
        return ".".join(map(str, self))


@lru_cache(maxsize=1024)
def version_of(text: str, field: str = "schemaversion") -> Version:
    """Return a text as a version; raise InvalidEvent that names the field when it is none."""
    found = _SEMVER.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        raise InvalidEvent(f"{field}: {text!r} is not a semantic version such as '1.0.0'")
    return Version(*map(int, found.groups()))
