"""Decentralized identifiers (W3C DID Core 1.0, section 3.1): which are none, and whose history a source names."""

from __future__ import annotations

import re

#: How every identifier begins; no agent's name does, because a name has no colon.
SCHEME = "did:"
#: Characters of an identifier: as many as an event's source may have.
MOST_CHARACTERS = 255
_CHARACTER = r"(?:[A-Za-z0-9._-]|%[0-9A-Fa-f]{2})"
_DID = re.compile(rf"did:[a-z0-9]+:(?:{_CHARACTER}|:)*{_CHARACTER}")


def flaw_of_did(did: object) -> str | None:
    """Return what is wrong with a decentralized identifier and how to mend it, or None when it is one."""
    if not isinstance(did, str) or not did.startswith(SCHEME):
        return "it begins with 'did:' and a method, such as 'did:web:example.com:agents:research'"
    if any(mark in did for mark in "/?#"):
        return "a path, a query or a fragment makes it the address of something else; leave that away"
    if not _DID.fullmatch(did):
        return (
            "it is 'did:', a method of lower-case letters and digits, ':', and an id of letters, digits, '.', '-', "
            "'_', ':' and escapes such as '%3A', which does not end with ':'"
        )
    if len(did) > MOST_CHARACTERS:
        return f"{len(did)} characters are too many; {MOST_CHARACTERS} are allowed"
    return None


def is_did(text: str) -> bool:
    """Say whether a text is meant as a decentralized identifier, and not as a name."""
    return text.startswith(SCHEME)


def emitter_of(source: str) -> str:
    """Return the agent that an event's source names, by its did or its name; nothing where it names none."""
    return source if source.startswith(SCHEME) else source.partition("/agent/")[2]
