"""What tools return and say is kept, and is the same each time."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

pytest.importorskip("pydantic_ai")

from pydantic import BaseModel
from pydantic_ai import Agent, BinaryContent, ModelRetry, ToolReturn
from pydantic_ai.exceptions import ToolFailed
from pydantic_ai.models.test import TestModel

from pipeline import Context
from pipeline.pydantic_ai import durable
from tests.llm import Script, answers, handled


def test_what_a_tool_says_to_the_model_is_kept_too(made: Counter[str]) -> None:
    agent = Agent(Script(((("odd", {"what": "retry"}),), (("odd", {"what": "fail"}), ("odd", {"what": "x"})))).model(), name="odd", retries=3)  # fmt: skip  # noqa: E501

    class Number(BaseModel):
        number: int

    @agent.tool_plain
    def odd(what: str) -> str:
        made[what] += 1
        if what == "retry":
            raise ModelRetry("ask for something else")
        if what == "fail":
            raise ToolFailed("it is closed on Sundays")
        return str(Number.model_validate({"number": what}))  # which the model is told of, as of a wrong argument

    async def told(run: Any) -> list[str]:
        return [str(part.content) for message in run.all_messages() for part in message.parts if part.part_kind == "tool-return"]  # fmt: skip  # noqa: E501

    async def handler(ctx: Context) -> list[str]:
        found = await told(await durable(agent).run("go"))
        if ctx.attempt < 3:
            raise ValueError("not yet")
        return found

    async def plain(ctx: Context) -> list[str]:
        return await told(await agent.run("go"))

    said = []
    for one in (plain, handler):
        app = handled(one)
        with app.testing() as bus:
            app.publish("ask", {})
            bus.advance("1h")
            said += answers(bus)
    assert said[0] == said[1]
    assert any("Sundays" in text for text in said[0])
    assert made == {"retry": 2, "fail": 2, "x": 2}  # once without, once with


class Hit(BaseModel):
    title: str
    score: float


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        ({"a": [1, None, "ü"]}, {"a": [1, None, "ü"]}),
        (Hit(title="t", score=0.5), {"title": "t", "score": 0.5}),
        ([Hit(title="t", score=0.5)], [{"title": "t", "score": 0.5}]),
        (None, None),
        (BinaryContent(b"\x00\xff", media_type="text/x"), BinaryContent(b"\x00\xff", media_type="text/x")),
    ],
)
def test_what_a_tool_returns_is_the_same_each_time(result: Any, expected: Any) -> None:
    agent = Agent(TestModel(custom_output_text="fine"), name="tester")
    seen = []

    @agent.tool_plain
    def tool() -> Any:
        return result

    async def handler(ctx: Context) -> str:
        found = await durable(agent).run("go")
        (content,) = (p.content for m in found.all_messages() for p in m.parts if p.part_kind == "tool-return")
        seen.append(content)
        if ctx.attempt == 1:
            raise ValueError("not yet")
        return found.output

    app = handled(handler)
    with app.testing() as bus:
        app.publish("ask", {})
        bus.advance("1h")
        assert answers(bus) == ["fine"]
        assert seen == [expected, expected]


def test_a_result_with_more_for_the_application_and_for_the_model_comes_back_as_one() -> None:
    agent = Agent(TestModel(custom_output_text="fine"), name="tester")
    seen = []

    @agent.tool_plain
    def tool() -> ToolReturn:
        return ToolReturn("short", content=["long", BinaryContent(b"\xff", media_type="image/png")], metadata={"n": 1})

    async def handler(ctx: Context) -> str:
        found = await durable(agent).run("go")
        parts = [part for message in found.all_messages() for part in message.parts]
        seen.append([(p.content, p.metadata) for p in parts if p.part_kind == "tool-return"])
        seen.append([p.content for p in parts if p.part_kind == "user-prompt"])
        if ctx.attempt == 1:
            raise ValueError("not yet")
        return found.output

    app = handled(handler)
    with app.testing() as bus:
        app.publish("ask", {})
        bus.advance("1h")
        assert seen[:2] == seen[2:]
        assert seen[0] == [("short", {"n": 1})]
        assert b"\xff" in [item.data for item in seen[1][-1] if isinstance(item, BinaryContent)]
