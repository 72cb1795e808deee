"""A pydantic-ai agent for tests, whose model and tools say when they are asked: an investigator with a plan."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

from pydantic_ai import Agent
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart, ToolReturnPart, UserPromptPart
from pydantic_ai.models.function import AgentInfo, DeltaToolCall, FunctionModel
from pydantic_ai.usage import RequestUsage

from pipeline import Context, Pipeline, Retry

#: What it has used when a request was answered: tokens.
READ, WRITTEN = 30, 10
USAGE = RequestUsage(input_tokens=READ, output_tokens=WRITTEN)
#: How many requests a run of an investigator makes.
REQUESTS = 3
#: What an investigator does, each once.
ONCE = {**{f"request {number}": 1 for number in range(REQUESTS)}, "search": 1, "read": 1}


@dataclass(frozen=True)
class Script:
    """What a model answers: the calls of each round, and the text at the end.

    Attributes:
        heard: is told of each request, with its number and the prompt, before it is answered.

    """

    rounds: tuple[tuple[tuple[str, dict[str, Any]], ...], ...]
    heard: Callable[[int, str], Any] = lambda number, prompt: None

    def answer(self, messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        """Answer as a provider does, which sees nothing but the messages."""
        number = sum(isinstance(message, ModelResponse) for message in messages)
        parts = [part for message in messages for part in message.parts]
        self.heard(number, next(str(part.content) for part in parts if isinstance(part, UserPromptPart)))
        if number < len(self.rounds):
            calls = [
                ToolCallPart(name, args, tool_call_id=f"call-{number}-{place}")
                for place, (name, args) in enumerate(self.rounds[number])
            ]
            return ModelResponse(parts=calls, usage=USAGE)
        found = [str(part.content) for part in parts if isinstance(part, ToolReturnPart)]
        return ModelResponse(parts=[TextPart(" ".join(found) or "nothing")], usage=USAGE)

    async def stream(self, messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[Any]:
        """Say the same, word by word."""
        for place, part in enumerate(self.answer(messages, info).parts):
            if isinstance(part, ToolCallPart):
                yield {place: DeltaToolCall(part.tool_name, part.args_as_json_str(), tool_call_id=part.tool_call_id)}
            elif isinstance(part, TextPart):
                for word in part.content.split():
                    yield f"{word} "

    def model(self) -> FunctionModel:
        """Return it as pydantic-ai takes it."""
        return FunctionModel(self.answer, stream_function=self.stream, model_name="scripted")


def investigator(call: Callable[[str], str], heard: Callable[[int, str], Any]) -> Agent[None, str]:
    """Return an agent that makes three requests, and a tool call after each but the last.

    Arguments:
        call: what both tools do, with their names.

    """
    agent = Agent(Script(((("search", {}),), (("read", {}),)), heard).model(), name="investigator")

    @agent.tool_plain
    def search() -> str:
        return call("search")

    @agent.tool_plain
    async def read() -> str:
        return call("read")

    return agent


def handled(handler: Callable[[Context], Any], *, attempts: int = 3, **options: Any) -> Pipeline:
    """Return an app whose agent answers `ask` with what an async handler returns."""
    app = Pipeline("llm")

    @app.agent(on="ask", retry=Retry(max=attempts, base=1), **options)
    async def asked(data: Any, ctx: Context) -> None:
        ctx.publish("answered", {"by": await handler(ctx)})

    return app


def answers(bus: Any) -> list[Any]:
    return [event.data["by"] for event in bus.published("answered")]


def steps(app: Pipeline) -> list[str]:
    """Return the names of the steps that the ledger keeps, in their order."""
    return [
        step.name
        for found in app.get_events(type="ask")
        for event in app.trace(found.event.id)
        for delivery in event.deliveries
        for step in delivery.steps
    ]
