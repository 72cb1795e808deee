"""What a version of an agent wants, asked by others than the worker that runs it."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import Event, Payload, Pipeline
from pipeline.agents.filters import Failed, parse
from pipeline.agents.wanting import Wanting, wants, wants_read
from pipeline.contracts.registry import Types
from pipeline.core.event import new_event


class Box(Payload, type="box.packed", version="1.2.0"):
    n: int


FEW = Wanting(parse("n < 3"), {})


def made(data: Any = None, version: str = "1.0.0") -> Event:
    return new_event("box.packed", {"n": 1} if data is None else data, source="/test", version=version)


def said(*wantings: Wanting) -> str:
    """Return what versions say, as the ledger has it."""
    return orjson.dumps([one.as_data(1.0) for one in wantings]).decode()


@pytest.fixture
def types() -> Types:
    """Know how a box of version 1 is read as one of 2, and that as one of 3."""
    found = Types()
    found.upcasters.add("box.packed", "1.0.0", "2.0.0", lambda data: {"number": data["n"]})
    found.upcasters.add("box.packed", "2.0.0", "3.0.0", lambda data: {"count": data["number"]})
    return found


def test_one_of_several_filters_suffices() -> None:
    body = made({"n": 5}).encode().decode()
    assert not wants(said(FEW), "box.packed", body)
    assert wants(said(FEW, Wanting(parse("n = 5"), {})), "box.packed", body)
    assert wants("[]", "box.packed", body)


def test_a_filter_on_the_type_is_asked_without_reading_the_event() -> None:
    wanting = Wanting(parse("type = box.opened AND n = 1"), {})
    assert wanting.test("box.packed", "no JSON") is False
    assert isinstance(Wanting(parse("n > 1"), {}).test("box.packed", made({"n": "x"}).encode()), Failed)


@pytest.mark.parametrize("body", ["no JSON", "7", "[]"])
def test_what_is_no_event_may_be_wanted(body: str) -> None:
    assert wants(said(FEW), "box.packed", body)


def test_what_another_version_reads_may_be_wanted_unless_the_envelope_says_no() -> None:
    body = made().encode().decode()
    reads = {"box.packed": "2.0.0"}
    assert wants(said(Wanting(parse("number > 9"), reads)), "box.packed", body)
    assert not wants(said(Wanting(parse("event.priority = 1"), reads)), "box.packed", body)


@pytest.mark.parametrize(
    ("where", "reads", "own", "wanted"),
    [
        ("n = 1", None, "1.0.0", True),
        ("n = 2", None, "1.0.0", False),
        ("number = 1", "2.0.0", "3.0.0", True),  # an older reader: this program can read it so, too
        ("number = 2", "2.0.0", "3.0.0", False),
        ("number = 2", "2.0.0", "2.0.0", False),
        ("count = 2", "3.0.0", "2.0.0", True),  # a newer reader judges for itself
        ("count = 2", "3.0.0", None, True),
        ("event.priority = 1", "3.0.0", None, False),
    ],
)
def test_data_is_judged_as_each_version_reads_it(
    types: Types, where: str, reads: str | None, own: str | None, wanted: bool
) -> None:
    wanting = Wanting(parse(where), {"box.packed": reads} if reads else {})
    assert wants_read(said(wanting), made(), types, own) is wanted


@given(st.sampled_from([None, "1.0.0", "2.0.0", "3.0.0"]), st.sampled_from([None, "1.0.0", "2.0.0", "3.0.0"]))
def test_of_two_versions_that_want_nothing_one_at_least_knows_that_of_the_other(
    one: str | None, other: str | None
) -> None:
    types = Types()
    types.upcasters.add("box.packed", "1.0.0", "2.0.0", lambda data: data)
    types.upcasters.add("box.packed", "2.0.0", "3.0.0", lambda data: data)

    def hopes(own: str | None, theirs: str | None) -> bool:
        wanting = Wanting(parse("n = 9"), {"box.packed": theirs} if theirs else {})
        return wants_read(said(wanting), made(), types, own)

    assert not (hopes(one, other) and hopes(other, one))


@pytest.mark.parametrize("damage", ["[{]", "[7]", '[{"where": "n <"}]', '[{"where": "n < 3", "reads": 7}]', "[]"])
def test_what_is_not_understood_may_want_everything(types: Types, damage: str) -> None:
    assert wants(damage, "box.packed", made({"n": 5}).encode().decode())
    assert wants_read(damage, made({"n": 5}), types, None)


def test_an_agent_says_what_it_filters_and_reads() -> None:
    app = Pipeline("t", ledger_url="")

    @app.agent(on=Box, where="n < 3")
    def few(box: Box) -> None: ...

    @app.agent(on="box.#")
    def every(data: Any) -> None: ...

    assert app.bus.agents["every"].wanting is None
    wanting = app.bus.agents["few"].wanting
    assert wanting is not None
    assert wanting.as_data(0.5) == {
        "where": {"payload.n": {"$lt": 3}}, "reads": {"box.packed": "1.2.0"}, "recorded": 0.5
    }  # fmt: skip
    app.close()
