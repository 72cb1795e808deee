"""Errors of providers' clients: which of them ask to wait, and how long.

They are made up, as most clients are not installed; those of OpenAI's real one are in test_openai.py.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline import InvalidEvent, RateLimited
from pipeline.limits.providers import asked_by, limited_by, retry_after

AT = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)


def error(module: str, **attributes: Any) -> Exception:
    """An error of a client's class."""
    found: Exception = type("TheirError", (Exception,), {"__module__": module})("too many")
    vars(found).update(attributes)
    return found


def response(status: int, **headers: str) -> Any:
    return SimpleNamespace(status_code=status, headers={name.replace("_", "-"): text for name, text in headers.items()})


def amazon(code: str, status: int = 400, **headers: str) -> Exception:
    said = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status, "HTTPHeaders": headers}}
    return error("botocore.errorfactory", response=said)


@pytest.mark.parametrize(
    ("raised", "seconds"),
    [
        (error("openai", status_code=429, response=response(429, retry_after="7")), 7.0),
        (error("openai", status_code=429, response=response(429, retry_after_ms="250", retry_after="1")), 0.25),
        (error("anthropic", status_code=429, response=response(429)), None),
        (error("httpx", response=response(429, Retry_After="2.5")), 2.5),
        (error("requests.exceptions", response=response(503, Retry_After="30")), 30.0),
        (error("aiohttp.client_exceptions", status=429, headers={"Retry-After": "3"}), 3.0),
        (error("pydantic_ai.exceptions", status_code=429), None),
        (error("httpx2", response=response(429, retry_after="6")), 6.0),
        (amazon("ThrottlingException"), None),
        (amazon("SomethingNew", 429, **{"retry-after": "4"}), 4.0),
        (type("Mine", (type(error("httpx")),), {"response": response(429, retry_after="9")})(), 9.0),
    ],
)
def test_a_clients_error_that_asks_to_wait_is_known_by_its_class_and_status(
    raised: Exception, seconds: float | None
) -> None:
    found = limited_by(raised)
    assert found is not None
    assert (found.retry_after, found.scope) == (seconds, None)


@pytest.mark.parametrize(
    "raised",
    [
        error("openai", status_code=500, response=response(500, retry_after="7")),
        error("openai", status_code=429, code="insufficient_quota", response=response(429)),
        error("openai", status_code=429, type="insufficient_quota", response=response(429, retry_after="7")),
        error("pydantic_ai.exceptions", status_code=429, provider_error_code="project_spend_limit_exceeded"),
        error("httpx", response=response(503)),  # an ordinary failure: nobody has said how long
        error("httpx", response=response(503, retry_after="soon")),
        error("shop", status_code=429),  # somebody's own class
        error("httpx", response=None),
        amazon("ValidationException"),
        RuntimeError("429"),
        ExceptionGroup("some", [RateLimited(1), RuntimeError()]),
    ],
)
def test_another_error_is_a_failure(raised: Exception) -> None:
    assert limited_by(raised) is None


def test_an_error_that_cannot_be_looked_at_is_a_failure() -> None:
    def broken(_: Any) -> None:
        raise RuntimeError("no")

    rude = type("Rude", (Exception,), {"__module__": "httpx", "response": property(broken)})()
    assert limited_by(rude) is None


def test_a_group_of_limits_asks_for_the_longest_of_them() -> None:
    found = limited_by(ExceptionGroup("some", [RateLimited(3), RateLimited("1m", "b"), RateLimited()]))
    assert found is not None
    assert (asked_by(found), found.scope) == (60.0, "b")


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"Retry-After": format_datetime(AT + timedelta(seconds=90), usegmt=True)}, 90.0),
        ({"Retry-After": format_datetime(AT - timedelta(seconds=90), usegmt=True)}, 0.0),
        ({"retry-after": "0"}, 0.0),
        ({"retry-after": "-5"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after-ms": "x", "retry-after": "2"}, 2.0),
        ({"retry-after": "next week"}, None),
    ],
)
def test_seconds_milliseconds_and_dates_are_read(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers, AT) == seconds


def test_a_handlers_own_word_is_checked() -> None:
    with pytest.raises(InvalidEvent, match="retry_after: -1 seconds"):
        asked_by(RateLimited(-1))
    assert str(RateLimited(5, "openai:gpt-5")) == "openai:gpt-5 asks to wait for 5 s"
    assert str(RateLimited()) == "the provider asks to wait"
