"""Events that are wanted until a time, as one of their further attributes says.

Somebody waits for the answer until then, or they are no news any more.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from ..times import utc_now

#: The extension attribute, whose value is a time (RFC 3339), or this where nobody waits, and an answer is for later.
REPLY_BY, LATER = "replyby", "later"
#: The extension attribute of CloudEvents for the time (RFC 3339) after which an event is not to be handled any more:
#: https://github.com/cloudevents/spec/blob/main/cloudevents/extensions/expirytime.md
EXPIRES = "expirytime"
#: Why an event is not handled whose publisher has waited long enough.
NO_LONGER = "whoever has asked waits no longer"
#: What says until when an event is wanted.
ENDS = frozenset({REPLY_BY, EXPIRES})


def wants_reply(further: Mapping[str, Any] | None) -> bool:
    """Say whether an event's publisher waits for what its handler returns, or has waited for it.

    Arguments:
        further: the event's attributes that the bus has no name for (`event.model_extra`).

    """
    return REPLY_BY in (further or {})


def too_late(further: Mapping[str, Any] | None, *, begun: bool) -> str | None:
    """Return why an event is not to be handled any more; None when it is. What is no time has not come.

    Arguments:
        begun: whether its handler was called before: what has begun in time goes on, unless somebody waited for it.

    """
    if not further:
        return None
    if _is_past(further.get(REPLY_BY)):
        return NO_LONGER
    return f"it has expired at {further[EXPIRES]}" if not begun and _is_past(further.get(EXPIRES)) else None


def _is_past(value: Any) -> bool:
    if value is None:
        return False
    try:
        until = datetime.fromisoformat(str(value))
    except ValueError:
        return False
    return utc_now() >= (until if until.tzinfo else until.replace(tzinfo=UTC))
