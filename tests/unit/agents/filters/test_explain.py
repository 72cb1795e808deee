"""Why a filter matches or not, and what it asks for that is never there."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Literal

import pytest
from pydantic import ConfigDict, Field
from typing_extensions import TypedDict

from pipeline import Payload
from pipeline.agents.declare import declare
from pipeline.agents.filters import check_kinds, check_paths, parse
from tests.filters import event


def explained(where: Any, on: Any = None) -> list[dict[str, Any]]:
    return [each.as_data() for each in parse(where).explain(on or event())]


def test_each_condition_is_explained_with_its_result_its_value_and_the_fields_that_exist() -> None:
    assert explained(
        "(user.name = ada AND user.age > 30) OR type = x", event({"user": {"name": "Ada"}}, time=None)
    ) == [
        {"text": "payload.user.name = 'ada'", "result": "true", "value": "Ada", "fields": ["name"]},
        {"text": "payload.user.age > 30", "result": "missing", "value": None, "fields": ["name"]},
        {
            "text": "event.type = 'x'",
            "result": "false",
            "value": "alert.raised",
            "fields": ["correlationid", "hops", "id", "priority", "source", "specversion", "type"],
        },
    ]


def test_an_error_is_explained_with_its_reason() -> None:
    (found,) = explained("symbol > 3")
    assert found["result"] == "error"
    assert found["value"] == "AAPL"
    assert found["error"] == "a text cannot be compared with a number"


def test_a_condition_under_not_is_explained_as_it_counts() -> None:
    assert [(each["text"], each["result"]) for each in explained("NOT (symbol = AAPL OR NOT gone = 1)")] == [
        ("NOT (payload.symbol = 'AAPL')", "false"),
        ("payload.gone = 1", "missing"),
    ]


def test_fields_are_those_where_the_path_stops_to_exist() -> None:
    (found,) = explained("user.address.city = x")
    assert found["fields"] == ["ip", "name"]
    (found,) = explained("usr.name = x", event({"user": 1, "order": 2}))
    assert found["fields"] == ["order", "user"]
    (found,) = explained("items.prize = 5")
    assert found["fields"] == ["notes", "price", "sku"]
    (found,) = explained("metadata.session = x", event(metadata='{"session_id": "s1"}'))
    assert found["fields"] == ["session_id"]
    (found,) = explained("metadata.session = x", event(metadata="{"))
    assert (found["result"], found["fields"]) == ("error", [])


def test_the_fields_of_two_are_explained_by_the_one_that_is_missing() -> None:
    (found,) = explained("volume > 1.5 * user.average")
    assert found["value"] == {"payload.volume": 1600, "payload.user.average": None}
    assert found["fields"] == ["ip", "name"]


def test_at_most_fifty_names_are_shown() -> None:
    (found,) = explained("gone = 1", event({f"f{number}": 1 for number in range(100)}))
    assert len(found["fields"]) == 50


def test_an_event_that_is_none_is_explained_too() -> None:
    (found,) = [each.as_data() for each in parse("a = 1").explain(None)]  # type: ignore[arg-type]
    assert (found["result"], found["error"]) == ("error", "AttributeError")


@pytest.mark.parametrize(
    "text",
    [
        r"payload.a = 'O\'H\\x'",
        "payload.b IN (1, true, null, 'x')",
        "EXISTS payload.c",
        "payload.d LIKE 'x%'",
        "payload.a.`b c` > 5",
        "event.time > '2026-01-31T09:30:00Z'",
        "payload.a > 2 * (payload.b + 1)",
    ],
)
def test_the_text_of_a_condition_is_a_filter(text: str) -> None:
    (found,) = parse(text).explain(event())
    assert found.text == text


# -- paths that no event can have


class Address(Payload):
    city: str


@dataclass
class Point:
    x: int


class Extra(TypedDict):
    note: str


class Order(Payload, type="filters.order"):
    order_id: str
    address: Address
    other: Address | None = None
    lines: list[Address] = []
    point: Point | None = None
    extra: Extra | None = None
    numbers: dict[str, Address] = {}
    anything: Any = None
    kind: Literal["a", "b"] = "a"
    named: int = Field(default=1, alias="Named")
    parent: Order | None = None


class Open(Payload, type="filters.open"):
    model_config = ConfigDict(extra="allow")
    a: int


@pytest.mark.parametrize(
    "path",
    [
        "order_id", "address.city", "other.city", "lines.city", "lines.0.city", "lines.0", "point.x", "extra.note",
        "numbers.any.city", "anything.at.all", "Named", "parent.parent.order_id", "payload", "type", "metadata.x",
    ],
)  # fmt: skip
def test_a_path_into_the_declared_payload_is_no_reason_to_warn(path: str) -> None:
    assert check_paths(parse({path: {"$exists": True}}).paths, Order) == []


@pytest.mark.parametrize(
    ("path", "warning"),
    [
        ("orderid", "payload.orderid can never exist in the declared payload: payload has the fields Named, address,"),
        (
            "address.town",
            "payload.address.town can never exist in the declared payload: payload.address has the fields city",
        ),
        ("other.town", "payload.other has the fields city"),
        ("lines.town", "payload.lines.town can never exist"),
        ("lines.0.town", "payload.lines.0 has the fields city"),
        ("numbers.any.town", "payload.numbers.any has the fields city"),
        ("order_id.x", "payload.order_id has no fields"),
        ("kind.x", "payload.kind has no fields"),
        ("named", "payload.named can never exist"),
        ("parent.nope", "payload.parent has the fields"),
    ],
)
def test_a_path_that_leaves_the_declared_payload_is_warned_of_with_the_fields_that_there_are(
    path: str, warning: str
) -> None:
    (found,) = check_paths(parse({path: {"$exists": True}}).paths, Order)
    assert warning in found


def test_nothing_is_known_of_a_payload_that_is_open_or_not_declared() -> None:
    paths = parse("whatever = 1").paths
    assert check_paths(paths) == []
    assert check_paths(paths, dict) == []
    assert check_paths(paths, Any) == []
    assert check_paths(paths, Open) == []
    assert check_paths(parse("whatever.x = 1").paths, dict[str, int]) != []


class Kinds(Payload, type="filters.kinds"):
    total: int
    price: float | None = None
    name: str = ""
    at: datetime | None = None
    done: bool = False
    amount: Decimal = Decimal(0)
    tags: list[str] = []
    sizes: list[int] = []
    lines: list[Address] = []
    address: Address | None = None
    level: Literal[1, "high"] = 1
    anything: Any = None


@pytest.mark.parametrize(
    "where",
    [
        {"total": {"$gt": 5}}, {"total": {"$lt": 5.5}}, {"price": {"$eq": None}}, {"price": 3}, {"name": {"$gt": "5"}},
        {"at": {"$gt": "2026-01-31T09:30:00Z"}}, {"done": True}, {"amount": {"$gt": "5"}}, {"tags": "a"},
        {"tags": {"$prefix": "a"}}, {"sizes": {"$in": [1, 2]}}, {"lines.city": "Bern"}, {"lines.0.city": "Bern"},
        {"address": {"$contains": "Bern"}}, {"level": "high"}, {"level": {"$gt": 1}}, {"anything": "x"},
        {"total": {"$exists": True}}, {"nowhere": "x"}, {"metadata.total": "x"}, "type=a.*",
        "$.payload[?@.total == 'x']",
    ],
)  # fmt: skip
def test_a_comparison_with_what_the_declared_field_may_have_is_no_reason_to_warn(where: Any) -> None:
    assert check_kinds(parse(where).nodes, Kinds) == []


@pytest.mark.parametrize(
    ("where", "warning"),
    [
        (
            {"data.total": {"$gt": "5"}},
            "payload.total > '5' asks for a text, but payload.total is an integer in the decl",
        ),
        ("NOT (total = '5')", "payload.total = '5' asks for a text, but payload.total is an integer"),
        ({"total": {"$in": [1, "2", None]}}, "asks for a text or null, but payload.total is an integer"),
        ({"price": "3"}, "asks for a text, but payload.price is a number or null"),
        ({"name": 5}, "payload.name = 5 asks for a number, but payload.name is a text"),
        ({"done": 1}, "asks for a number, but payload.done is a boolean"),
        ({"total": {"$prefix": "5"}}, "payload.total PREFIX '5' asks for a text, but payload.total is an integer"),
        ({"total": {"$contains": "5"}}, "asks for a text, but payload.total is an integer"),
        ({"sizes": {"$gt": "1"}}, "asks for a text, but payload.sizes is an integer"),
        ({"lines.city": 1}, "asks for a number, but payload.lines.city is a text"),
        ({"address": "Bern"}, "asks for a text, but payload.address is an object or null"),
    ],
)
def test_a_comparison_with_what_the_declared_field_never_has_is_warned_of(where: Any, warning: str) -> None:
    (found,) = check_kinds(parse(where).nodes, Kinds)
    assert warning in found
    assert check_kinds(parse(where).nodes) == []


def test_the_beginning_of_a_jsonpath_is_checked_too() -> None:
    (found,) = check_paths(parse("$.payload.lins[?@.city == 'x']").paths, Order)
    assert "payload.lins can never exist" in found


def test_an_attribute_that_is_nearly_a_known_one_is_warned_of() -> None:
    (found,) = check_paths(parse("event.corelationid = x").paths)
    assert found == "event.corelationid is no attribute that the bus knows; did you mean 'correlationid'?"
    assert check_paths(parse("event.tenant = x").paths) == []


def test_a_field_of_the_payload_that_is_looked_for_in_the_envelope_is_warned_of() -> None:
    (found,) = check_paths(parse("$.kind").paths, Order)
    assert found == "event.kind is no attribute that the bus knows; the payload has such a field: payload.kind"


def test_values_of_several_elements_and_dates_are_explained_as_json() -> None:
    it = event(time=datetime(2026, 1, 31, 9, 30, tzinfo=UTC))
    assert explained("time > '2026-01-31T09:00:00Z'", it)[0]["value"] == "2026-01-31T09:30:00Z"
    assert explained("items.notes = late")[0]["value"] == ["late"]
    assert explained("payload.items.notes = payload.symbol")[0]["value"] == {
        "payload.items.notes": ["late"],
        "payload.symbol": "AAPL",
    }


def test_an_agent_whose_filter_contradicts_its_payload_is_declared_with_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def billing(order: Kinds) -> None: ...

    declare(billing, on=Kinds, where={"data.total": {"$gt": "5"}})
    (said,) = [record.getMessage() for record in caplog.records]
    assert said == (
        "agent billing: where: payload.total > '5' asks for a text, but payload.total is an integer in the declared "
        "payload"
    )
