"""Ids: derived ones are UUID version 5, and always the same."""

from __future__ import annotations

from uuid import UUID, uuid4, uuid5

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.ids import caused_id, delivery_id, foreign_id, is_sampled, new_id

UUIDS = st.uuids().map(str)
AGENTS = st.from_regex(r"[a-z][a-z0-9_-]{0,20}", fullmatch=True)


def test_a_new_id_is_a_random_uuid() -> None:
    found = UUID(new_id())
    assert (found.version, found.variant) == (uuid4().version, uuid4().variant)


@given(UUIDS, AGENTS)
def test_a_deliverys_id_is_uuid5_of_the_event_and_the_agent(event: str, agent: str) -> None:
    assert delivery_id(event, agent) == str(uuid5(UUID(event), agent))


@given(UUIDS, st.integers(0, 1000))
def test_an_emitted_events_id_is_uuid5_of_the_delivery_and_its_position(delivery: str, position: int) -> None:
    assert caused_id(delivery, position) == str(uuid5(UUID(delivery), str(position)))


def test_with_a_secret_the_ids_of_caused_events_cannot_be_said_beforehand() -> None:
    delivery = new_id()
    ids = {caused_id(delivery, position, secret) for position in range(3) for secret in (b"", b"one", b"two")}
    assert len(ids) == 9
    assert caused_id(delivery, 1, b"one") == caused_id(delivery, 1, b"one")
    assert UUID(caused_id(delivery, 1, b"one")).version == 8


@given(st.text(max_size=9), st.text(max_size=9), st.text(max_size=9), st.text(max_size=9))
def test_another_programs_event_is_known_by_source_and_id(one: str, id: str, other: str, other_id: str) -> None:
    assert (foreign_id(one, id) == foreign_id(other, other_id)) is ((one, id) == (other, other_id))
    assert foreign_id(one, id) not in (id, delivery_id(id, one))


@pytest.mark.parametrize("spelled", [str.upper, lambda id: id.replace("-", ""), lambda id: "urn:uuid:" + id])
def test_another_spelling_of_an_events_uuid_is_stable_too(spelled: object) -> None:
    id = spelled("5f0c1f4e-6a0a-4c59-8a3e-2f6f8d5f1c11")  # type: ignore[operator]
    assert UUID(delivery_id(id, "alpha")).version == 5
    assert delivery_id(id, "alpha") == delivery_id(id, "alpha")


TEXTS = st.text(max_size=12)


@given(st.lists(st.tuples(TEXTS, TEXTS), unique=True, max_size=8), st.binary(min_size=1, max_size=32))
def test_whatever_differs_in_source_or_id_is_another_event_with_other_deliveries_and_other_emitted_events(
    events: list[tuple[str, str]], secret: bytes
) -> None:
    keys = [foreign_id(source, id) for source, id in events]
    deliveries = [delivery_id(key, agent) for key in keys for agent in ("billing", "stock")]
    emitted = [caused_id(delivery, position, secret) for delivery in deliveries for position in range(3)]
    everything = [*keys, *deliveries, *emitted]
    assert len({*everything}) == len(everything)
    assert keys == [foreign_id(source, id) for source, id in events], "and the same ones each time"
    assert not {*emitted} & {caused_id(delivery, position) for delivery in deliveries for position in range(3)}


@given(UUIDS, st.floats(0, 1), st.floats(0, 1))
def test_a_larger_share_has_all_that_a_smaller_one_has(event: str, one: float, other: float) -> None:
    assert is_sampled(event, min(one, other)) <= is_sampled(event, max(one, other))
    assert (is_sampled(event, 0), is_sampled(event, 1)) == (False, True)


def test_a_share_is_one_of_the_ids_whatever_they_look_like() -> None:
    numbers = [sum(is_sampled(shape.format(n), 0.25) for n in range(4000)) for shape in ("{}", "order-{:09d}", "é{}")]
    assert all(900 < number < 1100 for number in numbers)
    assert [n for n in range(20) if is_sampled(str(n), 0.25)] == [2, 6, 17, 18]
