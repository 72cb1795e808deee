"""Runs of pydantic-ai's agents go on where they were: nothing is asked and nothing is called twice."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("pydantic_ai")

from pydantic_ai import Agent, RunContext
from pydantic_ai.exceptions import ModelHTTPError, UnexpectedModelBehavior
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, UserPromptPart
from pydantic_ai.models import Model
from pydantic_ai.models.function import FunctionModel
from pydantic_ai.models.test import TestModel
from pydantic_ai.tools import DeferredToolRequests

from pipeline import Context, Pipeline, Retry
from pipeline.ledger.waiting.steps import Steps
from pipeline.pydantic_ai import durable
from pipeline.testing.crashes import Killed
from tests.llm import ONCE, READ, REQUESTS, WRITTEN, Script, answers, handled, investigator, steps


def test_an_attempt_that_fails_after_the_run_pays_for_nothing_twice(agent: Agent, made: Counter[str]) -> None:
    async def handler(ctx: Context) -> str:
        said = (await durable(agent).run("go")).output
        if ctx.attempt < 3:
            raise ValueError("the mail server is away")
        return said

    app = handled(handler)
    with app.testing() as bus:
        app.publish("ask", {})
        bus.advance("1h")
        assert answers(bus) == ["searched readed"]
        assert made == ONCE
        assert steps(app) == [
            "investigator: model",
            "investigator: search call-0-0",
            "investigator: model",
            "investigator: read call-1-0",
            "investigator: model",
        ]


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("place", range(5))
def test_wherever_its_worker_dies_a_run_goes_on_from_what_was_kept(
    agent: Agent, made: Counter[str], monkeypatch: pytest.MonkeyPatch, place: int, after: bool
) -> None:
    """A call that was answered is made again only where its worker has died before the ledger's commit."""
    keep, kept = Steps.keep, Counter[str]()

    def dying(self: Steps, *about: Any) -> str:
        kept["begun"] += 1
        is_now = kept["begun"] == place + 1
        if is_now and not after:
            raise Killed(1)
        text = keep(self, *about)
        if is_now:
            raise Killed(1)
        return text

    async def handler(ctx: Context) -> str:
        return (await durable(agent).run("go")).output

    monkeypatch.setattr(Steps, "keep", dying)
    app = handled(handler)
    with app.testing() as bus:
        app.publish("ask", {})
        bus.advance("1h")
        assert answers(bus) == ["searched readed"]
        # As they are made one after the other: a request, a tool, a request ...
        order = ["request 0", "search", "request 1", "read", "request 2"]
        assert made == ONCE | ({} if after else {order[place]: 2})


def test_a_tool_that_fails_is_called_again_and_what_was_done_before_is_not(made: Counter[str]) -> None:
    def call(name: str) -> str:
        made[name] += 1
        if name == "read" and made["read"] == 1:
            raise ConnectionError("the archive is away")
        return name

    agent = investigator(call, lambda number, prompt: made.update([f"request {number}"]))

    async def handler(ctx: Context) -> str:
        return (await durable(agent).run("go")).output

    app = handled(handler)
    with app.testing() as bus:
        app.publish("ask", {})
        bus.advance("1h")
        assert answers(bus) == ["search read"]
        assert made == ONCE | {"read": 2}


def test_tools_that_run_side_by_side_are_steps_of_their_own(made: Counter[str]) -> None:
    agent = Agent(Script(((("look", {"at": "a"}), ("look", {"at": "b"}), ("look", {"at": "c"})),)).model(), name="eyes")
    at_work = asyncio.Barrier(3)

    @agent.tool_plain
    async def look(at: str) -> str:
        made[at] += 1
        if made.total() <= 3:
            await at_work.wait()  # passed only by all three together
        if at == "b" and made["b"] == 1:
            await asyncio.sleep(0.2)  # until the others are kept
            raise ConnectionError("b is away")
        return at.upper()

    async def handler(ctx: Context) -> str:
        return (await durable(agent).run("go")).output

    app = handled(handler)
    with app.testing() as bus:
        app.publish("ask", {})
        bus.advance("1h")
        assert answers(bus) == ["A B C"]
        assert made == {"a": 1, "b": 2, "c": 1}


def test_a_provider_that_says_429_pauses_the_agent_and_costs_no_attempt(made: Counter[str]) -> None:
    def heard(number: int, prompt: str) -> None:
        made[f"request {number}"] += 1
        if number == 1 and made["request 1"] == 1:
            raise ModelHTTPError(429, "scripted", headers={"Retry-After": "30"})

    agent = investigator(lambda name: made.update([name]) or name, heard)
    attempts = []

    async def handler(ctx: Context) -> str:
        attempts.append(ctx.attempt)
        return (await durable(agent).run("go")).output

    app = handled(handler, scope="provider")
    with app.testing() as bus:
        app.publish("ask", {})
        bus.advance("20s")
        assert answers(bus) == []
        bus.advance("1m")
        assert answers(bus) == ["search read"]
        assert attempts == [1, 1]
        assert made == ONCE | {"request 1": 2}


def test_what_the_model_does_wrong_ends_the_run_as_without(agent: Agent) -> None:
    wrong = Agent(Script((((("search"), {}),) * 1,) * 9).model(), name="wrong", retries=1)
    errors = []

    async def handler(ctx: Context) -> str:
        for one in (wrong, durable(wrong)):
            with pytest.raises(UnexpectedModelBehavior) as caught:
                await one.run("go")
            errors.append(str(caught.value))
        return ""

    app = handled(handler)
    with app.testing() as bus:
        app.publish("ask", {})
        bus.settle()
        assert len(errors) == 2
        assert errors[0] == errors[1]


def test_an_answer_too_large_for_the_ledger_is_kept_as_a_blob() -> None:
    asked = []
    text = "x" * 300_000

    def heard(number: int, prompt: str) -> None:
        asked.append(number)

    agent = Agent(Script(((("large", {}),),), heard).model(), name="large")

    @agent.tool_plain
    def large() -> str:
        return text

    async def handler(ctx: Context) -> int:
        length = len((await durable(agent).run("go")).output)
        if ctx.attempt == 1:
            raise ValueError("not yet")
        return length

    app = handled(handler)
    with app.testing() as bus:
        app.publish("ask", {})
        bus.advance("1h")
        assert answers(bus) == [300_000]
        assert asked == [0, 1]
        kept = app.bus.ledger.waiting.steps.of(next(iter(app.trace(bus.published("ask")[0].id))).deliveries[0].id)
        assert [step.result[:1] for step in kept] == ["[", "@", "@"]


def test_agents_within_tools_keep_their_answers_by_the_call_they_are_in(made: Counter[str]) -> None:
    """Of two that run side by side one may be kept whole: the other one's answers are its own all the same."""

    def heard(number: int, prompt: str) -> None:
        made[f"{prompt} {number}"] += 1

    inner = Agent(Script((), heard).model(), name="inner")
    outer = Agent(Script(((("ask", {"whom": "a"}), ("ask", {"whom": "b"})),), heard).model(), name="outer")

    @outer.tool_plain
    async def ask(whom: str) -> str:
        text = (await durable(inner).run(whom)).output
        if whom == "b" and made["fails"] == 0:
            made["fails"] += 1
            await asyncio.sleep(0.2)  # until the other one is kept
            raise ConnectionError("b is away")
        return f"{whom}:{text}"

    async def handler(ctx: Context) -> str:
        return (await durable(outer).run("go")).output

    app = handled(handler)
    with app.testing() as bus:
        app.publish("ask", {})
        bus.advance("1h")
        assert answers(bus) == ["a:nothing b:nothing"]
        assert made == {"go 0": 1, "a 0": 1, "b 0": 1, "fails": 1, "go 1": 1}
        assert "inner in outer: ask call-0-1: model" in steps(app)


def test_several_runs_in_one_delivery_keep_their_own_answers(made: Counter[str]) -> None:
    class Echo(TestModel):
        async def request(self, messages: Any, *more: Any) -> Any:
            made[messages[0].parts[0].content] += 1
            return await TestModel(custom_output_text=messages[0].parts[0].content).request(messages, *more)

    echo = durable(Agent(Echo(), name="echo"))

    async def handler(ctx: Context) -> list[str]:
        first = [(await echo.run(text)).output for text in "ab"]
        together = [run.output for run in await asyncio.gather(*(echo.run(text) for text in "cde"))]
        if ctx.attempt == 1:
            raise ValueError("not yet")
        return first + together

    app = handled(handler)
    with app.testing() as bus:
        app.publish("ask", {})
        bus.advance("1h")
        assert answers(bus) == [list("abcde")]
        assert made == dict.fromkeys("abcde", 1)
        assert sorted(steps(app))[:2] == ["echo (2): model", "echo (3): model"]


def test_usage_counts_each_request_and_each_run_says_the_same(agent: Agent) -> None:
    usages = []

    async def handler(ctx: Context) -> str:
        run = await durable(agent).run("go")
        usages.append((run.usage.requests, run.usage.input_tokens, run.usage.output_tokens, run.usage.tool_calls))
        if ctx.attempt == 1:
            raise ValueError("not yet")
        return run.output

    app = handled(handler)
    with app.testing() as bus:
        app.publish("ask", {})
        bus.advance("1h")
        assert usages == [(REQUESTS, REQUESTS * READ, REQUESTS * WRITTEN, 2)] * 2


@pytest.fixture
def threads_loop() -> Iterator[None]:
    """Give this thread a loop and close it: pydantic-ai's run_sync() makes one otherwise, which stays open."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    yield
    asyncio.set_event_loop(None)
    loop.close()


@pytest.mark.usefixtures("threads_loop")
@pytest.mark.parametrize("kind", ["run", "run_sync"])
def test_sync_handlers_run_them_as_async_ones_do(agent: Agent, made: Counter[str], kind: str) -> None:
    app = Pipeline("llm")
    once = durable(agent)

    @app.agent(on="ask", retry=Retry(max=3, base=1))
    def asked(data: Any, ctx: Context) -> None:
        run = once.run_sync("go") if kind == "run_sync" else asyncio.run(once.run("go"))
        if ctx.attempt == 1:
            raise ValueError("not yet")
        ctx.publish("answered", {"by": run.output})

    with app.testing() as bus:
        app.publish("ask", {})
        bus.advance("1h")
        assert answers(bus) == ["searched readed"]
        assert made == ONCE


def test_dependencies_instructions_and_models_of_a_run_reach_it(made: Counter[str]) -> None:
    agent: Agent[dict, str] = Agent(name="dependent", deps_type=dict)

    @agent.tool
    def who(ctx: RunContext[dict]) -> str:
        return ctx.deps["name"]

    async def handler(ctx: Context) -> str:
        model: Model = Script(((("who", {}),),)).model()
        return (await durable(agent).run("go", deps={"name": "Ada"}, model=model, instructions="Be brief.")).output

    app = handled(handler)
    with app.testing() as bus:
        app.publish("ask", {})
        bus.settle()
        assert answers(bus) == ["Ada"]


def test_calls_that_are_left_to_the_application_are_its_own(made: Counter[str]) -> None:
    agent = Agent(Script(((("pay", {}),),)).model(), name="payer", output_type=[str, DeferredToolRequests])

    @agent.tool_plain(requires_approval=True)
    def pay() -> str:
        return "paid"

    async def handler(ctx: Context) -> list[str]:
        output = (await durable(agent, ask=False).run("go")).output
        assert isinstance(output, DeferredToolRequests)
        return [call.tool_name for call in output.approvals]

    app = handled(handler)
    with app.testing() as bus:
        app.publish("ask", {})
        bus.settle()
        assert answers(bus) == [["pay"]]


def test_runs_of_one_name_side_by_side_get_no_answers_to_each_others_questions(made: Counter[str]) -> None:
    echo = Agent(FunctionModel(lambda messages, _: _echoed(messages)), name="echo")

    async def one(ctx: Context, word: str, seconds: float) -> str:
        async def wait() -> None:
            await asyncio.sleep(seconds if ctx.attempt == 1 else 0.3 - seconds)

        await wait()
        return (await durable(echo).run(word)).output

    async def both(ctx: Context) -> str:
        said = await asyncio.gather(one(ctx, "a", 0.2), one(ctx, "b", 0.0), return_exceptions=True)
        if ctx.attempt == 1:
            raise ValueError("once more")
        for each in said:
            if isinstance(each, Exception):
                raise each
        return str(said)

    app = handled(both)
    with app.testing() as bus:
        app.publish("ask", {})
        bus.advance("1h")
        (letter,) = bus.dead()
        assert "the order of its runs has changed; give each its own name" in letter.error


async def _echoed(messages: list[ModelMessage]) -> ModelResponse:
    await asyncio.sleep(0.3)
    (word,) = (part.content for part in messages[0].parts if isinstance(part, UserPromptPart))
    return ModelResponse([TextPart(f"said {word}")])
