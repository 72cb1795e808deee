"""The crew's model, and how its agents are run: each request is a step of its delivery, and has a budget.

CREW_MODEL names a model as pydantic-ai does (openai:gpt-5, with its key in OPENAI_API_KEY); without it the answers come
from a provider that only pretends (provider.py), so that nothing is needed and nothing costs.
"""

from __future__ import annotations

import os
from typing import TypeVar

from pydantic_ai import Agent, RunContext
from pydantic_ai.models import infer_model
from pydantic_ai.settings import ModelSettings

from pipeline import ConfigError, Context
from pipeline.pydantic_ai import Reserve, durable

from .provider import client

NAME = os.environ.get("CREW_MODEL", "")
#: What a 429 pauses: all agents that call this model.
SCOPE = NAME or "pretended"
#: What is reserved for a request until it is known what it took: tokens, and millionths.
RESERVED: Reserve = {"tokens": 4_000, "cost": 60_000}
#: How the name of the step ends that a request is.
STEP = ": model"

T = TypeVar("T")


def check() -> None:
    """Raise ConfigError when there is no such model, or its client or key is missing."""
    try:
        if NAME:
            infer_model(NAME)
    except Exception as exc:  # pydantic-ai's own, or whatever the client says when it is made
        raise ConfigError(f"CREW_MODEL={NAME}: {exc}") from None


async def ask(agent: Agent[None, T], prompt: str, ctx: Context) -> T:
    """Return what an agent comes to; each request is a step of the delivery, paid for once, and has a budget."""

    def keyed(run: RunContext[None]) -> ModelSettings:
        # A worker killed between the provider's answer and the ledger's commit asks again: a provider that knows the
        # header answers for the same money, any other is paid twice.
        return ModelSettings(extra_headers={"Idempotency-Key": f"{ctx.delivery_id}/{run.run_step}"})

    async with infer_model(NAME) if NAME else client() as model:  # its connections end with it
        run = await durable(agent, ctx, reserve=RESERVED).run(prompt, model=model, model_settings=keyed)
    return run.output
