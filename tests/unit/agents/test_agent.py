"""Declaring agents: what is wrong is said at once, with a hint."""

from __future__ import annotations  # so that annotations are text, as in most programs

import functools
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline import Context, Event, InvalidAgent, InvalidEvent, InvalidPattern, Payload, Pipeline, Retry
from pipeline.agents.agent import Agent, Agents
from pipeline.agents.declare import declare
from pipeline.agents.effects import NOTHING
from pipeline.agents.payloads import returned_payloads
from pipeline.core.event import new_event
from pipeline.core.ids import caused_id, delivery_id


class Order(Payload, type="order.created"):
    n: int


class Invoice(Payload, type="invoice.sent"):
    n: int


class Abstract(Payload):
    n: int


@pytest.fixture
def app(tmp_path: Path) -> Pipeline:
    return Pipeline("test", directory=tmp_path)


def context(event: Event | None = None, priority: int | None = None) -> Context:
    event = event or new_event(Order(n=1), source="/test", priority=2)
    return Context(event, "alpha", delivery_id(event.id, "alpha"), 1, "/test/agent/alpha", priority)


# -- what a declaration means


def test_the_payload_class_comes_from_the_annotation() -> None:
    def handle(order: Order) -> None: ...

    assert declare(handle, on=Order).payload is Order


def test_a_handler_may_take_the_event_itself() -> None:
    def handle(event: Event, ctx: Context) -> None: ...

    found = declare(handle, on="#")
    assert (found.wants_event, found.wants_context, found.payload) == (True, True, None)


@pytest.mark.parametrize("annotation", [Any, object])
def test_a_handler_that_takes_anything_gets_the_data_as_it_is(annotation: Any) -> None:
    def handle(data: Any) -> None: ...

    handle.__annotations__["data"] = annotation
    assert declare(handle, on="#").payload is None


def test_a_handler_without_annotations_gets_the_data_and_the_context() -> None:
    def handle(data, ctx) -> None: ...  # type: ignore[no-untyped-def]

    found = declare(handle, on="#")
    assert (found.payload, found.wants_event, found.wants_context) == (None, False, True)


def test_a_context_is_passed_only_to_a_handler_that_takes_one() -> None:
    def alone(order: Order) -> None: ...
    def both(order: Order, ctx: Context) -> None: ...

    assert [declare(handler, on=Order).wants_context for handler in (alone, both)] == [False, True]


def test_async_handlers_are_recognised_however_they_are_written() -> None:
    async def function(data: Any) -> None: ...
    def sync(data: Any) -> None: ...

    class Callable_:  # noqa: N801
        async def __call__(self, data: Any) -> None: ...

    @functools.wraps(function)
    def decorated(data: Any) -> Any:
        return function(data)

    handlers = {"function": function, "partial": functools.partial(function), "object": Callable_(), "sync": sync}
    handlers["decorated"] = decorated
    found = {name: declare(handler, on="#", name=name).is_async for name, handler in handlers.items()}
    assert found == {"function": True, "partial": True, "object": True, "sync": False, "decorated": True}


def test_patterns_come_from_text_and_payload_classes_each_once() -> None:
    def handle(data: Any) -> None: ...

    found = declare(handle, on=["task.*", Order, "order.created", "task.*"])
    assert found.patterns == ("task.*", "order.created")
    assert found.matches("task.done")
    assert found.matches("order.created")
    assert not found.matches("order.paid")


def test_an_agent_without_patterns_is_for_joins_and_canvases() -> None:
    def handle(data: Any) -> None: ...

    assert declare(handle).patterns == ()
    assert not declare(handle).matches("task.done")


def test_the_name_is_the_functions_or_the_one_given() -> None:
    def handle(data: Any) -> None: ...

    assert declare(handle, on="#").name == "handle"
    assert declare(handle, on="#", name="other-1_x").name == "other-1_x"


def test_retry_is_a_policy_a_number_or_the_default() -> None:
    def handle(data: Any) -> None: ...

    policy = Retry(max=7, base=2)
    found = [declare(handle, on="#", retry=retry).retry for retry in (None, 0, 5, policy)]
    assert found == [Retry(), Retry(max=0), Retry(max=5), policy]


def test_an_agent_can_be_called_like_the_function_it_decorates(app: Pipeline) -> None:
    @app.agent(on=Order)
    def double(order: Order) -> int:
        return order.n * 2

    assert double(Order(n=4)) == 8
    assert isinstance(double, Agent)


def test_an_agent_knows_its_celery_signature(app: Pipeline) -> None:
    @app.agent(on=Order)
    def handle(order: Order) -> None: ...

    event = new_event(Order(n=1), source="/test")
    assert handle.s(event).task == "agent.handle"
    assert Event.model_validate(handle.s(event).args[0]) == event
    with pytest.raises(InvalidAgent, match="belongs to no app"):
        declare(lambda data: None, name="loose").s(event)


# -- what is refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"retry": "often"}, "agent 'handle': retry='often' is neither a Retry"),
        ({"retry": True}, "retry=True is neither"),
        ({"retry": 1.5}, "retry=1.5 is neither"),
        ({"rate_limit": "often"}, "rate_limit='often' is not a rate such as '10/s'"),
        ({"rate_limit": "10/d"}, "rate_limit='10/d'"),
        ({"timeout": 0}, "timeout=0 must be more than 0 seconds"),
        ({"timeout": float("nan")}, "timeout=nan"),
        ({"timeout": "5"}, "timeout='5'"),
        ({"priority": 0}, "priority=0 must be between 1"),
        ({"priority": 11}, "priority=11"),
        ({"priority": 2.5}, "priority=2.5"),
        ({"name": "Upper"}, "'Upper' is not an agent name"),
        ({"name": "a.b"}, "'a.b' is not an agent name"),
        ({"name": "a" * 64}, "is not an agent name"),
        ({"on": 5}, "on=5 is neither a topic pattern nor a Payload class"),
        ({"on": [Order, None]}, "on=None is neither"),
        ({"on": Abstract}, "Abstract.* is neither a topic pattern nor a Payload class with a type"),
        ({"on": int}, "is neither"),
        ({"timout": 3}, "@agent has no option 'timout'; did you mean 'timeout'?"),
        ({"zzz": 3}, "@agent has no option 'zzz'; known: batch, breaker, capability, debounce"),
    ],
)
def test_a_wrong_option_is_named_with_a_hint(app: Pipeline, options: dict[str, Any], message: str) -> None:
    def handle(data: Any) -> None: ...

    with pytest.raises(InvalidAgent, match=message):
        app.agent(**{"on": "a.b", **options})(handle)
    assert len(app.agents) == 0


def test_a_wrong_pattern_is_named_with_its_agent() -> None:
    with pytest.raises(InvalidPattern, match=r"agent 'handle': 'a\.\.b' is not a topic pattern"):
        declare(lambda data: None, on="a..b", name="handle")


def keyword_only(data: Any, *, ctx: Context) -> None: ...
def three(data: Any, ctx: Context, more: int) -> None: ...
def nothing() -> None: ...
def variable(*data: Any) -> None: ...
def wrong_context(data: Any, ctx: int) -> None: ...
def context_alone(ctx: Context) -> None: ...
def unresolvable(data: Nowhere) -> None: ...  # type: ignore[name-defined]  # noqa: F821


def generator(data: Any) -> Iterator[int]:
    yield 1


async def async_generator(data: Any) -> AsyncIterator[int]:
    yield 1


@pytest.mark.parametrize(
    ("handler", "message"),
    [
        (keyword_only, "it takes "),
        (three, "it takes "),
        (nothing, r"it takes \(\)"),
        (variable, "it takes "),
        (wrong_context, "second parameter 'ctx' is not annotated as Context"),
        (context_alone, "the payload comes first"),
        (unresolvable, "annotation cannot be resolved .*Nowhere"),
        (generator, "call ctx.publish"),
        (async_generator, "call ctx.publish"),
        (5, "5 is not a function"),
    ],
)
def test_a_handler_that_could_not_be_called_is_refused_with_the_right_signature(handler: Any, message: str) -> None:
    with pytest.raises(InvalidAgent, match=rf"write `def handle\(payload: SomePayload\)`.*{message}"):
        declare(handler, on="a.b", name="handle")


def test_an_annotation_that_data_cannot_be_validated_into_is_refused() -> None:
    class Opaque: ...

    def handle(data: Any) -> None: ...

    handle.__annotations__["data"] = Opaque
    with pytest.raises(InvalidAgent, match=r"cannot be validated into .*Opaque.*; use a Payload class"):
        declare(handle, on="a.b")


# -- the registry


def test_a_name_used_twice_names_both_places(app: Pipeline) -> None:
    app.agent(on="a.b", name="same")(lambda data: None)
    with pytest.raises(InvalidAgent, match=r"'same' is used twice: by .*test_agent\.py:\d+\) and by .*pass name='...'"):
        app.agent(on="a.b", name="same")(lambda data: None)


def test_agents_declared_in_a_loop_need_names_of_their_own(app: Pipeline) -> None:
    def subscribe(pattern: str) -> None:
        @app.agent(on=pattern)
        def handle(data: Any) -> None: ...

    subscribe("a.x")
    with pytest.raises(InvalidAgent, match="'handle' is used twice"):
        subscribe("b.x")
    assert app.agents["handle"].patterns == ("a.x",)


def test_a_module_that_is_imported_again_declares_its_agents_anew(app: Pipeline) -> None:
    def module() -> Agent:
        @app.agent(on="a.b")
        def handle(data: Any) -> None: ...

        return handle

    first, second = module(), module()
    assert first is not second
    assert app.agents["handle"] is second
    assert len(app.agents) == 1


def test_an_agent_that_is_not_declared_is_answered_with_the_nearest_name(app: Pipeline) -> None:
    app.agent(on="a.b", name="research")(lambda data: None)
    assert "research" in app.agents
    assert [agent.name for agent in app.agents] == ["research"]
    with pytest.raises(InvalidAgent, match="no agent is called 'reserch'; did you mean 'research'"):
        app.agents["reserch"]
    with pytest.raises(InvalidAgent, match="none is known"):
        Agents()["any"]


# -- the context


def test_a_context_emits_events_that_its_event_caused() -> None:
    ctx = context()
    first, second = ctx.publish(Invoice(n=1)), ctx.publish("audit.done", {"n": 2}, subject="s", targets=("beta",))
    assert ctx.effects().events == (first, second)
    assert [one.id for one in ctx.effects().events] == [caused_id(ctx.delivery_id, position) for position in (0, 1)]
    for one in ctx.effects().events:
        assert (one.causation_id, one.correlation_id, one.hops) == (ctx.event.id, ctx.event.correlation_id, 1)
        assert one.source == "/test/agent/alpha"
    assert (second.subject, second.targets) == ("s", ("beta",))


@pytest.mark.parametrize(("given", "agents", "expected"), [(None, None, 2), (None, 7, 7), (9, 7, 9), (1, None, 1)])
def test_an_emitted_events_priority_is_given_or_the_agents_or_inherited(
    given: int | None, agents: int | None, expected: int
) -> None:
    assert context(priority=agents).publish("a.b", priority=given).priority == expected


@pytest.mark.parametrize("emit", [lambda ctx: ctx.publish("no type"), lambda ctx: ctx.publish("a.b", priority=0)])
def test_a_context_refuses_a_wrong_event_at_once(emit: Callable[[Context], Event]) -> None:
    ctx = context()
    with pytest.raises(InvalidEvent):
        emit(ctx)
    assert ctx.effects() == NOTHING


# -- what handlers return


def test_what_a_handler_may_return_becomes_payloads() -> None:
    one, two = Order(n=1), Invoice(n=2)
    found = [returned_payloads("a", result) for result in (None, one, [one, two], (two,), [])]
    assert found == [(), (one,), (one, two), (two,), ()]


@pytest.mark.parametrize("result", [5, "a.b", {"n": 1}, [Order(n=1), None], True])
def test_anything_else_a_handler_returns_is_refused_by_name(result: object) -> None:
    with pytest.raises(
        InvalidEvent, match=r"agent 'alpha' returned a .*; return None, a Payload or a list of Payloads"
    ):
        returned_payloads("alpha", result)
