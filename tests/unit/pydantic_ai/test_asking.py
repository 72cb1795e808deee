"""Tools that need an approval: people are asked through the ledger, and no worker is held meanwhile."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

pytest.importorskip("pydantic_ai")

from pydantic_ai import Agent, ApprovalRequired, RunContext
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart, ToolReturnPart
from pydantic_ai.models.function import AgentInfo, FunctionModel

from pipeline.pydantic_ai import durable
from tests.llm import Script, answers, handled


@pytest.fixture
def payer(made: Counter[str]) -> Agent[None, str]:
    """An agent that looks something up, and pays at the same time."""

    def heard(number: int, prompt: str) -> None:
        made[f"request {number}"] += 1

    agent = Agent(Script(((("look", {}), ("pay", {"amount": 7})),), heard).model(), name="payer")

    @agent.tool_plain
    def look() -> str:
        made["look"] += 1
        return "seen"

    @agent.tool_plain(requires_approval=True)
    def pay(amount: int) -> str:
        made[f"pay {amount}"] += 1
        return f"paid {amount}"

    return agent


async def handler_of(agent: Agent[None, str], **options: Any) -> str:
    return (await durable(agent, **options).run("go")).output


def test_a_tool_that_needs_an_approval_waits_for_it_and_nothing_before_it_is_done_again(
    payer: Agent[None, str], made: Counter[str]
) -> None:
    app = handled(lambda ctx: handler_of(payer))
    with app.testing() as bus:
        app.publish("ask", {})
        bus.advance("2h")
        assert made == {"request 0": 1, "look": 1}
        (proposal,) = bus.published("action.proposed")
        assert (proposal.data["action"], proposal.data["params"]) == ("pay", {"amount": 7})
        assert proposal.data["message"] == "payer wants to call pay."
        bus.approve("pay")
        bus.settle()
        assert answers(bus) == ["seen paid 7"]
        assert made == {"request 0": 1, "look": 1, "pay 7": 1, "request 1": 1}


def test_whoever_approves_may_change_what_the_tool_is_called_with(payer: Agent[None, str], made: Counter[str]) -> None:
    app = handled(lambda ctx: handler_of(payer))
    with app.testing() as bus:
        app.publish("ask", {})
        bus.settle()
        bus.approve("pay", edit={"amount": 5})
        bus.settle()
        assert answers(bus) == ["seen paid 5"]
        assert made["pay 7"] == 0


def test_the_model_is_told_of_a_veto_and_of_a_question_that_nobody_has_answered(
    payer: Agent[None, str], made: Counter[str]
) -> None:
    app = handled(lambda ctx: handler_of(payer, ask={"expires": "1h"}))
    with app.testing() as bus:
        app.publish("ask", {})
        bus.settle()
        bus.veto("pay", reason="too much")
        app.publish("ask", {})
        bus.advance("2h")
        vetoed, expired = answers(bus)
        assert "too much" in vetoed
        assert "expired" in expired
        assert made["pay 7"] == 0


def test_a_tool_may_ask_by_itself_and_is_called_again_when_it_may(made: Counter[str]) -> None:
    agent = Agent(Script(((("pay", {"amount": 7}), ("pay", {"amount": 900})),)).model(), name="payer")

    @agent.tool
    def pay(ctx: RunContext[None], amount: int) -> str:
        made[f"begun {amount}"] += 1
        if amount > 100 and not ctx.tool_call_approved:
            raise ApprovalRequired(metadata={"message": "That is a lot."})
        return f"paid {amount}"

    app = handled(lambda ctx: handler_of(agent, ask={"who": ("ada", "grace"), "n_of": 2}))
    with app.testing() as bus:
        app.publish("ask", {})
        bus.settle()
        (proposal,) = bus.published("action.proposed")
        assert proposal.data["message"] == "That is a lot."
        assert (proposal.data["who"], proposal.data["n_of"]) == (["ada", "grace"], 2)
        assert made == {"begun 7": 1, "begun 900": 1}
        for name in ("ada", "grace"):
            bus.approve("pay", by=name)
        bus.settle()
        assert answers(bus) == ["paid 7 paid 900"]
        assert made == {"begun 7": 1, "begun 900": 2}  # the second time it was allowed to


def test_several_calls_are_asked_about_one_after_the_other(made: Counter[str]) -> None:
    agent = Agent(Script(((("pay", {"amount": 1}), ("pay", {"amount": 2})),)).model(), name="payer")

    @agent.tool_plain(requires_approval=True)
    def pay(amount: int) -> str:
        made[f"pay {amount}"] += 1
        return str(amount)

    app = handled(lambda ctx: handler_of(agent))
    with app.testing() as bus:
        app.publish("ask", {})
        for amount in (1, 2):
            bus.settle()
            assert [event.data["params"]["amount"] for event in bus.published("action.proposed")][-1] == amount
            bus.approve("pay")
        bus.settle()
        assert answers(bus) == ["1 2"]
        assert made == {"pay 1": 1, "pay 2": 1}


def test_runs_side_by_side_and_within_tools_do_not_ask_since_answers_could_be_mixed_up(
    payer: Agent[None, str], made: Counter[str]
) -> None:
    outer = Agent(Script(((("delegate", {}),),)).model(), name="outer")

    @outer.tool_plain
    async def delegate() -> str:
        return await handler_of(payer)

    async def both(ctx: Any) -> Any:
        return await asyncio.gather(handler_of(payer), handler_of(payer))

    for handler in (lambda ctx: handler_of(outer), both):
        app = handled(handler)
        with app.testing() as bus:
            app.publish("ask", {})
            bus.settle()
            (letter,) = bus.dead()
            assert "a call of pay needs an approval, and other runs of the delivery went on beside it" in letter.error
            assert letter.attempts == 1
    assert made["pay 7"] == 0


def test_a_run_that_was_not_alone_does_not_ask_when_the_others_have_ended(made: Counter[str]) -> None:
    """Else it might be alone when it asks, and not when somebody has approved and all goes on at once."""
    slow = Agent(FunctionModel(_pays_late), name="slow")
    quick = Agent(Script(((("look", {}),),)).model(), name="quick")

    @slow.tool_plain(requires_approval=True)
    def pay(amount: float) -> str:
        made["pay"] += 1
        return "paid"

    @quick.tool_plain
    def look() -> str:
        return "seen"

    async def both(ctx: Any) -> Any:
        return await asyncio.gather(handler_of(slow), handler_of(quick))

    app = handled(both)
    with app.testing() as bus:
        app.publish("ask", {})
        bus.settle()
        (letter,) = bus.dead()
        assert "other runs of the delivery went on beside it" in letter.error
        assert bus.published("action.proposed") == []


async def _pays_late(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
    await asyncio.sleep(0.5)
    return ModelResponse([ToolCallPart("pay", {"amount": 7.5})])


def test_the_model_is_told_of_arguments_about_which_nobody_can_be_asked(made: Counter[str]) -> None:
    """pydantic takes "7.5" for 7.5; the JSON Schema that people's tools go by does not."""

    def answer(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        told = [part.content for message in messages for part in message.parts if isinstance(part, ToolReturnPart)]
        if not told:
            return ModelResponse([ToolCallPart("pay", {"amount": "7.5"})])
        return ModelResponse([TextPart(str(told[-1]))])

    agent = Agent(FunctionModel(answer), name="lax")

    @agent.tool_plain(requires_approval=True)
    def pay(amount: float) -> str:
        made["pay"] += 1
        return "paid"

    app = handled(lambda ctx: handler_of(agent))
    with app.testing() as bus:
        app.publish("ask", {})
        bus.settle()
        (said,) = answers(bus)
        assert said.startswith("Nobody was asked: pay does not validate: amount:")
    assert made == {}
