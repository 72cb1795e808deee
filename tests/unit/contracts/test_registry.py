"""The registry: which types an app knows, what is published under them, and how other versions are read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline import Context, Event, InvalidAgent, InvalidEvent, Payload, Pipeline
from pipeline.agents.agent import Agent
from pipeline.agents.payloads import payload_of
from pipeline.contracts.newer import NewerMajor
from pipeline.contracts.registry import payloads_in
from pipeline.core.errors import ConfigError
from pipeline.core.event import new_event
from pipeline.families import TaskCompleted
from tests.records import make_app

Data = dict[str, Any]


class Placed(Payload, type="order.placed", version="1.2.0"):
    order_id: str
    total: float = 0.0


class PlacedNow(Placed, version="2.0.0"):
    currency: str


class Paid(Payload, type="order.paid"):
    order_id: str


class View(Payload):
    order_id: str


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Pipeline]:
    one = make_app(f"sqlite:///{tmp_path / 'ledger.db'}", tmp_path, agents=False)
    yield one
    one.close()


def event(version: str, data: Any, type: str = "order.placed") -> Event:
    return new_event(type, data, source="/t", version=version)


def read(app: Pipeline, version: str, data: Any, payload: Any = PlacedNow) -> Any:
    """Return what an agent that takes `payload` is called with."""

    agent = Agent("reader", handler=print, payload=payload)
    return payload_of(agent, event(version, data), app.bus.types)


# -- what is known


def test_what_agents_take_listen_to_and_return_is_known_and_what_joins_and_schedules_publish(app: Pipeline) -> None:
    class Due(Payload, type="digest.due"): ...

    class Both(Payload, type="both.done", version="3.0.0"): ...

    @app.agent(on=Placed)
    def one(data: dict) -> Paid | None: ...

    @app.agent(on="order.#")
    def two(data: TaskCompleted | View, ctx: Context) -> list[PlacedNow]: ...

    app.schedule("digest", 60, Due())
    app.join("both", on="order.placed", agents=[one, two], emits=Both)
    known = {name: [str(version) for version in app.types.versions(name)] for name in app.types}
    assert known == {
        "both.done": ["3.0.0"],
        "digest.due": ["1.0.0"],
        "order.paid": ["1.0.0"],
        "order.placed": ["1.2.0", "2.0.0"],
        "task.completed": ["2.0.0"],
    }


def test_classes_are_found_in_annotations_of_any_form() -> None:
    assert payloads_in(Placed | Paid | None, list[Paid], "Placed", View, None) == (Placed, Paid)


def test_a_type_that_is_not_known_is_answered_with_the_nearest_one(app: Pipeline) -> None:
    app.types.add(Placed)
    with pytest.raises(InvalidEvent, match=r"did you mean 'order.placed'?"):
        app.types.versions("order.place")


@pytest.mark.parametrize("wrong", [View, str, "order.placed", Paid(order_id="A1")])
def test_what_has_no_event_type_cannot_be_added(app: Pipeline, wrong: Any) -> None:
    with pytest.raises(InvalidEvent, match="is no Payload class with an event type"):
        app.types.add(wrong)


def test_a_mode_is_one_of_four_and_one_for_each_type(app: Pipeline) -> None:
    with pytest.raises(InvalidEvent, match=r"did you mean 'forward'?"):
        app.types.add(Placed, mode="forwards")  # type: ignore[arg-type]
    app.types.add(Placed, PlacedNow, mode="full")
    assert (app.types.mode("order.placed"), app.types.mode("order.paid")) == ("full", "backward")
    with pytest.raises(InvalidEvent, match=r"order.placed is declared 'none' and 'full'"):
        app.types.add(Placed, mode="none")


# -- what is published


def test_data_that_is_published_under_an_added_type_has_to_fit_its_newest_class_and_is_of_its_version(
    app: Pipeline,
) -> None:
    app.types.add(PlacedNow, Placed)
    with pytest.raises(InvalidEvent, match=r"order.placed 2.0.0 does not validate: currency: Field required"):
        app.publish("order.placed", {"order_id": "A1"})
    sent = app.publish("order.placed", {"order_id": "A1", "currency": "EUR"})
    assert sent.schema_version == "2.0.0"
    assert app.publish("order.other", {}).schema_version == "1.0.0"


def test_data_without_a_class_is_of_the_newest_version_whoever_publishes_it(app: Pipeline) -> None:
    @app.agent(on=PlacedNow)
    def billing(order: PlacedNow) -> None: ...

    data = {"order_id": "A1", "currency": "EUR"}
    assert app.publish("order.placed", data).schema_version == "2.0.0"
    assert app.publish_many([("order.placed", data)])[0].schema_version == "2.0.0"
    context = Context(event("1.0.0", {}), "billing", "d", 1, "/t", None, types=app.bus.types)
    assert context.publish("order.placed", data).schema_version == "2.0.0"
    assert context.publish(Placed(order_id="A1")).schema_version == "1.2.0", "a class says its own version"


def test_an_agent_with_an_older_class_in_the_same_app_does_not_keep_anybody_from_publishing(app: Pipeline) -> None:
    @app.agent(on=Placed)
    def old(order: Placed) -> None: ...

    @app.agent(on=PlacedNow)
    def new(order: PlacedNow) -> None: ...

    assert app.publish("order.placed", {"order_id": "A1", "currency": "EUR"}).schema_version == "2.0.0"


# -- what is read


def euro(data: Data) -> Data:
    data["currency"] = "EUR"  # the data is the function's own
    return data


def test_older_data_is_read_through_the_upcasters_and_the_event_stays_as_it_was(app: Pipeline) -> None:
    app.upcaster("order.placed", "1.0.0", "2.0.0")(euro)
    old = {"order_id": "A1", "total": 3}
    order = read(app, "1.2.0", old)
    assert order == PlacedNow(order_id="A1", total=3.0, currency="EUR")
    assert old == {"order_id": "A1", "total": 3}


def test_the_result_of_a_task_of_version_1_is_read_as_that_of_version_2(app: Pipeline) -> None:
    @app.agent(on=TaskCompleted)
    def report(done: TaskCompleted) -> None: ...

    @app.upcaster("task.completed", "1.0.0", "2.0.0")
    def with_status(data: Data) -> Data:
        return {**data, "result": {"status": "success", "output": data["result"], "metrics": None}}

    old = event("1.0.0", {"task_id": "t1", "result": [1, 2]}, type="task.completed")
    done = payload_of(report, old, app.bus.types)
    assert (done.result.status, done.result.output) == ("success", [1, 2])
    new = TaskCompleted(
        task_id="t1", result={"status": "success", "output": "x", "metrics": {"duration_ms": 7.5, "tokens_used": 3}}
    )
    assert payload_of(report, new_event(new, source="/t"), app.bus.types) == new


@pytest.mark.parametrize("version", ["1.2.0", "1.2.9", "1.7.0"])
def test_a_newer_minor_version_is_read_as_it_is(app: Pipeline, version: str) -> None:
    order = read(app, version, {"order_id": "A1", "gift": True}, Placed)
    assert order == Placed(order_id="A1")


def test_an_older_minor_version_needs_no_upcaster_and_takes_one_that_is_there(app: Pipeline) -> None:
    assert read(app, "1.0.0", {"order_id": "A1"}, Placed).total == 0.0
    app.upcaster("order.placed", "1.0.0", "1.2.0")(lambda data: {**data, "total": 7.0})
    assert read(app, "1.0.0", {"order_id": "A1"}, Placed).total == 7.0
    assert read(app, "1.2.0", {"order_id": "A1"}, Placed).total == 0.0


def test_a_newer_major_version_is_not_read(app: Pipeline) -> None:
    with pytest.raises(NewerMajor, match=r"its version is 2.0.0, this worker's class is 1.2.0"):
        read(app, "2.0.0", {"order_id": "A1", "currency": "EUR"}, Placed)


def test_an_older_major_version_without_a_chain_is_refused_with_the_step_that_is_missing(app: Pipeline) -> None:
    with pytest.raises(InvalidEvent) as caught:
        read(app, "1.0.0", {"order_id": "A1", "currency": "EUR"})
    assert "order.placed for agent 'reader'" in str(caught.value)
    assert '@app.upcaster("order.placed", "1.0.0", "2.0.0")' in str(caught.value)


def test_an_agent_that_takes_two_major_versions_gets_each_as_it_is(app: Pipeline) -> None:
    both = PlacedNow | Placed
    assert read(app, "1.0.0", {"order_id": "A1"}, both) == Placed(order_id="A1")
    assert type(read(app, "2.0.0", {"order_id": "A1", "currency": "EUR"}, both)) is PlacedNow
    with pytest.raises(NewerMajor, match=r"this worker's class is 2.0.0"):
        read(app, "3.0.0", {"order_id": "A1"}, both)
    app.upcaster("order.placed", "0.1.0", "1.0.0")(lambda data: {"order_id": data["id"]})
    app.upcaster("order.placed", "1.0.0", "2.0.0")(euro)
    assert read(app, "0.1.0", {"id": "A1"}, both) == PlacedNow(order_id="A1", currency="EUR"), "what is older still"


@pytest.mark.parametrize("payload", [View, dict, None, Paid])
def test_what_is_not_of_the_events_type_has_no_version_to_keep_to(app: Pipeline, payload: Any) -> None:
    assert read(app, "9.0.0", {"order_id": "A1"}, payload) is not None
    assert read(app, "anything", {"order_id": "A1"}, payload) is not None


def test_a_version_that_is_none_is_refused_with_the_fields_name(app: Pipeline) -> None:
    with pytest.raises(InvalidEvent, match="schemaversion: 'two' is not a semantic version"):
        read(app, "two", {"order_id": "A1"})


def test_data_that_does_not_validate_after_its_upcasters_is_refused_with_the_fields_name(app: Pipeline) -> None:
    app.upcaster("order.placed", "1.0.0", "2.0.0")(lambda data: data)
    with pytest.raises(InvalidEvent, match="currency: Field required"):
        read(app, "1.0.0", {"order_id": "A1"})
    with pytest.raises(InvalidEvent, match="Input should be an object"):
        read(app, "1.0.0", ["no", "object"])


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda data: data["curency"], "KeyError: 'curency'"),
        (lambda data: None, "it returned a NoneType, and has to return the data as a dict"),
        (lambda data: {**data, "at": object()}, "is not JSON serializable"),
    ],
)
def test_an_upcaster_that_fails_is_named_with_its_step_and_its_error(app: Pipeline, function: Any, said: str) -> None:
    app.upcaster("order.placed", "1.0.0", "2.0.0")(function)
    with pytest.raises(InvalidEvent) as caught:
        read(app, "1.0.0", {"order_id": "A1"})
    assert "the upcaster of order.placed from 1.0.0 to 2.0.0" in str(caught.value)
    assert "test_registry.py" in str(caught.value)
    assert said in str(caught.value)


def test_a_decorated_upcaster_stays_the_function_that_it_is(app: Pipeline) -> None:
    assert app.upcaster("order.placed", "1.0.0", "2.0.0")(euro) is euro


def test_what_is_wrong_as_a_whole_is_one_error(app: Pipeline) -> None:
    app.types.check()
    app.upcaster("order.placed", "1.0.0", "2.0.0")(euro)
    with pytest.raises(ConfigError, match=r"of order.placed from 1.0.0 to 2.0.0 .* a type that no class here has"):
        app.types.check()
    app.types.add(PlacedNow)
    app.types.check()


def test_an_agents_name_is_still_its_own(app: Pipeline) -> None:
    with pytest.raises(InvalidAgent, match="generator"):

        @app.agent(on=Placed)
        def wrong(order: Placed) -> Iterator[Paid]:
            yield Paid(order_id="A1")
