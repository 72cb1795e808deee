"""Fields that a class does not have: calling it refuses them; reading it ignores them, a newer version sends them."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import (
    AliasChoices,
    AliasPath,
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    create_model,
    model_validator,
)
from pydantic.version import version_short

from pipeline import Event, InvalidEvent, Payload
from pipeline.agents.declare import declare
from pipeline.agents.payloads import payload_of
from pipeline.contracts.registry import Types
from pipeline.core.event import new_event


class Address(Payload):
    street: str = ""


class Order(Payload, type="order.placed"):
    order_id: str
    to: Address = Address()
    others: list[Address] = []
    before: Order | None = None


class Careful(BaseModel):
    model_config = ConfigDict(extra="forbid")
    n: int = 0


NEWER = {
    "order_id": "A1",
    "gift": True,
    "to": {"street": "Main", "floor": 2},
    "others": [{"street": "Side", "floor": 3}],
    "before": {"order_id": "A0", "gift": False},
}
READ = Order(order_id="A1", to=Address(street="Main"), others=[Address(street="Side")], before=Order(order_id="A0"))


def received(annotation: Any, data: Any) -> Any:
    """Return what the handler of an agent gets of an event with such data."""

    def handler(payload: Any) -> None: ...

    handler.__annotations__["payload"] = annotation
    return payload_of(declare(handler, on="#"), new_event("order.placed", data, source="/test"), Types())


def test_an_agent_gets_what_its_class_knows_of_a_newer_payload_nested_ones_too() -> None:
    assert received(Order, NEWER) == READ
    assert received(list[Order], [NEWER]) == [READ]


def test_reading_by_hand_ignores_what_is_unknown_too() -> None:
    assert Order.model_validate(NEWER) == TypeAdapter(Order).validate_python(NEWER) == READ


def test_calling_a_class_refuses_a_name_that_is_no_field_and_says_which_is_nearest() -> None:
    with pytest.raises(ValidationError, match=r"Order has no such field; did you mean 'order_id'\?") as told:
        Order(order_idd="A1", order_id="A1", gift=True)  # type: ignore[call-arg]
    errors = {(one["type"], one["loc"]) for one in told.value.errors()}
    assert errors == {("extra_forbidden", ("order_idd",)), ("extra_forbidden", ("gift",))}
    with pytest.raises(ValidationError, match="Address has no such field"):
        Order(order_id="A1", to=Address(floor=2))  # type: ignore[call-arg]


def test_an_instance_of_a_class_that_adds_fields_is_refused_where_they_would_be_ignored() -> None:
    class Wide(Address):
        floor: int = 0

    with pytest.raises(InvalidEvent, match=r"Order\.to arrives as something else"):
        new_event(Order(order_id="A1", to=Wide(floor=2)), source="/test")


def test_a_model_that_forbids_what_it_does_not_know_keeps_its_rule() -> None:
    class Holding(Payload, type="careful.held"):
        model: Careful = Careful()

    class Strict(Payload, type="strict.held"):
        model_config = ConfigDict(extra="forbid")
        n: int = 0

    assert received(Holding, {"model": {"n": 1}, "more": 1}) == Holding(model=Careful(n=1))
    for annotation, data in ((Careful, {"m": 1}), (Holding, {"model": {"m": 1}}), (Strict, {"m": 1})):
        with pytest.raises(InvalidEvent, match="Extra inputs are not permitted"):
            received(annotation, data)
    with pytest.raises(ValidationError, match="Extra inputs"):
        Strict(m=1)  # type: ignore[call-arg]


def test_a_class_that_allows_other_names_keeps_them() -> None:
    class Open(Payload, type="open.held"):
        model_config = ConfigDict(extra="allow")

    assert Open(n=1).model_dump() == received(Open, {"n": 1}).model_dump() == {"n": 1}


NAMED = [
    pytest.param(Field(0, alias="theField"), None, {"theField"}, id="alias"),
    pytest.param(Field(0, alias="theField"), ConfigDict(populate_by_name=True), {"theField", "field"}, id="by name"),
    pytest.param(
        Field(0, validation_alias=AliasChoices("field", "old", AliasPath("older", 0))), None,
        {"field", "old", "older"}, id="choices",
    ),
    pytest.param(
        Field(0, validation_alias="old"), ConfigDict(validate_by_alias=False, validate_by_name=True), {"field"},
        id="no aliases", marks=pytest.mark.skipif(version_short() == "2.10", reason="2.10 has no such setting"),
    ),
]  # fmt: skip


@pytest.mark.parametrize(("field", "config", "names"), NAMED)
def test_a_field_is_known_under_the_names_that_pydantic_reads_it_by(
    field: Any, config: ConfigDict | None, names: set[str]
) -> None:
    base = type("Base", (Payload,), {"model_config": config or {}, "__module__": __name__})
    cls = create_model("Named", __base__=base, field=(int, field))
    for name in ("theField", "field", "old", "older"):
        value = [1] if name == "older" else 1
        if name in names:
            assert cls(**{name: value}).field == cls.model_validate({name: value}).field == 1  # type: ignore[attr-defined]
        else:
            with pytest.raises(ValidationError, match="no such field"):
                cls(**{name: value})


def test_a_validator_that_comes_before_the_fields_may_read_other_names() -> None:
    class Renamed(Payload, type="renamed.held"):
        new: int

        @model_validator(mode="before")
        @classmethod
        def _from_old(cls, data: Any) -> Any:
            return {"new": data["old"]} if "old" in data else data

    assert Renamed(old=1) == received(Renamed, {"old": 1}) == Renamed(new=1)  # type: ignore[call-arg]


def test_a_class_with_a_constructor_of_its_own_is_read_through_it_and_decides_itself() -> None:
    class Made(Payload, type="made.held"):
        n: int

        def __init__(self, **data: Any) -> None:
            super().__init__(**{"n": 1, **data})

    assert received(Made, {"more": 1}) == Made() == Made(n=1)


def test_a_renamed_field_is_read_under_both_names_and_sent_under_either() -> None:
    class First(Payload, type="renamed.held"):
        customer_id: str = Field(
            validation_alias=AliasChoices("customer_id", "customer"), serialization_alias="customer"
        )

    class Second(Payload, type="renamed.held"):
        customer_id: str = Field(validation_alias=AliasChoices("customer_id", "customer"))

    for sent, data in ((First(customer_id="7"), {"customer": "7"}), (Second(customer_id="7"), {"customer_id": "7"})):
        event = Event.decode(new_event(sent, source="/test").encode())
        assert event.data == data
        assert {received(cls, event.data).customer_id for cls in (First, Second)} == {"7"}
