"""How many of an agent's messages a worker holds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as some

from pipeline.agents.agent import Agent
from pipeline.delivery.windows import window


def agent(limit: int | None = None) -> Agent:
    return Agent("a", lambda data: None, max_concurrent=limit)


@pytest.mark.parametrize(
    ("limit", "concurrency", "multiplier", "expected"),
    [
        (None, 2, 4, 8),
        (None, 10, 100, 1000),
        (1, 10, 4, 2),
        (2, 10, 4, 3),
        (10, 10, 4, 15),
        (100, 2, 4, 8),
        (1, 10, 1, None),
        (None, 10, 1, None),
        (None, 10, 0, None),
    ],
)
def test_an_agent_has_as_many_as_its_limit_can_use_and_no_more_than_the_multiplier_says(
    limit: int | None, concurrency: int, multiplier: int, expected: int | None
) -> None:
    assert window(agent(limit), concurrency, multiplier) == expected


@given(some.none() | some.integers(1, 10_000), some.integers(1, 1000), some.integers(2, 1000))
def test_a_window_never_stops_an_agent_and_never_holds_more_than_celery_would(
    limit: int | None, concurrency: int, multiplier: int
) -> None:
    most = window(agent(limit), concurrency, multiplier)
    assert most is not None
    assert min(limit or concurrency, concurrency) <= most <= concurrency * multiplier


@pytest.mark.parametrize(("multiplier", "expected"), [(4, 150), (1, 100), (0, None)])
def test_an_agent_in_the_lane_has_as_many_as_run_there_and_a_few_that_come_next(
    multiplier: int, expected: int | None
) -> None:
    assert window(agent(), 2, multiplier, lane=100) == expected
