"""The ids of events and deliveries: UUIDs, made without the UUID class, which takes most of the time of a delivery."""

from __future__ import annotations

import os
from hashlib import sha1
from uuid import UUID, uuid5

#: Namespace of the ids that are derived from event ids which are not UUIDs themselves.
FOREIGN_IDS = uuid5(UUID(int=0), "pipeline/foreign-event-id")
_UUID_LENGTH = 36


def new_id() -> str:
    """Return a fresh event id, a random UUID (RFC 9562, version 4)."""
    return _format(os.urandom(16), 0x40)


def derived_id(id: str, name: str) -> str:
    """Return `uuid5(id, name)` (RFC 9562, version 5); an id that is no UUID is made one first."""
    return _format(sha1(_namespace(id) + name.encode(), usedforsecurity=False).digest(), 0x50)


def delivery_id(event_id: str, agent: str) -> str:
    """Return the id of the delivery of one event to one agent: `uuid5(event id, agent)`."""
    return derived_id(event_id, agent)


def caused_id(delivery: str, position: int) -> str:
    """Return the id of the event that a delivery emits at `position` (0, 1, ...)."""
    return derived_id(delivery, str(position))


def _namespace(id: str) -> bytes:
    if len(id) == _UUID_LENGTH:
        try:
            namespace = bytes.fromhex(id.replace("-", ""))
        except ValueError:
            namespace = b""
        if len(namespace) == 16:
            return namespace
    return uuid5(FOREIGN_IDS, id).bytes


def _format(raw: bytes, version: int) -> str:
    """Return 16 bytes as a UUID of the given version and RFC 9562's variant."""
    octets = bytearray(raw[:16])
    octets[6] = octets[6] & 0x0F | version
    octets[8] = octets[8] & 0x3F | 0x80
    text = octets.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
