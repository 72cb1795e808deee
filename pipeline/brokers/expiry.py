"""Expiry on brokers that know none: who publishes notes until when a message is wanted, and a worker looks there."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from ..core.times import seconds

#: The property in which it is noted, in seconds since 1970: `expiration` is a time after publishing, in milliseconds.
DEADLINE = "expires_at"


def note_deadline(properties: dict[str, Any]) -> None:
    """Note the time at which a message with the property `expiration` will have expired."""
    with suppress(ValueError, TypeError):
        properties[DEADLINE] = seconds() + int(properties["expiration"]) / 1000


def is_over(deadline: Any) -> bool:
    """Say whether a noted time has passed."""
    return isinstance(deadline, (int, float)) and seconds() > deadline
