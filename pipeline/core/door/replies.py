"""Events whose publisher waits for an answer: until when, as one of their further attributes says."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

#: The extension attribute, whose value is a time (RFC 3339), or this where nobody waits, and an answer is for later.
REPLY_BY, LATER = "replyby", "later"


def wants_reply(further: Mapping[str, Any] | None) -> bool:
    """Say whether an event's publisher waits for what its handler returns, or has waited for it.

    Arguments:
        further: the event's attributes that the bus has no name for (`event.model_extra`).

    """
    return REPLY_BY in (further or {})


def is_waited_for(further: Mapping[str, Any] | None) -> bool:
    """Say whether an event's publisher still waits; what is no time has not come."""
    try:
        until = datetime.fromisoformat(str((further or {}).get(REPLY_BY)))
    except ValueError:
        return True
    return datetime.now(UTC) < (until if until.tzinfo else until.replace(tzinfo=UTC))
