"""What OpenAI's real client raises, and pydantic-ai on it, when it is refused over HTTP (tests/openaiserver.py)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

pytest.importorskip("openai")
pytest.importorskip("pydantic_ai")

import openai
from pydantic_ai import Agent
from pydantic_ai.exceptions import ModelHTTPError
from pydantic_ai.models.openai import OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider

from pipeline.limits import providers
from pipeline.limits.providers import SPENT, limited_by
from tests.openaiserver import KEY, Refusal, serving

AT = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)


def by_openai(refusal: Refusal) -> BaseException:
    """Return what OpenAI's client raises when it is refused."""
    with serving(refusal) as provider, openai.OpenAI(base_url=provider.url, api_key=KEY, max_retries=0) as client:
        with pytest.raises(openai.RateLimitError) as raised:
            client.responses.create(model="gpt-5", input="Go.")
        return raised.value


def by_pydantic_ai(refusal: Refusal) -> BaseException:
    """Return what a model of pydantic-ai raises when it is refused."""

    async def ask(url: str) -> None:
        async with OpenAIResponsesModel("gpt-5", provider=OpenAIProvider(base_url=url, api_key=KEY)) as model:
            await Agent(model).run("Go.", model_settings={"max_retries": 0})

    with serving(refusal) as provider, pytest.raises(ModelHTTPError) as raised:
        asyncio.run(ask(provider.url))
    return raised.value


raised_by = pytest.mark.parametrize("raised_by", [by_openai, by_pydantic_ai])


@raised_by
@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "7"}, 7.0),
        ({"retry-after-ms": "250", "Retry-After": "1"}, 0.25),
        ({"Retry-After": format_datetime(AT + timedelta(seconds=90), usegmt=True)}, 90.0),
        ({}, None),
    ],
)
def test_a_refusal_of_the_real_client_says_how_long_to_wait(
    monkeypatch: pytest.MonkeyPatch,
    raised_by: Callable[[Refusal], BaseException],
    headers: dict[str, str],
    seconds: float | None,
) -> None:
    monkeypatch.setattr(providers, "utc_now", lambda: AT)
    found = limited_by(raised_by(Refusal(headers)))
    assert found is not None
    assert found.retry_after == seconds


@raised_by
@pytest.mark.parametrize("code", sorted(SPENT))
def test_an_account_that_has_nothing_left_is_a_failure(
    raised_by: Callable[[Refusal], BaseException], code: str
) -> None:
    assert limited_by(raised_by(Refusal({"Retry-After": "7"}, code))) is None
