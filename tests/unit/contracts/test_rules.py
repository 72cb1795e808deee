"""Rules of compatibility: they find what breaks, and nothing else, as pydantic itself reads it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from enum import Enum
from functools import reduce
from operator import or_
from pathlib import Path
from typing import Annotated, Any, Literal
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import AliasChoices, ConfigDict, Field, TypeAdapter, ValidationError, create_model

from pipeline import Payload
from pipeline.contracts.rules import NEW, OLD, RULES, Finding, differences, unread
from pipeline.contracts.schemas import bare, schema_of

DOCS = Path(__file__).parents[3] / "docs"


class Open(Payload):
    """In strict mode pydantic reads what JSON Schema says, and makes no numbers of texts."""

    model_config = ConfigDict(strict=True)


class Closed(Payload):
    model_config = ConfigDict(strict=True, extra="forbid")


# -- types, each with values that show where it ends


@dataclass
class Kind:
    """A type, and candidates for its values; those that it does not take are left out."""

    annotation: Any
    candidates: list[Any] = field(repr=False)

    @property
    def samples(self) -> list[Any]:
        adapter = TypeAdapter(self.annotation, config=None if is_model(self.annotation) else ConfigDict(strict=True))
        return [value for value in self.candidates if reads(adapter.validate_json, value)]


def is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Payload)


def reads(validate: Callable[[str], Any], value: Any) -> bool:
    try:
        validate(json.dumps(value))
    except ValidationError:
        return False
    return True


SOME = [None, True, 7, 0.5, "a", [1], {"z": 1}]
UUIDS, DATES = [str(UUID(int=7))], ["2026-01-31"]
NAMES = ("a", "b", "c")


@st.composite
def ranges(draw: st.DrawFn, base: type) -> Kind:
    """Numbers between bounds so far apart that not all in between are multiples of the same."""
    low = draw(st.none() | st.integers(-4, 0))
    high = draw(st.none() | st.integers(4, 6))
    bounds = {draw(st.sampled_from(["ge", "gt"])): low, draw(st.sampled_from(["le", "lt"])): high}
    numbers = list(range(-9, 10))
    return Kind(
        Annotated[base, Field(**bounds)],  # type: ignore[arg-type]
        numbers if base is int else [*map(float, numbers), *(n / 2 for n in range(-18, 19))],
    )


@st.composite
def texts(draw: st.DrawFn) -> Kind:
    shortest, longest = draw(st.integers(0, 2)), draw(st.none() | st.integers(2, 4))
    return Kind(Annotated[str, Field(min_length=shortest, max_length=longest)], ["x" * n for n in range(7)])


def literals() -> st.SearchStrategy[Kind]:
    return st.sets(st.sampled_from(["", "a", "bb", "ccc"]), min_size=1).map(
        lambda values: Kind(Literal[tuple(sorted(values))], sorted(values))  # type: ignore[valid-type]
    )


#: Texts with a length or with a form: what is of a form has some length, which a schema does not say.
FAMILIES = (
    st.one_of(texts(), literals()),
    st.sampled_from([Kind(str, ["", "a", *UUIDS, *DATES]), Kind(UUID, UUIDS), Kind(date, DATES)]),
)
OTHERS = st.one_of(
    ranges(int),
    ranges(float),
    st.sampled_from([2, 3, 6]).map(lambda n: Kind(Annotated[int, Field(multiple_of=n)], list(range(-9, 10)))),
    st.just(Kind(bool, [True, False])),
    st.just(Kind(type(None), [None])),
    st.just(Kind(Any, SOME)),
)


def within(inner: st.SearchStrategy[Kind]) -> st.SearchStrategy[Kind]:
    return st.one_of(lists(inner), tuples(inner), dicts(inner), models(inner), unions(inner))


@st.composite
def lists(draw: st.DrawFn, inner: st.SearchStrategy[Kind]) -> Kind:
    item, fewest, most = draw(inner), draw(st.integers(0, 2)), draw(st.none() | st.integers(2, 4))
    candidates = [[sample] * number for sample in item.samples for number in range(6)]
    return Kind(Annotated[list[item.annotation], Field(min_length=fewest, max_length=most)], candidates)  # type: ignore[name-defined]


@st.composite
def tuples(draw: st.DrawFn, inner: st.SearchStrategy[Kind]) -> Kind:
    parts = draw(st.lists(inner, min_size=1, max_size=2))
    base = [part.samples[0] for part in parts]
    candidates = [[*base[:n], each, *base[n + 1 :]] for n, part in enumerate(parts) for each in part.samples]
    return Kind(tuple[*(part.annotation for part in parts)], candidates)  # type: ignore[misc]


@st.composite
def dicts(draw: st.DrawFn, inner: st.SearchStrategy[Kind]) -> Kind:
    entry, fewest, most = draw(inner), draw(st.integers(0, 1)), draw(st.none() | st.just(3))
    first = entry.samples[0]
    sizes = [dict.fromkeys([*NAMES, "z"][:number], first) for number in range(5)]
    candidates = [*sizes, *({name: each} for name in (*NAMES, "z") for each in entry.samples)]
    return Kind(Annotated[dict[str, entry.annotation], Field(min_length=fewest, max_length=most)], candidates)  # type: ignore[name-defined]


@st.composite
def models(draw: st.DrawFn, inner: st.SearchStrategy[Kind]) -> Kind:
    fields = draw(st.dictionaries(st.sampled_from(NAMES), inner, max_size=3))
    optional = {name for name in fields if draw(st.booleans())}
    model: Any = create_model(
        "Model",
        __base__=draw(st.sampled_from([Open, Open, Closed])),
        **{name: (kind.annotation, None if name in optional else ...) for name, kind in fields.items()},  # type: ignore[arg-type]
    )
    whole = {name: kind.samples[0] for name, kind in fields.items()}
    least = {name: value for name, value in whole.items() if name not in optional}
    candidates = [whole, least, *({k: v for k, v in whole.items() if k != name} for name in optional)]
    candidates += [{**whole, name: each} for name, kind in fields.items() for each in kind.samples]
    return Kind(model, candidates)


@st.composite
def unions(draw: st.DrawFn, inner: st.SearchStrategy[Kind]) -> Kind:
    """One type or none at all: alternatives of the same JSON type might cover together what none does alone."""
    one = draw(inner)
    return Kind(reduce(or_, [one.annotation, None]) if one.annotation is not Any else Any, [*one.candidates, None])


def kinds(family: st.SearchStrategy[Kind]) -> st.SearchStrategy[Kind]:
    return st.recursive(st.one_of(family, OTHERS), within, max_leaves=4)


NUMBERS = st.one_of(ranges(int), ranges(float))
ALIKE = (NUMBERS, texts(), literals(), st.one_of(texts(), literals()), lists(NUMBERS), dicts(texts()), *FAMILIES)


def around_nothing(kind: Kind) -> Kind:
    return kind


def around_items(kind: Kind) -> Kind:
    return Kind(list[kind.annotation], [[], *([each] for each in kind.samples)])  # type: ignore[name-defined]


def around_entries(kind: Kind) -> Kind:
    return Kind(dict[str, kind.annotation], [{}, *({"z": each} for each in kind.samples)])  # type: ignore[name-defined]


def record(kind: Kind) -> Kind:
    model: Any = create_model("Record", __base__=Open, a=(kind.annotation, ...))
    return Kind(model, [{"a": each} for each in kind.samples])


@st.composite
def versions(draw: st.DrawFn) -> tuple[Kind, Kind]:
    """Two versions of a payload, either of any form, or of one form with different bounds deep within it."""
    if draw(st.booleans()):
        model = models(kinds(draw(st.sampled_from(FAMILIES))))
        return draw(model), draw(model)
    leaf, around = draw(st.sampled_from(ALIKE)), draw(st.sampled_from([around_nothing, around_items, around_entries]))
    return tuple(record(around(draw(leaf))) for _ in range(2))  # type: ignore[return-value]


@settings(max_examples=200, deadline=None)
@given(versions())
def test_what_the_old_version_writes_is_read_by_the_new_one_exactly_when_no_rule_breaks(
    pair: tuple[Kind, Kind],
) -> None:
    for writer, reader in (pair, pair[::-1]):
        problems = unread(schema_of(writer.annotation), schema_of(reader.annotation))
        refused = [each for each in writer.samples if not reads(reader.annotation.model_validate_json, each)]
        assert bool(problems) == bool(refused), (problems, refused)


@settings(max_examples=100, deadline=None)
@given(versions())
def test_a_change_backward_is_the_same_change_forward_seen_from_the_other_side(pair: tuple[Kind, Kind]) -> None:
    one, other = (bare(schema_of(each.annotation)) for each in pair)
    there, back = differences(one, other), differences(other, one)
    swapped = [Finding(f.rule, f.path, f.after, f.before, OLD if f.breaks == NEW else NEW) for f in back]
    assert sorted(map(repr, there)) == sorted(map(repr, swapped))
    assert differences(one, one) == []


# -- each rule


class Colour(Enum):
    RED = "red"


class Colours(Enum):
    RED, BLUE = "red", "blue"


class Node(Payload):
    value: int
    children: list[Node] = []


class Wider(Payload):
    value: float
    children: list[Wider] = []


class Cat(Payload):
    kind: Literal["cat"]
    lives: int


class Dog(Payload):
    kind: Literal["dog"]
    name: str


class Tame(Payload):
    kind: Literal["cat"]
    lives: int
    name: str


def found(before: Any, after: Any) -> list[tuple[str, str, str]]:
    """Return rule, path and reader of all findings between two types of a field."""
    one, other = (bare(schema_of(create_model("Data", __base__=Payload, a=(kind, ...)))) for kind in (before, after))
    return [(each.rule, each.path, each.breaks) for each in differences(one, other)]


BOTH = (NEW, OLD)


@pytest.mark.parametrize(
    ("rule", "before", "after", "breaks"),
    [
        ("type", int, str, BOTH),
        ("type", int, float, (OLD,)),
        ("type", Any, int, (NEW,)),
        ("type", str, str | int, (OLD,)),
        ("type", int, bool, BOTH),
        ("null", str | None, str, (NEW,)),
        ("value", Literal["a", "b"], Literal["a"], (NEW,)),
        ("value", Colour, Colours, (OLD,)),
        ("value", str, Literal["a"], (NEW,)),
        ("value", Literal["abc"], Annotated[str, Field(max_length=2)], BOTH),
        ("value", Literal[1, 2], Annotated[int, Field(lt=2)], BOTH),
        ("alternatives", Node, Cat | Dog, (NEW,)),
        ("format", str, UUID, (NEW,)),
        ("format", date, UUID, BOTH),
        ("pattern", str, Annotated[str, Field(pattern="^a")], (NEW,)),
        ("pattern", Annotated[str, Field(pattern="^a")], Annotated[str, Field(pattern="^b")], BOTH),
        ("length", str, Annotated[str, Field(min_length=1)], (NEW,)),
        ("length", Annotated[str, Field(max_length=3)], Annotated[str, Field(max_length=4)], (OLD,)),
        ("range", int, Annotated[int, Field(ge=0)], (NEW,)),
        ("range", Annotated[float, Field(gt=0)], Annotated[float, Field(ge=0)], (OLD,)),
        ("multiple", int, Annotated[int, Field(multiple_of=5)], (NEW,)),
        ("size", list[int], Annotated[list[int], Field(min_length=1)], (NEW,)),
        ("size", dict[str, int], Annotated[dict[str, int], Field(max_length=3)], (NEW,)),
        ("unique", list[int], set[int], (NEW,)),
        ("field-name", dict[str, int], dict[Literal["x"], int], (NEW,)),
    ],
)
def test_a_rule_says_whom_a_change_breaks(rule: str, before: Any, after: Any, breaks: tuple[str, ...]) -> None:
    there = [each for each in found(before, after) if each[0] == rule]
    assert [reader for *_, reader in there] == list(breaks)
    assert [path for _, path, _ in there] == ["a"] * len(breaks)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (Annotated[int, Field(gt=0)], Annotated[int, Field(ge=1)]),
        (Literal[True, False], bool),
        (Node, Node),
        (Decimal, Decimal),
        (Cat | Dog, Dog | Cat),
        (int | None, Literal[None] | int),
    ],
)
def test_the_same_said_otherwise_is_no_change(before: Any, after: Any) -> None:
    assert found(before, after) == []


def test_a_model_within_itself_is_compared_once_and_to_its_end() -> None:
    assert found(Node, Wider) == [("type", "a.value", OLD)]


def test_paths_lead_through_fields_items_and_entries() -> None:
    assert found(dict[str, list[Cat]], dict[str, list[Tame]]) == [("field-required", "a.*[].name", NEW)]
    assert found(tuple[int, int], tuple[int, str]) == [("type", "a[1]", NEW), ("type", "a[1]", OLD)]


class Before(Payload):
    customer: str


class Between(Payload):
    customer_id: str = Field(validation_alias=AliasChoices("customer_id", "customer"), serialization_alias="customer")


class After(Payload):
    customer_id: str = Field(validation_alias=AliasChoices("customer_id", "customer"))


def test_a_field_may_be_renamed_in_steps_that_read_both_names() -> None:
    steps = [bare(schema_of(cls)) for cls in (Before, Between, After)]
    assert differences(steps[0], steps[1]) == []
    assert differences(steps[1], steps[2]) == []
    at_once = [(each.rule, each.path, each.breaks) for each in differences(steps[0], steps[2])]
    assert at_once == [("field-required", "customer", OLD)], "old readers know one name only"


def test_a_finding_says_what_stood_there_and_what_does() -> None:
    (finding,) = differences(bare(schema_of(Cat)), bare(schema_of(Tame)))
    assert finding.as_data() == {
        "rule": "field-required", "path": "name", "before": "absent", "after": "required", "breaks": "new reader",
    }  # fmt: skip


def test_the_documentation_has_each_rule_in_the_words_of_the_code() -> None:
    rows = re.findall(
        r"^\| `([a-z-]+)` \| (.+?) \|$", (DOCS / "schemas.md").read_text().partition("### Rules")[2], re.MULTILINE
    )
    assert dict(rows) == RULES
