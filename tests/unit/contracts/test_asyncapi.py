"""The AsyncAPI document: valid against the official schema, and true of the events that are published."""

from __future__ import annotations

import json
from datetime import datetime
from decimal import Decimal
from enum import Enum
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft7Validator
from pydantic import BaseModel, Field, PlainValidator, WithJsonSchema, create_model

from pipeline import Event, InvalidEvent, Payload
from pipeline.contracts.asyncapi import document, envelope
from pipeline.contracts.graph import AgentNode, ScheduleNode, System, TypeNode
from pipeline.core.event import new_event

OFFICIAL = Path(__file__).parents[2] / "data" / "asyncapi-3.0.0.json"


class Address(BaseModel):
    """Where something goes."""

    city: str
    street: tuple[str, int] = ("", 0)


class OrderPlaced(Payload, type="order.placed"):
    """Somebody has ordered something."""

    order_id: str
    address: Address | None = None


class OrderPaid(Payload, type="order.paid", version="2.1.0"):
    order_id: str
    amount: Decimal


class OrderView(BaseModel):
    order_id: str
    total: float = 0.0


PLACED, PAID = TypeNode("order.placed", OrderPlaced, "1.0.0"), TypeNode("order.paid", OrderPaid, "2.1.0")
DID = "did:web:example.com:billing"


def billing(**more: Any) -> AgentNode:
    plain: dict[str, Any] = {"patterns": ("order.placed",), "reads": (PLACED,), "sends": (PAID,), "about": "It bills."}
    return AgentNode("billing", "shop.agent.billing", **{**plain, **more})


def system(*agents: AgentNode, schedules: tuple[ScheduleNode, ...] = ()) -> System:
    return System("shop", "shop.events", agents or (billing(),), schedules)


AUDIT = AgentNode("audit", "shop.agent.audit", patterns=("#",))


@lru_cache(maxsize=1)
def official() -> Draft7Validator:
    return Draft7Validator(json.loads(OFFICIAL.read_text()))


def valid(made: dict[str, Any]) -> dict[str, Any]:
    """Return a document that the official schema accepts, as JSON has it, whose references all lead somewhere."""
    read: dict[str, Any] = json.loads(json.dumps(made))
    assert [f"{list(error.path)}: {error.message[:200]}" for error in official().iter_errors(read)] == []
    for reference in references(read):
        found = read
        for word in reference.removeprefix("#/").split("/"):
            found = found[word]
    return read


def references(part: Any) -> list[str]:
    if isinstance(part, dict):
        own = [part["$ref"]] if isinstance(part.get("$ref"), str) else []
        return own + [one for value in part.values() for one in references(value)]
    return [one for value in part for one in references(value)] if isinstance(part, list) else []


def accepts(made: dict[str, Any], key: str, event: Event | bytes) -> bool:
    """Say whether a message of the document is that of an event as it is on the wire."""
    schema = {**made["components"]["messages"][key]["payload"], "components": made["components"]}
    body = event if isinstance(event, bytes) else event.encode()
    return bool(Draft7Validator(schema).is_valid(json.loads(body)))


# -- the whole


def test_the_official_schema_is_one_that_refuses_something() -> None:
    wrong = document(system())
    wrong["channels"]["order.placed"]["bindings"]["amqp"]["is"] = "a pipe"
    assert not official().is_valid(wrong)


def test_a_document_of_everything_is_valid() -> None:
    made = valid(
        document(system(billing(did=DID), AUDIT, schedules=(ScheduleNode("daily / 7", PLACED),)), version="3.1")
    )
    assert made["asyncapi"] == "3.0.0"
    assert made["info"] == {"title": "shop", "version": "3.1"}
    assert made["defaultContentType"] == "application/cloudevents+json"


def test_an_app_without_agents_has_a_valid_document() -> None:
    assert valid(document(System("empty", "events")))["channels"] == {}


# -- channels


def test_types_and_patterns_are_routing_keys_of_the_exchange() -> None:
    channels = valid(document(system(billing(), AUDIT)))["channels"]
    exchange = {"name": "shop.events", "type": "topic", "durable": True, "autoDelete": False}
    assert {key: channel["address"] for key, channel in channels.items()} == {
        "order.placed": "order.placed",
        "order.paid": "order.paid",
        "(words)": "#",
        "queue:shop.agent.billing": "shop.agent.billing",
        "queue:shop.agent.audit": "shop.agent.audit",
    }
    for key in ("order.placed", "order.paid", "(words)"):
        assert channels[key]["bindings"]["amqp"] == {
            "is": "routingKey", "exchange": exchange, "bindingVersion": "0.3.0",
        }  # fmt: skip
    assert channels["queue:shop.agent.audit"]["bindings"]["amqp"]["queue"] == {
        "name": "shop.agent.audit", "durable": True, "exclusive": False, "autoDelete": False,
    }  # fmt: skip


def test_a_pattern_has_the_messages_of_the_types_that_it_matches() -> None:
    one_word = AgentNode("one", "q", patterns=("order.*", "*.paid"))
    channels = valid(document(system(billing(), one_word)))["channels"]
    assert list(channels["order.(word)"]["messages"]) == ["order.placed-1.0.0", "order.paid-2.1.0"]
    assert list(channels["(word).paid"]["messages"]) == ["order.paid-2.1.0"]


def test_where_no_type_is_known_any_event_may_come() -> None:
    made = valid(document(system(AUDIT)))
    assert list(made["channels"]["(words)"]["messages"]) == ["any-event"]
    assert accepts(made, "any-event", new_event("what.ever", [1, None], source="/t"))
    assert not accepts(made, "any-event", b'{"id": "1", "type": "a", "source": "/t"}')


# -- operations


def test_an_agent_receives_from_its_queue_and_from_each_pattern_and_sends_what_it_says() -> None:
    operations = valid(document(system(billing(did=DID))))["operations"]
    assert {key: (one["action"], one["channel"]["$ref"]) for key, one in operations.items()} == {
        "billing.receive": ("receive", "#/channels/queue:shop.agent.billing"),
        "billing.receive.order.placed": ("receive", "#/channels/order.placed"),
        "billing.send.order.paid-2.1.0": ("send", "#/channels/order.paid"),
    }
    received = operations["billing.receive.order.placed"]
    assert received["messages"] == [{"$ref": "#/channels/order.placed/messages/order.placed-1.0.0"}]
    assert (received["x-queue"], received["x-did"]) == ("shop.agent.billing", DID)
    assert received["description"] == "It bills."
    assert received["bindings"]["amqp"]["ack"] is True
    assert operations["billing.send.order.paid-2.1.0"]["bindings"]["amqp"]["deliveryMode"] == 2
    assert operations["billing.send.order.paid-2.1.0"]["x-agent"] == "billing"


def test_a_schedule_sends_whatever_its_name_is() -> None:
    named = AgentNode("schedule", "q", sends=(PLACED,))
    made = valid(document(system(named, schedules=(ScheduleNode("order.placed", PLACED),))))
    assert made["operations"].keys() == {
        "schedule.receive", "schedule.send.order.placed-1.0.0", "schedule:order.placed",
    }  # fmt: skip
    assert made["operations"]["schedule:order.placed"]["x-schedule"] == "order.placed"


def test_an_event_type_may_be_called_like_a_queue() -> None:
    tap = AgentNode("tap", "agent.tap", patterns=("agent.tap",))
    assert valid(document(system(tap)))["channels"].keys() == {"agent.tap", "queue:agent.tap"}


def test_a_join_names_its_members() -> None:
    join = billing(members=("stock", "credit"))
    assert valid(document(system(join)))["operations"]["billing.receive"]["x-joins"] == ["stock", "credit"]


# -- messages and schemas


def test_a_message_is_the_event_around_the_payload_with_its_version() -> None:
    made = valid(document(system()))
    placed, paid = (
        new_event(OrderPlaced(order_id="A"), source="/s"),
        new_event(OrderPaid(order_id="A", amount=1), source="/s"),
    )
    assert accepts(made, "order.placed-1.0.0", placed)
    assert accepts(made, "order.paid-2.1.0", paid)
    assert not accepts(made, "order.placed-1.0.0", paid)
    assert not accepts(made, "order.paid-2.1.0", paid.evolve(schema_version="2.0.0"))
    assert not accepts(made, "order.placed-1.0.0", new_event("order.placed", {"order": "A"}, source="/s"))
    message = made["components"]["messages"]["order.placed-1.0.0"]
    assert (message["name"], message["title"]) == ("order.placed", "OrderPlaced")
    assert message["description"] == "Somebody has ordered something."
    assert message["contentType"] == "application/cloudevents+json"


def test_another_programs_event_without_a_version_has_the_first_one() -> None:
    made = valid(document(system()))
    least = {"specversion": "1.0", "id": "1", "source": "/o", "type": "order.placed", "data": {"order_id": "A"}}
    assert accepts(made, "order.placed-1.0.0", json.dumps(least).encode())
    paid = {**least, "type": "order.paid", "data": {"order_id": "A", "amount": "1"}}
    assert not accepts(made, "order.paid-2.1.0", json.dumps(paid).encode())
    assert accepts(made, "order.paid-2.1.0", json.dumps({**paid, "schemaversion": "2.1.0"}).encode())


def test_data_fits_everybody_who_describes_it() -> None:
    view = AgentNode("view", "q", patterns=("order.placed",), reads=(TypeNode("order.placed", OrderView),))
    made = valid(document(system(billing(), view)))
    assert list(made["components"]["messages"]) == ["order.placed-1.0.0", "order.paid-2.1.0"]
    data = {"order_id": "A", "total": 9.5}
    assert accepts(made, "order.placed-1.0.0", new_event("order.placed", data, source="/s"))
    assert not accepts(made, "order.placed-1.0.0", new_event("order.placed", {**data, "total": "much"}, source="/s"))
    assert not accepts(made, "order.placed-1.0.0", new_event("order.placed", {"total": 1}, source="/s"))


def test_a_description_without_a_version_is_of_all_versions() -> None:
    view = AgentNode("view", "q", patterns=("order.paid",), reads=(TypeNode("order.paid", OrderView),))
    messages = valid(document(system(billing(), view)))["components"]["messages"]
    assert list(messages) == ["order.placed-1.0.0", "order.paid-2.1.0"]
    assert len(messages["order.paid-2.1.0"]["payload"]["allOf"][1]["properties"]["data"]["allOf"]) == 2


def test_each_version_is_a_message_of_its_own() -> None:
    old = TypeNode("order.paid", OrderView, "1.0.0")
    made = valid(document(system(billing(), AgentNode("old", "q", patterns=("order.paid",), reads=(old,)))))
    assert list(made["channels"]["order.paid"]["messages"]) == ["order.paid-2.1.0", "order.paid-1.0.0"]


def test_a_type_that_nobody_describes_may_hold_anything() -> None:
    made = valid(document(system(billing(reads=(), sends=(TypeNode("order.noted", version="1.0.0"),)))))
    for data in (None, [1], {"a": 1}):
        assert accepts(made, "order.noted-1.0.0", new_event("order.noted", data, source="/s"))


def test_the_envelope_is_the_one_that_the_bus_writes() -> None:
    cause = new_event("a", source="/s")
    event = new_event(
        "a.b", {"n": 1}, source="/s", cause=cause, subject="s", targets=("x", "y"), priority=3, metadata={"a": 1}
    )
    event = event.evolve(traceparent="00-1-2-01", tracestate="k=v")
    written = json.loads(event.encode())
    assert Draft7Validator(envelope()).is_valid(written)
    assert written.keys() == envelope()["properties"].keys()
    for name, wrong in (("priority", 11), ("id", ""), ("targets", ["x"]), ("specversion", "0.3"), ("hops", -1)):
        assert not Draft7Validator(envelope()).is_valid({**written, name: wrong}), name


def test_two_classes_of_one_name_have_schemas_of_their_own() -> None:
    one, other = (create_model("Same", __base__=Payload, n=(kind, ...)) for kind in (int, str))
    nodes = (TypeNode("a.one", one, "1.0.0"), TypeNode("a.other", other, "1.0.0"))
    made = valid(document(system(billing(reads=nodes, sends=(), patterns=("a.*",)))))
    assert accepts(made, "a.one-1.0.0", new_event("a.one", {"n": 1}, source="/s"))
    assert not accepts(made, "a.other-1.0.0", new_event("a.other", {"n": 1}, source="/s"))


def test_a_type_without_a_schema_is_named_with_the_way_out() -> None:
    class Odd:
        pass

    class Strange(BaseModel, arbitrary_types_allowed=True):
        odd: Annotated[Odd, Field()]

    with pytest.raises(
        InvalidEvent, match=r"Strange of a\.b: it has no JSON Schema \(.*annotate the field WithJsonSchema"
    ):
        document(system(billing(reads=(PLACED, TypeNode("a.b", Strange)))))


class Colour(Enum):
    RED = "red"


class Cat(BaseModel):
    kind: Literal["cat"]


class Dog(BaseModel):
    kind: Literal["dog"]
    discriminator: str = "a field may be called so"
    prefixItems: int = 1  # noqa: N815


#: Annotations of fields, each with JSON that fits.
FIELDS: list[tuple[Any, Any]] = [
    (str, "a"), (int, 1), (float, 1.5), (bool, True), (Any, [None]), (str | None, None), (list[int], [1, 2]),
    (tuple[int, str], [1, "a"]), (tuple[int, ...], [1]), (tuple[tuple[int, str], Cat], [[1, "a"], {"kind": "cat"}]),
    (dict[str, list[Address]], {"a": [{"city": "x"}]}), (Literal["a", 1], 1), (Colour, "red"), (set[int], [1]),
    (datetime, "2026-01-01T00:00:00Z"), (UUID, "12345678-1234-5678-1234-567812345678"), (Decimal, "1.5"),
    (Annotated[Cat | Dog, Field(discriminator="kind")], {"kind": "dog"}), (Annotated[int, Field(ge=1, lt=9)], 3),
    (Annotated[str, Field(pattern="^a+$", max_length=5)], "aa"), (Annotated[Any, PlainValidator(lambda v: v)], 1),
]  # fmt: skip


@given(st.lists(st.sampled_from(range(len(FIELDS))), min_size=1, max_size=5))
@settings(max_examples=60, deadline=None)
def test_whatever_fields_a_payload_has_its_document_is_valid_and_its_events_fit(chosen: list[int]) -> None:
    fields: dict[str, Any] = {f"f{n}": (FIELDS[index][0], ...) for n, index in enumerate(chosen)}
    data = {f"f{n}": FIELDS[index][1] for n, index in enumerate(chosen)}
    cls = create_model("Made", __base__=Payload, **fields)
    cls.model_validate_json(json.dumps(data))

    made = valid(document(system(billing(reads=(TypeNode("made.so", cls, "1.0.0"),), patterns=("made.so",)))))
    assert accepts(made, "made.so-1.0.0", new_event("made.so", data, source="/s"))
    assert not accepts(made, "made.so-1.0.0", new_event("made.so", {}, source="/s"))


def test_a_tuple_is_as_long_as_it_says() -> None:
    class Pair(Payload, type="pair.made"):
        pair: tuple[int, str]
        more: Annotated[Any, WithJsonSchema({"prefixItems": [{"type": "integer"}], "items": {"type": "string"}})] = (1,)

    node = TypeNode("pair.made", Pair, "1.0.0")
    made = valid(document(system(billing(reads=(node,), patterns=("pair.made",)))))
    for wrong in (["a", 1], [1], [1, "a", 2]):
        assert not accepts(made, "pair.made-1.0.0", new_event("pair.made", {"pair": wrong}, source="/s"))
    for more, fits in (([1], True), ([1, "a", "b"], True), ([1, "a", 2], False)):
        event = new_event("pair.made", {"pair": [1, "a"], "more": more}, source="/s")
        assert accepts(made, "pair.made-1.0.0", event) is fits


def test_fields_and_defaults_may_be_called_like_words_of_json_schema() -> None:
    kept = {"prefixItems": [1], "discriminator": {"a": 1}}

    class Worded(Payload, type="word.made"):
        prefixItems: int = 1  # noqa: N815
        discriminator: str
        default: dict[str, Any] = kept

    node = TypeNode("word.made", Worded, "1.0.0")
    made = valid(document(system(billing(reads=(node,), patterns=("word.made",)))))
    schema = made["components"]["schemas"]["Worded"]
    assert schema["properties"].keys() == {"prefixItems", "discriminator", "default"}
    assert schema["properties"]["default"]["default"] == kept


def test_a_class_that_several_agents_read_is_described_once() -> None:
    other = AgentNode("other", "q", patterns=("order.placed",), reads=(PLACED,))
    messages = valid(document(system(billing(), other)))["components"]["messages"]
    assert messages["order.placed-1.0.0"]["payload"]["allOf"][1]["properties"]["data"] == {
        "$ref": "#/components/schemas/OrderPlaced"
    }
