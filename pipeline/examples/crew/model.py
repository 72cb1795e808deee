"""The crew's model, and what it is called through: each call is a step of its delivery, and has a budget.

CREW_MODEL names a model as pydantic-ai does (openai:gpt-5, with its key in OPENAI_API_KEY); without it the answers come
from a provider that only pretends (provider.py), so that nothing is needed and nothing costs.
"""

from __future__ import annotations

import os

from pydantic import BaseModel
from pydantic_ai.exceptions import UserError
from pydantic_ai.messages import ModelMessage, ModelResponse
from pydantic_ai.models import Model, ModelRequestParameters, infer_model
from pydantic_ai.models.wrapper import WrapperModel
from pydantic_ai.settings import ModelSettings

from pipeline import ConfigError, Context

from .provider import client

NAME = os.environ.get("CREW_MODEL", "")
#: What a 429 pauses: all agents that call this model.
SCOPE = NAME or "pretended"
#: What is reserved for a call until it is known what it took: tokens, and millionths.
TOKENS, COST = 4_000, 60_000
#: The name of the step that a call is.
STEP = "model"


class Answer(BaseModel):
    """A call that was paid for, as the ledger keeps it.

    Attributes:
        cost: in millionths; 0 for a model whose price nobody knows.
        attempt: which attempt of the delivery has paid.

    """

    response: ModelResponse
    tokens: int
    cost: int
    attempt: int


def check() -> None:
    """Raise ConfigError when there is no such model, or its client or key is missing."""
    try:
        if NAME:
            infer_model(NAME)
    except (ImportError, UserError, ValueError) as exc:
        raise ConfigError(f"CREW_MODEL={NAME}: {exc}") from None


def paid(ctx: Context) -> Model:
    """Return the crew's model for one delivery; take one for each run of a handler."""
    return _Paid(infer_model(NAME) if NAME else client(), ctx)


class _Paid(WrapperModel):
    """A model whose calls are paid for once: what has an answer in the ledger has that."""

    def __init__(self, model: Model, ctx: Context) -> None:
        super().__init__(model)
        self._ctx = ctx
        self._calls = 0

    async def request(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
    ) -> ModelResponse:
        """Reserve, call the model unless that was done before, and settle."""
        ctx = self._ctx
        self._calls += 1
        # A worker killed between the provider's answer and the ledger's commit asks again: a provider that knows the
        # header answers for the same money, any other is paid twice.
        key = {"Idempotency-Key": f"{ctx.delivery_id}/{self._calls}"}
        settings = ModelSettings(**{**(model_settings or {}), "extra_headers": key})
        reserved = ctx.budget.reserve(tokens=TOKENS, cost=COST)
        answer = await ctx.step(STEP, _ask, self.wrapped, messages, settings, model_request_parameters, ctx.attempt)
        is_mine = answer.attempt == ctx.attempt  # an earlier attempt has settled what it has paid
        reserved.settle(tokens=answer.tokens * is_mine, cost=answer.cost * is_mine)
        return answer.response


async def _ask(
    model: Model,
    messages: list[ModelMessage],
    settings: ModelSettings,
    parameters: ModelRequestParameters,
    attempt: int,
) -> Answer:
    response = await model.request(messages, settings, parameters)
    return Answer(response=response, tokens=response.usage.total_tokens, cost=_price(response), attempt=attempt)


def _price(response: ModelResponse) -> int:
    """Return what a call has cost, in millionths, as far as pydantic-ai knows the model's price."""
    cost = response.usage.cost
    if cost is None:
        try:
            cost = response.cost().total_price
        except (LookupError, ValueError):
            return 0
    return round(cost * 1_000_000)
