"""Upcasters: steps that chain, and what is wrong with some."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import InvalidEvent
from pipeline.contracts.upcasters import NoUpcaster, Upcasters
from pipeline.contracts.versions import Version, version_of

Data = dict[str, Any]


def same(data: Data) -> Data:
    return data


def other(data: Data) -> Data: ...


def steps(*pairs: str) -> Upcasters:
    """Return upcasters of `a.b` for steps such as "1.0.0 2.0.0"."""
    made = Upcasters()
    for pair in pairs:
        made.add("a.b", *pair.split(), same)
    return made


def way(upcasters: Upcasters, version: str, target: str) -> list[str]:
    return [str(step.after) for step in upcasters.chain("a.b", version_of(version), version_of(target))]


def test_steps_are_chained_from_the_events_version_to_the_classs() -> None:
    known = steps("2.0.0 3.0.0", "1.0.0 1.1.0", "1.1.0 2.0.0")
    assert way(known, "1.0.0", "3.0.0") == ["1.1.0", "2.0.0", "3.0.0"]
    assert way(known, "2.0.0", "3.0.0") == ["3.0.0"]
    assert way(known, "1.0.0", "1.1.0") == ["1.1.0"], "it may also fill what a newer minor version has"
    assert way(known, "1.0.0", "2.0.0") == ["1.1.0", "2.0.0"], "and does not lead beyond the class"


def test_a_minor_version_without_a_step_of_its_own_takes_the_one_of_the_version_before() -> None:
    known = steps("1.0.0 1.1.0", "1.1.0 2.0.0")
    assert way(known, "1.1.7", "2.0.0") == ["2.0.0"]
    assert way(known, "1.4.0", "2.0.0") == ["2.0.0"]


def test_within_a_major_version_no_step_is_needed() -> None:
    assert way(steps(), "1.0.0", "1.3.0") == []
    assert way(steps("1.1.0 2.0.0"), "2.0.0", "2.1.0") == []


@pytest.mark.parametrize(
    ("known", "version", "target", "missing"),
    [
        ((), "1.0.0", "2.0.0", '"1.0.0", "2.0.0"'),
        (("1.0.0 2.0.0",), "1.0.0", "3.1.0", '"2.0.0", "3.1.0"'),
        (("1.1.0 2.0.0",), "1.0.0", "2.0.0", '"1.0.0", "2.0.0"'),
        (("1.0.0 3.0.0",), "1.0.0", "2.0.0", '"1.0.0", "2.0.0"'),
    ],
)
def test_a_step_that_is_missing_is_named(known: tuple[str, ...], version: str, target: str, missing: str) -> None:
    with pytest.raises(NoUpcaster, match=f'declare @app.upcaster\\("a.b", {missing}\\)'):
        way(steps(*known), version, target)


VERSIONS = st.builds(Version, *[st.integers(0, 3)] * 3)


@given(st.lists(st.tuples(VERSIONS, VERSIONS), max_size=8), VERSIONS, VERSIONS)
def test_every_chain_leads_up_and_ends(pairs: list[tuple[Version, Version]], version: Version, target: Version) -> None:
    known = Upcasters()
    for before, after in pairs:
        try:
            known.add("a.b", str(before), str(after), same)
        except InvalidEvent:
            continue
    try:
        chain = known.chain("a.b", min(version, target), target)
    except NoUpcaster:
        return
    passed = [min(version, target), *(step.after for step in chain)]
    assert passed == sorted(set(passed))
    assert passed[-1].major == target.major
    assert passed[-1] <= target


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("1.0", "2.0.0", "upcaster of a.b: '1.0' is not a semantic version"),
        ("1.0.0", "two", "upcaster of a.b: 'two' is not a semantic version"),
        ("2.0.0", "1.0.0", "leads from 2.0.0 to 1.0.0; an upcaster leads from an older version to a newer one"),
        ("1.0.0", "1.0.0", "leads from 1.0.0 to 1.0.0"),
    ],
)
def test_upcasters_lead_to_newer_versions_and_so_never_in_a_circle(before: str, after: str, said: str) -> None:
    with pytest.raises(InvalidEvent, match=said):
        Upcasters().add("a.b", before, after, same)


def test_an_upcaster_for_no_event_type_is_refused() -> None:
    with pytest.raises(InvalidEvent, match="'a b' is not an event type"):
        Upcasters().add("a b", "1.0.0", "2.0.0", same)


@pytest.mark.parametrize("after", ["2.0.0", "1.1.0"])
def test_two_upcasters_for_one_step_are_refused_where_the_second_is_declared(after: str) -> None:
    known = steps("1.0.0 2.0.0")
    with pytest.raises(InvalidEvent, match=r"two of them begin with 1.0.0: to 2.0.0 .*same.* and to .*other"):
        known.add("a.b", "1.0.0", after, other)
    assert way(known, "1.0.0", "2.0.0") == ["2.0.0"]


def test_an_upcaster_whose_module_is_imported_again_is_no_second_one() -> None:
    known = steps("1.0.0 2.0.0")
    known.add("a.b", "1.0.0", "2.0.0", same)
    assert len(list(known)) == 1


async def later(data: Data) -> Data: ...


def nothing() -> Data: ...


@pytest.mark.parametrize("function", [later, dict, "data", nothing, lambda data, version: data])
def test_what_is_no_plain_function_of_the_data_is_refused(function: Any) -> None:
    with pytest.raises(InvalidEvent, match=r"^upcaster of a.b: it is"):
        Upcasters().add("a.b", "1.0.0", "2.0.0", function)


def problems(known: Upcasters, *read: str) -> list[str]:
    return known.problems({"a.b": [version_of(text) for text in read]})


def test_gaps_are_found_before_any_event_comes() -> None:
    (gap,) = problems(steps("1.0.0 2.0.0", "3.0.0 4.0.0"), "4.0.0")
    assert "from 1.0.0 to 2.0.0" in gap
    assert 'declare @app.upcaster("a.b", "2.0.0", "4.0.0")' in gap
    (beyond,) = problems(steps("1.0.0 2.0.0"), "1.3.0")
    assert "give the class that version; known: 1.x" in beyond
    assert problems(steps("1.0.0 2.0.0", "2.0.0 3.0.0"), "3.1.0") == []
    assert problems(steps("1.0.0 2.0.0"), "1.0.0", "2.0.0") == []


def test_an_upcaster_of_a_type_without_a_class_is_found_before_any_event_comes() -> None:
    (wrong,) = steps("1.0.0 2.0.0").problems({"a.bc": [version_of("2.0.0")]})
    assert "did you mean 'a.bc'?" in wrong
    assert "app.types.add(...)" in wrong
