"""Payload classes: one whose payloads would not arrive as they are sent is refused when it is declared."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from ipaddress import IPv4Address
from pathlib import Path
from typing import Annotated, Any, Literal
from uuid import UUID

import pytest
from pydantic import (
    AliasChoices,
    AliasPath,
    AnyUrl,
    Base64Bytes,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Json,
    PlainSerializer,
    PrivateAttr,
    SecretBytes,
    SecretStr,
    Tag,
    computed_field,
    create_model,
    field_serializer,
    field_validator,
    model_serializer,
)
from typing_extensions import TypedDict

from pipeline import Event, InvalidEvent, Payload
from pipeline.agents.declare import declare
from pipeline.agents.payloads import payload_of
from pipeline.contracts.registry import Types
from pipeline.core.door.classes import Way, way_of
from pipeline.core.event import new_event


def arrived(payload: Payload) -> Any:
    """Return what an agent gets of a payload that was published."""

    def handler(payload: Any) -> None: ...

    handler.__annotations__["payload"] = type(payload)
    event = Event.decode(new_event(payload, source="/test").encode())
    return payload_of(declare(handler, on=type(payload)), event, Types())


def fields(model_config: ConfigDict | None = None, **given: Any) -> type[Payload]:
    """Declare a payload class with these fields."""
    base = (
        Payload
        if model_config is None
        else type("Base", (Payload,), {"model_config": model_config, "__module__": __name__})
    )
    return create_model("Made", __base__=base, __cls_kwargs__={"type": "made.up"}, **given)


class Color(Enum):
    RED = "red"
    BLUE = "blue"


class Corner(Enum):
    TOP = (0, 1)


class Point(BaseModel):
    x: int = 0
    tags: set[str] = set()


@dataclass
class Size:
    width: int


@dataclass
class Counted:
    number: int

    def __post_init__(self) -> None:
        self.number += 0


class Label(TypedDict):
    text: str


class Cat(BaseModel):
    kind: Literal["cat"] = "cat"


class Dog(BaseModel):
    kind: Literal["dog"] = "dog"


class Node(BaseModel):
    children: list[Node] = []


NOW = datetime(2026, 3, 1, 12, 30, 15, 250, tzinfo=UTC)

SAFE = [
    (str, "a"),
    (int, 1),
    (float, 1.5),
    (float, 2.0),
    (bool, True),
    (datetime, NOW),
    (date, NOW.date()),
    (time, time(1, 2)),
    (timedelta, timedelta(days=1, microseconds=1)),
    (UUID, UUID(int=3)),
    (Decimal, Decimal("1.10")),
    (Color, Color.RED),
    (Literal["a", 1], 1),
    (list[int], [1]),
    (dict[str, float], {"a": 1.0}),
    (set[str], {"a", "b"}),
    (frozenset[int], frozenset({1})),
    (tuple[int, str], (1, "a")),
    (tuple[int, ...], (1, 2)),
    (Label, {"text": "a"}),
    (str | None, None),
    (Annotated[str, Field(max_length=3)], "abc"),
]


@pytest.mark.parametrize(("annotation", "value"), SAFE)
@pytest.mark.parametrize("strict", [False, True], ids=["lax", "strict"])
def test_ordinary_fields_arrive_as_they_are_sent_and_need_no_second_look(
    annotation: Any, value: Any, strict: bool
) -> None:
    cls = fields(ConfigDict(strict=strict), value=(annotation, ...))
    sent = cls(value=value)
    assert arrived(sent) == sent
    assert way_of(cls) is Way.SAFE


BY_VALUE = [
    (Point, Point(x=1, tags={"a"})),
    (Size, Size(3)),
    (Counted, Counted(3)),
    (list[Counted], [Counted(3)]),
    (Node, Node(children=[Node()])),
    (Any, {"a": [1, None]}),
    (int | str, "1"),
    (int | str, 1),
    (bytes, b"abc"),
    (Base64Bytes, b"YWJj"),
    (Json, '{"a": 1}'),
    (AnyUrl, "https://example.org/a"),
    (IPv4Address, "127.0.0.1"),
    (Path, Path("a/b")),
    (re.Pattern, re.compile("a+")),
    (dict[int, str], {1: "a"}),
    (dict[UUID, int], {UUID(int=1): 2}),
    (Annotated[Cat | Dog, Field(discriminator="kind")], Dog()),
    (complex, 1 + 2j),
    (Annotated[int, PlainSerializer(str)], 5),
    (
        Annotated[
            Annotated[Cat, Tag("cat")] | Annotated[Dog, Tag("dog")],
            Discriminator(lambda v: v["kind"] if isinstance(v, dict) else v.kind),
        ],
        Cat(),
    ),
]


@pytest.mark.parametrize(("annotation", "value"), BY_VALUE)
def test_other_fields_arrive_too(annotation: Any, value: Any) -> None:
    sent = fields(value=(annotation, ...))(value=value)
    assert arrived(sent) == sent


class Wider(Point):
    y: int = 1


CHANGING = [
    pytest.param(Point, Wider(x=1), id="an instance of a class that adds fields"),
    pytest.param(Any, NOW, id="a time in an untyped field"),
    pytest.param(str | datetime, NOW, id="a time where a text is read"),
    pytest.param(Any, {1, 2}, id="a set in an untyped field"),
    pytest.param(Annotated[int, PlainSerializer(lambda value: value + 1)], 5, id="a serializer that counts"),
    pytest.param(Annotated[str, PlainSerializer(lambda value: [value])], "a", id="a serializer that wraps"),
    pytest.param(bytes, b"\xff", id="bytes that are no text"),
    pytest.param(Corner, Corner.TOP, id="an enum of tuples"),
]


@pytest.mark.parametrize(("annotation", "value"), CHANGING)
def test_a_value_that_would_arrive_as_something_else_is_refused_when_it_is_published(
    annotation: Any, value: Any
) -> None:
    cls = fields(value=(annotation, ...))
    with pytest.raises(InvalidEvent, match=r"payload.* Made"):
        new_event(cls(value=value), source="/test")


def test_a_value_that_would_arrive_changed_names_its_field() -> None:
    cls = fields(name=(str, "a"), value=(Annotated[int, PlainSerializer(lambda value: value + 1)], ...))
    with pytest.raises(InvalidEvent, match=r"Made\.value arrives as something else than is sent"):
        new_event(cls(value=1), source="/test")


def test_what_a_class_allows_beside_its_fields_is_looked_at_too() -> None:
    cls = fields(ConfigDict(extra="allow"), name=(str, ...))
    assert arrived(cls(name="a", more=1)) == cls(name="a", more=1)
    with pytest.raises(InvalidEvent, match="Made arrives as something else"):
        new_event(cls(name="a", more=NOW), source="/test")


def test_what_pydantic_cannot_make_json_of_is_an_invalid_event() -> None:
    with pytest.raises(InvalidEvent, match="payload Made"):
        new_event(fields(value=(Any, ...))(value=object()), source="/test")
    with pytest.raises(InvalidEvent, match="payload Made"):
        new_event(fields(value=(int, ...)).model_construct(value="no number"), source="/test")


REFUSED = [
    pytest.param(str, Field(serialization_alias="newName"), "is sent as 'newName', but read as 'value'", id="sent"),
    pytest.param(str, Field(validation_alias="old"), "is sent as 'value', but read as 'old'", id="read"),
    pytest.param(
        str, Field(validation_alias=AliasChoices("a", "b")), "is sent as 'value', but read as 'a' or 'b'", id="choices"
    ),
    pytest.param(str, Field(validation_alias=AliasPath("a", 0)), "is sent as 'value', but read as a path", id="path"),
    pytest.param(str, Field(exclude=True), "it is excluded", id="excluded"),
    pytest.param(str, Field(default="", exclude=True), "it is excluded", id="excluded with a default"),
    pytest.param(SecretStr, ..., "a secret is sent as asterisks", id="secret"),
    pytest.param(SecretBytes | None, None, "a secret is sent as asterisks", id="secret bytes"),
    pytest.param(list[SecretStr], ..., "a secret is sent as asterisks", id="secrets in a list"),
    pytest.param(Callable[[], int], ..., "a function is no JSON", id="function"),
    pytest.param(Literal[Color.RED], ..., "JSON has no member of an enum", id="a member of an enum"),
    pytest.param(type[int], ..., "a class is no JSON", id="class"),
    pytest.param(Iterable[int], ..., "an iterator is read only once", id="iterator"),
]


@pytest.mark.parametrize(("annotation", "field", "message"), REFUSED)
def test_a_field_that_never_arrives_is_refused_when_the_class_is_declared(
    annotation: Any, field: Any, message: str
) -> None:
    with pytest.raises(InvalidEvent, match=r"payload field Made\.value: ") as caught:
        fields(value=(annotation, field))
    assert message in str(caught.value)


def test_a_field_within_a_field_is_refused_too() -> None:
    class Inner(BaseModel):
        name: str = Field(serialization_alias="newName")

    with pytest.raises(InvalidEvent, match=r"payload field Inner\.name: .* 'newName'"):
        fields(value=(dict[str, list[Inner | None]], ...))

    @dataclass
    class Data:
        name: str = Field(serialization_alias="newName")  # type: ignore[assignment]

    with pytest.raises(InvalidEvent, match=r"payload field Data\.name: .* 'newName'"):
        fields(value=(Data, ...))


def test_an_object_that_pydantic_does_not_know_is_refused() -> None:
    class Thing: ...

    with pytest.raises(InvalidEvent, match=r"payload field Made\.value: pydantic makes no such object of JSON"):
        fields(ConfigDict(arbitrary_types_allowed=True), value=(Thing, ...))


def test_names_that_are_sent_and_read_alike_are_accepted() -> None:
    both = fields(value=(str, Field(alias="theValue")))
    chosen = fields(value=(str, Field(serialization_alias="a", validation_alias=AliasChoices("b", "a"))))
    by_name = fields(ConfigDict(populate_by_name=True), value=(str, Field(validation_alias="old")))
    made = fields(ConfigDict(alias_generator=str.upper), value=(str, ...))
    for sent in (both(theValue="x"), chosen(a="x"), by_name(value="x"), made(VALUE="x")):
        assert arrived(sent) == sent


def test_what_is_computed_or_private_is_no_part_of_a_payload() -> None:
    class Area(Payload, type="area.measured"):
        side: int
        _cache: int = PrivateAttr(default=0)

        @computed_field  # type: ignore[prop-decorator]
        @property
        def size(self) -> int:
            return self.side**2

    assert arrived(Area(side=3)).size == 9


def test_serializers_and_validators_that_fit_together_are_accepted() -> None:
    class Joined(Payload, type="names.joined"):
        names: list[str]

        @field_validator("names", mode="before")
        @classmethod
        def _split(cls, value: Any) -> Any:
            return value.split(",") if isinstance(value, str) else value

        @field_serializer("names")
        def _join(self, value: list[str]) -> str:
            return ",".join(value)

    assert arrived(Joined(names=["a", "b"])) == Joined(names=["a", "b"])
    with pytest.raises(InvalidEvent, match=r"Joined\.names arrives as something else"):
        new_event(Joined(names=["a,b"]), source="/test")


def test_a_class_that_is_sent_as_something_else_is_refused_when_it_is_published() -> None:
    class Folded(Payload, type="folded"):
        n: int

        @model_serializer
        def _fold(self) -> str:
            return str(self.n)

    with pytest.raises(InvalidEvent, match="what Folded is sent as, Folded does not read"):
        new_event(Folded(n=1), source="/test")


def test_a_class_that_names_a_later_one_is_checked_when_that_is_there() -> None:
    class Early(Payload, type="early"):
        later: Later

    with pytest.raises(InvalidEvent, match="Early"):
        way_of(Early)

    class Later(BaseModel):
        name: str = Field(exclude=True)

    Early.model_rebuild(_types_namespace={"Later": Later})
    with pytest.raises(InvalidEvent, match=r"payload field Later\.name: it is excluded"):
        way_of(Early)


def test_a_class_without_a_type_is_not_checked_but_one_that_inherits_its_fields_is() -> None:
    class Base(Payload):
        name: str = Field(exclude=True)

    with pytest.raises(InvalidEvent, match=r"payload field Named\.name: it is excluded"):

        class Named(Base, type="named"): ...
