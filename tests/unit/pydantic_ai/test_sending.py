"""How often a model's client sends a request of a durable run: once, as the delivery is what tries again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("pydantic_ai")

from pydantic_ai import Agent
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart
from pydantic_ai.models.function import AgentInfo, FunctionModel
from pydantic_ai.models.wrapper import WrapperModel
from pydantic_ai.settings import ModelSettings

from pipeline import Context
from pipeline.pydantic_ai import durable
from tests.llm import handled


class NeverTries(FunctionModel):
    """A model whose client has no retries, and which warns about the setting."""

    unsupported_settings = frozenset({"max_retries"})


async def whole(agent: Agent[None, str], settings: ModelSettings | None) -> Any:
    return (await durable(agent).run("go", model_settings=settings)).output


async def streamed(agent: Agent[None, str], settings: ModelSettings | None) -> Any:
    async with durable(agent).run_stream("go", model_settings=settings) as run:
        return await run.get_output()


def sent(
    run: Callable[..., Any],
    of_run: ModelSettings | None = None,
    kind: type[FunctionModel] = FunctionModel,
    wrap: Callable[[FunctionModel], Any] = lambda model: model,
    *,
    of_agent: ModelSettings | None = None,
    of_model: ModelSettings | None = None,
) -> dict[str, Any]:
    """Return the settings that a model gets."""
    seen: list[dict[str, Any]] = []

    def answer(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        seen.append({**(info.model_settings or {})})
        return ModelResponse(parts=[TextPart("done")])

    async def stream(messages: list[ModelMessage], info: AgentInfo) -> Any:
        seen.append({**(info.model_settings or {})})
        yield "done"

    model = wrap(kind(answer, stream_function=stream, settings=of_model))
    agent = Agent(model, name="clerk", model_settings=of_agent)

    async def handler(ctx: Context) -> str:
        return str(await run(agent, of_run))

    app = handled(handler)
    with app.testing() as bus:
        app.publish("ask", {})
        bus.advance("1h")
    (found,) = seen
    return found


@pytest.mark.parametrize("run", [whole, streamed])
def test_a_client_sends_a_request_once(run: Callable[..., Any]) -> None:
    assert sent(run) == {"max_retries": 0}
    assert sent(run, {"temperature": 0.5}) == {"max_retries": 0, "temperature": 0.5}
    assert sent(run, wrap=WrapperModel) == {"max_retries": 0}


@pytest.mark.parametrize("run", [whole, streamed])
@pytest.mark.parametrize("whose", ["of_run", "of_agent", "of_model"])
def test_settings_may_let_it_try_again(run: Callable[..., Any], whose: str) -> None:
    assert sent(run, **{whose: ModelSettings(max_retries=3)}) == {"max_retries": 3}


@pytest.mark.parametrize("run", [whole, streamed])
@pytest.mark.parametrize("wrap", [lambda model: model, WrapperModel])
def test_a_model_that_knows_no_retries_is_told_nothing(run: Callable[..., Any], wrap: Callable[..., Any]) -> None:
    assert sent(run, kind=NeverTries, wrap=wrap) == {}
