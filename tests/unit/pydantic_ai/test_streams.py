"""Answers that are read while they come: live once, and from the ledger afterwards."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest

pytest.importorskip("pydantic_ai")

from pydantic_ai import Agent
from pydantic_ai.exceptions import ModelHTTPError
from pydantic_ai.models.function import FunctionModel
from pydantic_ai.run import AgentRunResultEvent

from pipeline import Context
from pipeline.pydantic_ai import durable
from tests.llm import ONCE, answers, handled, steps


async def streamed(agent: Agent[None, str]) -> list[str]:
    """Return what a reader sees of the last answer, piece by piece."""
    async with durable(agent).run_stream("go") as run:
        return [text async for text in run.stream_text(delta=True, debounce_by=None)]


def test_a_text_comes_word_by_word_once_and_whole_when_the_handler_runs_again(
    agent: Agent[None, str], made: Counter[str]
) -> None:
    seen = []

    async def handler(ctx: Context) -> str:
        seen.append(await streamed(agent))
        if ctx.attempt == 1:
            raise ValueError("not yet")
        return "".join(seen[-1])

    app = handled(handler)
    with app.testing() as bus:
        app.publish("ask", {})
        bus.advance("1h")
        assert seen == [["searched ", "readed "], ["searched readed "]]
        assert answers(bus) == ["searched readed "]
        assert made == ONCE
        assert len(steps(app)) == 5


def test_events_of_a_run_come_from_the_ledger_when_the_handler_runs_again(
    agent: Agent[None, str], made: Counter[str]
) -> None:
    seen = []

    async def handler(ctx: Context) -> str:
        async with durable(agent).run_stream_events("go") as events:
            seen.append([event async for event in events])
        if ctx.attempt == 1:
            raise ValueError("not yet")
        last = seen[-1][-1]
        assert isinstance(last, AgentRunResultEvent)
        return last.result.output

    app = handled(handler)
    with app.testing() as bus:
        app.publish("ask", {})
        bus.advance("1h")
        assert answers(bus) == ["searched readed "]
        assert made == ONCE
        kinds = [Counter(type(event).__name__ for event in one) for one in seen]
        for kind in ("FunctionToolCallEvent", "FunctionToolResultEvent", "PartEndEvent", "FinalResultEvent"):
            assert kinds[0][kind] == kinds[1][kind] > 0


def test_an_answer_that_was_cut_short_is_kept_as_the_run_went_on_with_it(
    agent: Agent[None, str], made: Counter[str]
) -> None:
    seen = []

    async def handler(ctx: Context) -> str:
        async with durable(agent).iter("go") as run:
            async for node in run:
                if agent.is_model_request_node(node):
                    async with node.stream(run.ctx) as stream:
                        async for _ in stream:
                            break
        assert run.result is not None
        seen.append(run.result.output)
        if ctx.attempt == 1:
            raise ValueError("not yet")
        return seen[-1]

    app = handled(handler)
    with app.testing() as bus:
        app.publish("ask", {})
        bus.advance("1h")
        assert len(answers(bus)) == 1
        assert seen[0] == seen[1] != ""
        assert made == ONCE


def talker(words: list[Any], made: Counter[str]) -> Agent[None, str]:
    """Return an agent whose model says words, or raises them."""

    async def stream(messages: Any, info: Any) -> AsyncIterator[str]:
        made["asked"] += 1
        for word in words:
            if isinstance(word, Exception) and made["asked"] == 1:
                raise word
            if not isinstance(word, Exception):
                yield word

    return Agent(FunctionModel(stream_function=stream), name="talker")


def test_a_reader_that_fails_loses_nothing_of_what_was_asked_for(made: Counter[str]) -> None:
    agent = talker(["one ", "two"], made)

    async def handler(ctx: Context) -> str:
        async with durable(agent).run_stream("go") as run:
            if ctx.attempt > 1:
                return await run.get_output()
            async for _ in run.stream_text(delta=True, debounce_by=None):
                break
            raise ValueError("the page is gone")

    app = handled(handler)
    with app.testing() as bus:
        app.publish("ask", {})
        bus.advance("1h")
        assert answers(bus) == ["one two"]
        assert made["asked"] == 1


def test_a_stream_that_breaks_off_is_asked_for_again(made: Counter[str]) -> None:
    agent = talker(["one ", ConnectionError("the line is dead"), "two"], made)

    async def handler(ctx: Context) -> str:
        return "".join(await streamed(agent))

    app = handled(handler)
    with app.testing() as bus:
        app.publish("ask", {})
        bus.advance("1h")
        assert answers(bus) == ["one two"]
        assert made["asked"] == 2


def test_a_stream_that_is_refused_with_429_pauses_the_agent(made: Counter[str]) -> None:
    agent = talker([ModelHTTPError(429, "talker", headers={"Retry-After": "30"}), "one"], made)
    attempts = []

    async def handler(ctx: Context) -> str:
        attempts.append(ctx.attempt)
        return "".join(await streamed(agent))

    app = handled(handler, scope="provider")
    with app.testing() as bus:
        app.publish("ask", {})
        bus.advance("5m")
        assert answers(bus) == ["one"]
        assert attempts == [1, 1]


def test_a_handler_that_is_out_of_time_ends_its_stream(made: Counter[str]) -> None:
    ended = []

    async def stream(messages: Any, info: Any) -> AsyncIterator[str]:
        made["asked"] += 1
        try:
            yield "one "
            if made["asked"] == 1:
                await asyncio.Event().wait()
            yield "two"
        finally:
            ended.append(made["asked"])

    agent = Agent(FunctionModel(stream_function=stream), name="talker")

    async def handler(ctx: Context) -> str:
        return "".join(await streamed(agent))

    app = handled(handler, timeout=0.5)
    with app.testing() as bus:
        app.publish("ask", {})
        bus.advance("1h")
        assert answers(bus) == ["one two"]
        assert ended == [1, 2]
