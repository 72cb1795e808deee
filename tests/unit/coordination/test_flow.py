"""When a flow ends: a pure function of what it follows and of how far it has come."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.coordination.flows.collaboration import of_payload
from pipeline.coordination.graphs.flow import Counts, Definition, End, end_of
from pipeline.coordination.graphs.graph import Graph
from pipeline.core.event import new_event

PLAIN = Definition(name="j", emits="j.done", fails="j.failed", source="/shop")


def definition(**more: object) -> Definition:
    return Definition.of({**PLAIN.as_data(), **more})


ALL = definition()
TWO = definition(quorum=2)
FIRST = definition(quorum=1, first=True)
SOME = definition(collect=True)


@pytest.mark.parametrize(
    ("follows", "counts", "how", "end"),
    [
        (ALL, (3, 2, 0), {}, None),
        (ALL, (3, 3, 0), {}, ("completed", "all")),
        (ALL, (3, 1, 1), {}, ("failed", "1 of 3 have failed")),
        (ALL, (3, 1, 0), {"is_over": True}, ("completed", "deadline")),
        (ALL, (3, 0, 0), {"is_over": True}, ("failed", "0 of 3 were done at the deadline")),
        (ALL, (3, 1, 0), {"is_met": True}, ("completed", "until")),
        (TWO, (3, 1, 1), {}, None),
        (TWO, (3, 2, 1), {}, ("completed", "quorum")),
        (TWO, (3, 1, 2), {}, ("failed", "2 of 3 have failed, and 2 are needed")),
        (TWO, (3, 1, 0), {"is_over": True}, ("failed", "1 of 3 were done at the deadline, and 2 are needed")),
        (FIRST, (3, 0, 2), {}, None),
        (FIRST, (3, 1, 2), {}, ("completed", "first")),
        (FIRST, (3, 0, 3), {}, ("failed", "3 of 3 have failed, and 1 are needed")),
        (SOME, (3, 1, 1), {}, None),
        (SOME, (3, 1, 2), {}, ("completed", "all")),
        (SOME, (3, 0, 3), {}, ("failed", "0 of 3 were done")),
        (SOME, (3, 1, 1), {"is_over": True}, ("completed", "deadline")),
    ],
)
def test_when_a_flow_ends(
    follows: Definition, counts: tuple[int, int, int], how: dict[str, bool], end: tuple[str, str] | None
) -> None:
    assert end_of(follows, Counts(*counts), **how) == (None if end is None else End(*end))


FOLLOWS = st.builds(
    lambda quorum, collect: definition(quorum=quorum, collect=collect),
    st.one_of(st.none(), st.integers(1, 4)),
    st.booleans(),
)


@given(FOLLOWS, st.lists(st.booleans(), min_size=4, max_size=4), st.booleans())
def test_a_flow_ends_with_its_last_step_at_the_latest_and_stays_ended(
    follows: Definition, steps: list[bool], is_over: bool
) -> None:
    ends = [end_of(follows, Counts(4, sum(steps[:n]), n - sum(steps[:n])), is_over=is_over) for n in range(5)]
    assert ends[-1] is not None
    first = next(number for number, end in enumerate(ends) if end is not None)
    assert None not in ends[first:]
    if is_over:
        assert first == 0


@given(FOLLOWS)
def test_a_definition_is_kept_as_json_and_read_by_older_and_newer_versions(follows: Definition) -> None:
    data = json.loads(json.dumps(follows.as_data()))
    assert Definition.of(data) == follows
    assert Definition.of({**data, "of_a_newer_version": 1}) == follows
    assert Definition.of({name: data[name] for name in ("name", "emits", "fails", "source")}) == PLAIN


def test_a_collaboration_whose_request_was_erased_goes_on_without_its_payload() -> None:
    request = new_event("collaboration.request", None, source="/t")
    graph = Graph(kind="saga", name="saga", emits="e", fails="f", source="/t", nodes=(), participants=("a",))
    found = of_payload(request, graph)
    assert found is not None
    assert found.data is None
