"""Some of the simulations that `make faults` runs many of."""

from __future__ import annotations

import os

import pytest

from pipeline.testing import SimulationFailed
from tests import seeds
from tests.simulated import simulate

#: How many, and in how many tests, which may run side by side.
SEEDS, TESTS = int(os.environ.get("TESTS_SEEDS", "200")), 8


@pytest.mark.parametrize("first", range(TESTS))
def test_whatever_goes_wrong_nothing_is_lost_and_nothing_happens_twice(first: int) -> None:
    for seed in range(first, SEEDS, TESTS):
        simulate(seed, short=True)


def test_many_run_side_by_side_and_it_is_said_how_far_they_are() -> None:
    said = list[str]()
    assert seeds.side_by_side(1000, 3, said.append, processes=2) == []
    assert said[-1].startswith("3 of 3 seeds, ")
    assert said[-1].endswith("failed: 0")


def test_a_seed_that_fails_is_told_of_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def simulate(seed: int) -> None:
        if seed == 2:
            raise SimulationFailed("seed 2, which fails with 1 event(s)")
        if seed == 3:
            raise ValueError("odd")

    monkeypatch.setattr(seeds, "simulate", simulate)
    assert list(seeds.one_by_one(range(1, 5))) == [
        (1, None),
        (2, "seed 2, which fails with 1 event(s)"),
        (3, "seed 3: ValueError('odd')"),
        (4, None),
    ]
