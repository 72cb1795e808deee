"""A model whose requests are steps: what was answered once is not asked again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from hashlib import sha256
from typing import Any

from pydantic_ai.messages import ModelMessage, ModelMessagesTypeAdapter, ModelResponse, UserPromptPart
from pydantic_ai.models import CompletedStreamedResponse, Model, ModelRequestParameters, StreamedResponse
from pydantic_ai.models.wrapper import WrapperModel
from pydantic_ai.settings import ModelSettings, merge_model_settings
from pydantic_ai.tools import RunContext
from pydantic_core import to_json

from ..core.errors import InvalidStep, OverBudget
from .run import Run

#: Sends a request to the model.
Request = Callable[[], Awaitable[ModelResponse]]


class OnceModel(WrapperModel):
    """A model whose requests are steps: one that was answered is not sent again."""

    def __init__(self, model: Model, run: Run) -> None:
        super().__init__(model)
        self._run = run

    async def request(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
    ) -> ModelResponse:
        """Return the model's response."""
        settings = _sent_once(self.wrapped, model_settings)
        request = partial(self.wrapped.request, messages, settings, model_request_parameters)
        return await _answer(self._run, messages, request)

    @asynccontextmanager
    async def request_stream(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
        run_context: RunContext[Any] | None = None,
    ) -> AsyncGenerator[StreamedResponse]:
        """Lend the response while it comes, and keep it when it is whole; or lend the one that was kept."""
        opened: asyncio.Future[StreamedResponse] = asyncio.get_running_loop().create_future()
        read = asyncio.Event()
        settings = _sent_once(self.wrapped, model_settings)

        async def request() -> ModelResponse:
            stream = self.wrapped.request_stream(messages, settings, model_request_parameters, run_context)
            async with stream as live:
                opened.set_result(live)
                await read.wait()
                async for _ in live:  # what nobody has read is paid for all the same
                    pass
                return live.get()  # as the run goes on with it, also when it was cut off

        answer = asyncio.create_task(_answer(self._run, messages, request))
        try:
            await asyncio.wait((opened, answer), return_when=asyncio.FIRST_COMPLETED)
            if opened.done():
                yield opened.result()
                read.set()
                await answer
            else:
                yield CompletedStreamedResponse(
                    await answer, model_request_parameters=model_request_parameters, replay_events=True
                )
        except GeneratorExit:  # the reader has had enough, and the run goes on
            read.set()
            await answer
            raise
        finally:
            if not answer.done():
                await _end(answer, opened.result() if opened.done() else None, read)


def _sent_once(model: Model, settings: ModelSettings | None) -> ModelSettings | None:
    """Return the settings with which the model's client sends a request once, unless they say something else.

    The delivery is what tries again: a client that waits out a 429 by itself, as most do, holds its worker meanwhile,
    and nobody else hears of the pause.
    """
    while isinstance(model, WrapperModel):
        model = model.wrapped
    if "max_retries" in model.unsupported_settings:  # it would warn
        return settings
    return merge_model_settings(ModelSettings(max_retries=0), settings)


async def _end(answer: asyncio.Task[ModelResponse], live: StreamedResponse | None, read: asyncio.Event) -> None:
    """End a request whose reader has failed: what has come wholly is kept, the rest is not waited for."""
    if live is not None and live.get().state == "complete":
        read.set()
    else:
        answer.cancel()
    with suppress(asyncio.CancelledError, Exception):  # the reader's error is the one that counts
        await answer


async def _answer(run: Run, messages: list[ModelMessage], request: Request) -> ModelResponse:
    """Return what the model answers, which is asked once."""
    question = _question(messages)
    data, asked = await run.step("model", _asked, run, question, request)
    if asked and asked != question:
        raise InvalidStep(
            f"durable agent {run.name!r}: what was asked here before was something else, so the order of its runs has "
            "changed; give each its own name: durable(agent, name=...)"
        )
    (response,) = ModelMessagesTypeAdapter.validate_json(to_json(data))
    assert isinstance(response, ModelResponse)
    return response


def _question(messages: list[ModelMessage]) -> str:
    """Return what stands for what a run was asked first."""
    parts = [part.content for part in messages[0].parts if isinstance(part, UserPromptPart)] if messages else []
    return sha256(to_json(parts, fallback=repr)).hexdigest()[:16]


async def _asked(run: Run, question: str, request: Request) -> tuple[list[Any], str]:
    """Return a response as JSON data, in a list, as pydantic-ai keeps messages, and the question where it matters.

    Runs of one name side by side are told apart by the order in which they begin, which may be another one next time.
    """
    response = await (_budgeted(run, request) if run.reserve else request())
    matters = run.begun.beside and run.begun.number > 1
    return ModelMessagesTypeAdapter.dump_python([response], mode="json"), question if matters else ""


async def _budgeted(run: Run, request: Request) -> ModelResponse:
    """Reserve from the delivery's budgets, send a request, and settle what it has used."""
    reserved = await asyncio.to_thread(partial(run.ctx.budget.reserve, **run.reserve))
    if not reserved:
        raise OverBudget(
            f"durable agent {run.name!r}: a budget has no room for a request of {run.reserve}, and is declared with "
            "at_limit='degrade': catch this where the agent is run, and do with less"
        )
    response = await request()
    await asyncio.to_thread(partial(reserved.settle, tokens=response.usage.total_tokens, cost=price(response)))
    return response


def price(response: ModelResponse) -> int:
    """Return what a response has cost, in millionths; 0 for a model whose price pydantic-ai does not know."""
    cost = response.usage.cost
    if cost is None:
        if not response.model_name:  # as models of one's own may leave it
            return 0
        try:
            cost = response.cost().total_price
        except (LookupError, ValueError):
            return 0
    return round(cost * 1_000_000)
