"""What a provider's client has raised: whether it says that there were too many requests, and until when.

The clients are not imported: their errors are known by the package that their class comes from, and by what they have.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from ..core.errors import RateLimited
from ..core.times import seconds_of, utc_now

#: The packages whose errors are known, and whose that derive from them.
CLIENTS = frozenset({"openai", "anthropic", "httpx", "httpx2", "requests", "aiohttp", "botocore", "pydantic_ai"})
TOO_MANY, UNAVAILABLE = 429, 503
#: What AWS calls it (`_THROTTLED_ERROR_CODES` of botocore/retries/standard.py, without what are limits of amounts).
THROTTLED = frozenset(
    {
        "Throttling",
        "ThrottlingException",
        "ThrottledException",
        "RequestThrottled",
        "RequestThrottledException",
        "TooManyRequestsException",
        "ProvisionedThroughputExceededException",
        "RequestLimitExceeded",
        "BandwidthLimitExceeded",
        "SlowDown",
        "PriorRequestNotComplete",
        "EC2ThrottledException",
    }
)
#: What OpenAI calls a 429 that no waiting mends, as the account has nothing left (its guide to error codes), and the
#: class that pydantic-ai has for that of any provider.
SPENT = frozenset(
    {
        "insufficient_quota",
        "billing_hard_limit_reached",
        "credit_balance_exhausted",
        "organization_spend_limit_exceeded",
        "project_spend_limit_exceeded",
        "organization_usage_limit_exceeded",
    }
)
SPENT_ERROR = "ModelQuotaExceededError"


def limited_by(error: BaseException) -> RateLimited | None:
    """Return what an error says about a limit of a provider; None when it is another error.

    A group of errors is one when each of them is; the longest time counts.
    """
    if isinstance(error, RateLimited):
        return error
    if isinstance(error, BaseExceptionGroup):
        found = [limited_by(one) for one in error.exceptions]
        limits = [one for one in found if one is not None]
        return max(limits, key=_length) if len(limits) == len(found) else None
    try:
        return _of_client(error) if _packages(error) & CLIENTS else None
    except Exception:  # whatever a stranger's error makes of being looked at
        return None


def asked_by(limited: RateLimited) -> float | None:
    """Return the seconds that an error asks to wait; raise InvalidEvent when it says something else."""
    after = limited.retry_after
    return None if after is None else seconds_of(after, "retry_after")


def _length(limited: RateLimited) -> float:
    return asked_by(limited) or 0.0


def _packages(error: BaseException) -> set[str]:
    return {cls.__module__.partition(".")[0] for cls in type(error).__mro__}


def _of_client(error: BaseException) -> RateLimited | None:
    response = getattr(error, "response", None)
    if isinstance(response, Mapping):  # botocore's
        about = response.get("ResponseMetadata") or {}
        status, headers = about.get("HTTPStatusCode"), about.get("HTTPHeaders")
        if (response.get("Error") or {}).get("Code") in THROTTLED:
            status = TOO_MANY
    else:
        said = (getattr(error, name, None) for name in ("status_code", "status"))
        status = getattr(response, "status_code", None) or next((one for one in said if one is not None), None)
        headers = getattr(response, "headers", None) or getattr(error, "headers", None)
    if status not in (TOO_MANY, UNAVAILABLE) or _is_spent(error):
        return None
    seconds = retry_after(headers, utc_now())
    return None if status == UNAVAILABLE and seconds is None else RateLimited(seconds)


def _is_spent(error: BaseException) -> bool:
    """Return whether an account has nothing left."""
    codes = {str(getattr(error, name, None)) for name in ("code", "type", "provider_error_code")}
    return bool(codes & SPENT) or any(cls.__name__ == SPENT_ERROR for cls in type(error).__mro__)


def retry_after(headers: Any, at: datetime) -> float | None:
    """Return the seconds that a response asks to wait, None when it does not say so in a way that is known.

    It is `Retry-After` in seconds or as an HTTP date (RFC 9110, 10.2.3), or OpenAI's and Azure's `retry-after-ms`.

    Arguments:
        at: the time now.

    """
    if not headers:
        return None
    known = {str(name).lower(): str(value).strip() for name, value in headers.items()}
    with suppress(ValueError, KeyError):
        return _positive(float(known["retry-after-ms"]) / 1000)
    text = known.get("retry-after", "")
    with suppress(ValueError):
        return _positive(float(text))
    with suppress(ValueError, TypeError):
        due = parsedate_to_datetime(text)
        return max(0.0, ((due if due.tzinfo else due.replace(tzinfo=UTC)) - at).total_seconds())
    return None


def _positive(seconds: float) -> float:
    if not 0 <= seconds < math.inf:
        raise ValueError(seconds)
    return seconds
