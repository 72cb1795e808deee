"""Names: each belongs to one declaration, which a module that is imported again may repeat."""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from pipeline import InvalidAgent, Pipeline

TWICE = "is used twice: by .* and by .*; pass name='...' to one of them"


@pytest.fixture
def app(tmp_path: Path) -> Pipeline:
    return Pipeline("test", directory=tmp_path, ledger_url="")


def counted(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(data: Any) -> Any:
        return function(data)

    return wrapper


def plain_wrapper(function: Callable[..., Any]) -> Callable[..., Any]:
    def wrapper(data: Any) -> Any:
        return function(data)

    return wrapper


def handler_in(module: str) -> Any:
    space = ModuleType(module).__dict__
    exec(compile("def handle(data):\n    return None\n", f"{module}.py", "exec"), space)
    return space["handle"]


class Handler:
    def __init__(self, number: int) -> None:
        self.number = number

    def __call__(self, data: Any) -> None: ...

    def method(self, data: Any) -> None: ...


def numbered(number: int) -> Callable[[Any], int]:
    return lambda data: number


PAIRS = {
    "two modules": lambda: (handler_in("stock"), handler_in("billing")),
    "two modules, one decorator": lambda: (counted(handler_in("stock")), counted(handler_in("billing"))),
    "a decorator that hides what it wraps": lambda: (plain_wrapper(numbered(1)), plain_wrapper(numbered(2))),
    "two decorators on one function": lambda: (counted(numbered), plain_wrapper(numbered)),
    "what one function made, from different things": lambda: (numbered(1), numbered(2)),
    "two functions of one line": lambda: ((lambda data: 1), (lambda data: 2)),
    "two objects of one class": lambda: (Handler(1), Handler(2)),
    "methods of two objects": lambda: (Handler(1).method, Handler(2).method),
    "one function with different arguments": lambda: (
        functools.partial(Handler.method, Handler(1)),
        functools.partial(Handler.method, Handler(2)),
    ),
    "a function and an object": lambda: (numbered(1), Handler(1)),
}


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
def test_two_handlers_of_one_name_are_refused_whatever_they_have_in_common(
    app: Pipeline, pair: Callable[[], tuple[Any, Any]]
) -> None:
    one, other = pair()
    first = app.agent(on="a.b", name="same")(one)
    with pytest.raises(InvalidAgent, match=f"agent name 'same' {TWICE}"):
        app.agent(on="a.b", name="same")(other)
    assert app.agents["same"] is first


@pytest.mark.parametrize("options", [{"retry": 7}, {"timeout": 3}, {"priority": 2}, {"on": "a.c"}])
def test_one_handler_of_one_name_with_other_options_is_refused(app: Pipeline, options: dict[str, Any]) -> None:
    app.agent(on="a.b", name="same")(numbered)
    with pytest.raises(InvalidAgent, match=TWICE):
        app.agent(**{"on": "a.b", "name": "same", **options})(numbered)


def test_the_message_names_the_modules_behind_a_decorator(app: Pipeline) -> None:
    app.agent(on="a.b")(counted(handler_in("stock")))
    with pytest.raises(
        InvalidAgent, match=r"by stock\.handle \(stock\.py:1\) and by billing\.handle \(billing\.py:1\)"
    ):
        app.agent(on="a.b")(counted(handler_in("billing")))


def test_a_declaration_that_is_said_twice_in_the_same_words_is_one(app: Pipeline) -> None:
    thing = Handler(1)
    for _ in range(2):
        app.agent(on="a.b", name="object")(thing)
        app.agent(on="a.b", name="method")(thing.method)
        app.agent(on="a.b", name="partial")(functools.partial(Handler.method, thing))
        app.agent(on="a.b", name="decorated")(counted(numbered))
    assert [agent.name for agent in app.agents] == ["object", "method", "partial", "decorated"]


MODULE = """
import functools
from pipeline import Event
from shop_of_names import app

def counted(limit):
    def decorate(function):
        @functools.wraps(function)
        def wrapper(data):
            return function(data)
        wrapper.limit = limit
        return wrapper
    return decorate

class Handler:
    def __call__(self, data): ...

@app.agent(on="a.b")
@counted(object())
def decorated(data): ...

app.agent(on="a.b", name="lambda")(lambda data: None)
app.agent(on="a.b", name="object")(Handler())
left, right = (app.agent(name=name)(lambda data: None) for name in ("left", "right"))
app.join("pair", on="a.b", agents=[left, right], emits="pair.done")
app.schedule("tick", 60, "tick.tock", {"n": 1})

@app.projection(on="a.b")
def model(event, session): ...
"""


def test_a_module_that_is_imported_again_declares_everything_anew(
    app: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = ModuleType("shop_of_names")
    shop.app = app  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "shop_of_names", shop)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "agents_of_names.py").write_text(MODULE)
    module = importlib.import_module("agents_of_names")
    before = {agent.name: agent for agent in app.agents}
    importlib.reload(module)
    assert list(before) == [agent.name for agent in app.agents]
    assert not any(before[agent.name] is agent for agent in app.agents)
    (tmp_path / "others_of_names.py").write_text(MODULE)
    with pytest.raises(InvalidAgent, match=r"agents_of_names\.decorated .* and by others_of_names\.decorated"):
        importlib.import_module("others_of_names")


# -- joins and schedules


def test_two_joins_of_one_name_are_refused(app: Pipeline) -> None:
    agents = {name: app.agent(name=name)(lambda data: None) for name in ("left", "right", "third")}
    first = None
    for members, emits in (
        (("left", "right"), "one.done"),
        (("left", "third"), "one.done"),
        (("left", "right"), "two.done"),
    ):
        declare = functools.partial(app.join, "pair", on="a.b", agents=[agents[name] for name in members], emits=emits)
        if first is None:
            first = declare()
        else:
            with pytest.raises(InvalidAgent, match=f"agent name 'pair' {TWICE}"):
                declare()
    assert app.agents["pair"] is first


def test_a_join_and_an_agent_of_one_name_are_refused(app: Pipeline) -> None:
    members = [app.agent(name=name)(lambda data: None) for name in ("left", "right")]
    app.join("pair", on="a.b", agents=iter(members), emits="pair.done")
    with pytest.raises(InvalidAgent, match=TWICE):
        app.agent(on="a.b", name="pair")(lambda data: None)


def test_two_schedules_of_one_name_are_refused_and_both_places_named(app: Pipeline) -> None:
    def declare(number: int) -> None:
        app.schedule("tick", 60, "tick.tock", {"n": number})

    declare(1)
    declare(1)
    with pytest.raises(InvalidAgent, match=r"'tick' is declared twice: by .*test_names\.py:\d+\) and by .*test_names"):
        declare(2)
    assert app.schedules["tick"][2] == {"n": 1}


def test_two_projections_under_one_decorator_are_refused(app: Pipeline) -> None:
    app.projection(on="a.b", name="model")(counted(handler_in("stock")))
    with pytest.raises(InvalidAgent, match=r"'model' is used twice: by stock\.handle .* and by billing\.handle"):
        app.projection(on="a.b", name="model")(counted(handler_in("billing")))
