"""Capabilities: how they are declared, and what they refuse."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel

from pipeline import InvalidAgent, InvalidEvent, Pipeline, capability
from pipeline.agents.agent import Agent
from pipeline.contracts.capability import Capability


class Text(BaseModel):
    text: str


def declared(pipeline: Pipeline, **options: Any) -> Agent:
    return pipeline.agent(name="writer", **options)(lambda data: None)


@pytest.fixture
def app(no_settings: None) -> Pipeline:
    return Pipeline("t", ledger_url="")


def test_an_agent_listens_to_what_asks_for_it(app: Pipeline) -> None:
    can = (capability("read"), capability("write", type="text.wanted"), capability("erase", type="order.gone"))
    agent = declared(app, on="order.*", capability=can)
    assert agent.patterns == ("order.*", "read.requested", "text.wanted")
    assert [one.type for one in agent.capabilities] == ["read.requested", "text.wanted", "order.gone"]


def test_of_an_agent_that_listens_to_one_type_that_asks_for_it(app: Pipeline) -> None:
    agent = declared(app, on="text.wanted", capability=capability("write"))
    assert (agent.patterns, agent.capabilities[0].type) == (("text.wanted",), "text.wanted")


def test_it_says_how_many_and_how_long_where_the_agent_does_not(app: Pipeline) -> None:
    agent = declared(app, capability=capability("write"))
    assert (agent.max_concurrent, agent.timeout) == (5, 30)


def test_the_agents_own_numbers_win(app: Pipeline) -> None:
    agent = declared(app, capability=capability("write", max_concurrent=3, timeout=9), max_concurrent=1, timeout=2)
    assert (agent.max_concurrent, agent.timeout) == (1, 2)


def test_it_survives_being_written_down() -> None:
    one = capability("write", input=Text, output={"type": "object"}, specializations="law", type="a.b")
    assert Capability.of({**one.as_data(), "new": 1}) == one


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: capability("Write it"), "no capability"),
        (lambda: capability("write", timeout=0), "more than 0"),
        (lambda: capability("write", input={"type": "objekt"}), "write': input"),
        (lambda: capability("write", output=7), "a pydantic model or a JSON Schema"),  # type: ignore[arg-type]
    ],
)
def test_what_is_none_is_refused(make: Any, told: str) -> None:
    with pytest.raises(InvalidAgent, match=told):
        make()


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("write", "no capability"),
        ((capability("write"), capability("write")), "two of its capabilities have the id 'write'"),
        ((capability("a", type="x.y"), capability("b", type="x.y")), "two of its capabilities have the type"),
    ],
)
def test_what_an_agent_cannot_have_is_refused(app: Pipeline, given: Any, told: str) -> None:
    with pytest.raises(InvalidAgent, match=told):
        declared(app, capability=given)


def test_data_that_does_not_fit_is_named() -> None:
    one = capability("write", input=Text, output={"required": ["summary"]})
    one.check_input({"text": "a"})
    one.check_output({"summary": "a"})
    with pytest.raises(InvalidEvent, match=r"input of capability 'write' does not validate: .*text"):
        one.check_input({})
    with pytest.raises(InvalidEvent, match=r"output of capability 'write' does not validate: .*summary"):
        one.check_output({})
