"""What a durable run refuses, and what it may spend."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections import Counter
from typing import Any

import pytest

pytest.importorskip("pydantic_ai")

from pydantic_ai import Agent
from pydantic_ai.messages import ModelResponse, TextPart
from pydantic_ai.models.test import TestModel
from pydantic_ai.usage import RequestUsage

from pipeline import Context, Event, InvalidStep, LedgerOff, OverBudget, Pipeline, PipelineError
from pipeline.core.errors import to_install
from pipeline.core.event import new_event
from pipeline.pydantic_ai import durable, price
from tests.llm import ONCE, READ, REQUESTS, WRITTEN, Script, answers, handled

EACH = READ + WRITTEN
#: Makes pydantic-ai what it is where nobody has installed it, or where it is too old.
MISSING = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "pydantic_ai":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Blocker())
"""
OLD = """
from pydantic_ai.capabilities import AbstractCapability
del AbstractCapability.get_wrapper_model
"""


def event() -> Event:
    return new_event("ask", {}, source="/test")


def test_outside_of_a_handler_it_says_where_it_runs(agent: Agent[None, str]) -> None:
    with pytest.raises(PipelineError, match="durable agent 'investigator': it runs in a handler"):
        asyncio.run(durable(agent).run("go"))


def test_a_handler_that_has_ended_keeps_nothing_more(agent: Agent[None, str]) -> None:
    kept: list[Context] = []

    async def handler(ctx: Context) -> str:
        kept.append(ctx)
        return ""

    app = handled(handler)
    with app.testing() as bus:
        app.publish("ask", {})
        bus.settle()
        with pytest.raises(PipelineError, match="has ended"):
            asyncio.run(durable(agent, kept[0]).run("go"))


def test_an_agent_without_a_name_is_refused_since_its_steps_are_found_by_it() -> None:
    nameless = Agent(TestModel())
    with pytest.raises(PipelineError, match="the agent has no name"):
        durable(nameless)
    durable(nameless, name="writer")


def test_a_test_of_a_handler_runs_it_with_a_context_made_by_hand(agent: Agent[None, str], made: Counter[str]) -> None:
    assert asyncio.run(durable(agent, Context.for_test(event())).run("go")).output == "searched readed"
    assert made == ONCE


def test_without_a_ledger_it_says_so(agent: Agent[None, str], made: Counter[str]) -> None:
    ctx = Context(event(), "asked", "id", 1, "/test", None)
    with pytest.raises(LedgerOff, match="a durable agent needs a ledger"):
        asyncio.run(durable(agent, ctx).run("go"))
    assert made == {}


@pytest.mark.parametrize("result", [object(), {"a": object()}, lambda: None])
def test_a_tool_whose_result_json_cannot_hold_is_named(result: object) -> None:
    agent = Agent(TestModel(), name="tester")

    @agent.tool_plain
    def odd() -> Any:
        return result

    with pytest.raises(InvalidStep, match=r"tool 'odd' returned a \w+ that JSON cannot hold"):
        asyncio.run(durable(agent, Context.for_test(event())).run("go"))


def test_runs_whose_order_may_change_need_a_name_each() -> None:
    async def run(ctx: Context, names: tuple[str, str]) -> list[str]:
        slow, quick = asyncio.Event(), Agent(Script(()).model(), name="quick")

        @quick.tool_plain
        async def unused() -> str:
            return ""

        async def held() -> str:
            waiting = Agent(Script(((("wait", {}),),)).model(), name="quick")

            @waiting.tool_plain
            async def wait() -> str:
                await slow.wait()
                return "waited"

            return (await durable(waiting, ctx, name=names[0]).run("a")).output

        first = asyncio.create_task(held())
        await asyncio.sleep(0)
        try:
            await durable(quick, ctx, name=names[1]).run("b")
            second = (await durable(quick, ctx, name=names[1]).run("c")).output
        finally:
            slow.set()
            await first
        return [second]

    with pytest.raises(InvalidStep, match="give each its own name"):
        asyncio.run(run(Context.for_test(event()), ("quick", "quick")))
    assert asyncio.run(run(Context.for_test(event()), ("slow", "quick"))) == ["nothing"]


def test_a_long_name_is_no_error() -> None:
    agent = Agent(TestModel(custom_output_text="fine"), name="x" * 500)
    assert asyncio.run(durable(agent, Context.for_test(event())).run("go")).output == "fine"


@pytest.mark.parametrize(("code", "why"), [(MISSING, "No module named 'pydantic_ai"), (OLD, "it is older than 2.62")])
def test_without_what_it_stands_on_it_says_what_to_install(code: str, why: str) -> None:
    command = [sys.executable, "-c", f"{code}\nimport pipeline.pydantic_ai"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    last = found.stderr.splitlines()[-1]
    assert last.startswith("pipeline.core.errors.ConfigError: pipeline.pydantic_ai needs pydantic-ai")
    assert why in last
    assert to_install("pydantic-ai") in last


def test_the_package_itself_does_not_import_it() -> None:
    code = "import sys, pipeline; print([name for name in sys.modules if name.partition('.')[0] == 'pydantic_ai'])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"


# -- budgets


def used(app: Pipeline) -> tuple[int, ...]:
    (account,) = app.budgets.list("all")
    return account.used.numbers[:2]


def test_each_request_is_charged_once_however_often_the_handler_runs(
    agent: Agent[None, str], made: Counter[str]
) -> None:
    async def handler(ctx: Context) -> str:
        said = (await durable(agent, reserve={"tokens": 1_000}).run("go")).output
        if ctx.attempt < 3:
            raise ValueError("not yet")
        return said

    app = handled(handler)
    app.budget("all", tokens=2_000)
    with app.testing() as bus:
        app.publish("ask", {})
        bus.advance("1h")
        assert answers(bus) == ["searched readed"]
        assert used(app) == (REQUESTS * EACH, 0)
        assert made == ONCE


def test_a_run_without_room_waits_for_a_higher_budget_and_goes_on_where_it_was(
    agent: Agent[None, str], made: Counter[str]
) -> None:
    async def handler(ctx: Context) -> str:
        return (await durable(agent, reserve={"tokens": EACH}).run("go")).output

    app = handled(handler)
    app.budget("all", tokens=2 * EACH, at_limit="ask")
    with app.testing() as bus:
        app.publish("ask", {})
        bus.settle()
        assert made == {"request 0": 1, "search": 1, "request 1": 1, "read": 1}
        app.budgets.set("all", app.budgets.list("all")[0].limit._replace(tokens=10 * EACH))
        bus.advance("10m")
        assert answers(bus) == ["searched readed"]
        assert made == ONCE
        assert used(app) == (REQUESTS * EACH, 0)


def test_at_the_limit_the_delivery_is_a_dead_letter_that_says_how_to_go_on(
    agent: Agent[None, str], made: Counter[str]
) -> None:
    async def handler(ctx: Context) -> str:
        return (await durable(agent, reserve={"tokens": EACH}).run("go")).output

    app = handled(handler)
    app.budget("all", tokens=2 * EACH)
    with app.testing() as bus:
        app.publish("ask", {})
        bus.settle()
        (letter,) = bus.dead()
        assert "pipeline budget set all --tokens N" in letter.error
        assert made["request 2"] == 0


def test_where_a_budget_lets_agents_do_with_less_the_handler_is_told(agent: Agent[None, str]) -> None:
    async def handler(ctx: Context) -> str:
        try:
            return (await durable(agent, reserve={"tokens": EACH}).run("go")).output
        except OverBudget:
            return "what I know by heart"

    app = handled(handler)
    app.budget("all", tokens=EACH, at_limit="degrade")
    with app.testing() as bus:
        app.publish("ask", {})
        bus.settle()
        assert answers(bus) == ["what I know by heart"]


def test_a_streamed_answer_is_charged_once_too(agent: Agent[None, str], made: Counter[str]) -> None:
    async def handler(ctx: Context) -> str:
        async with durable(agent, reserve={"tokens": 1_000}).run_stream("go") as run:
            said = await run.get_output()
        if ctx.attempt == 1:
            raise ValueError("not yet")
        return said

    app = handled(handler)
    app.budget("all", tokens=2_000)
    with app.testing() as bus:
        app.publish("ask", {})
        bus.advance("1h")
        tokens, _ = used(app)
        assert 0 < tokens < 1_000
        assert made == ONCE


@pytest.mark.parametrize(("model", "millionths"), [("gpt-4o", 2_500), ("nobody-knows", 0), (None, 0)])
def test_a_price_is_what_pydantic_ai_knows(model: str | None, millionths: int) -> None:
    usage = RequestUsage(input_tokens=1_000)
    assert price(ModelResponse([TextPart("a")], usage=usage, model_name=model, provider_name="openai")) == millionths
