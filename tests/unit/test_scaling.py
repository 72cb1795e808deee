"""The model of docs/scaling.md: it says what queueing theory says, and the page shows what it says."""

from __future__ import annotations

import random
import subprocess
import sys
from itertools import accumulate
from pathlib import Path

import pytest

from benchmarks.scaling import LAYOUTS, Layout, serve, shown, simulate, time_of

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("busy", [0.3, 0.6, 0.8])
def test_one_server_makes_what_comes_at_random_wait_as_pollaczek_and_khinchine_say(busy: float) -> None:
    chance = random.Random(1)
    takes = 0.001
    came = list(accumulate(chance.expovariate(busy / takes) for _ in range(100_000)))
    left = serve(came, 1, {1: takes * 1e6})
    waited = sum(end - begin - takes for begin, end in zip(came, left, strict=True)) / len(came)
    assert waited == pytest.approx(takes * busy / (2 * (1 - busy)), rel=0.1)


def test_what_waits_is_served_in_groups_and_a_second_server_takes_the_next() -> None:
    times = {1: 1e6, 3: 1.5e6}
    assert time_of(times, 2) == 1.25
    assert serve([0.0, 0.1, 0.2, 0.3, 0.4], 1, times) == [1.0, 2.5, 2.5, 2.5, 3.5]
    assert serve([0.0, 0.1, 0.2], 2, times) == [1.0, 1.1, 2.0]


def test_too_much_for_one_part_is_found_out_and_more_of_it_helps() -> None:
    small = simulate(Layout("small", 1000, publishers=2, slots=2), events=2000)
    assert not small.keeps_up
    assert max(small.busy, key=lambda station: small.busy[station]) == "handlers"
    enough = simulate(Layout("enough", 1000, publishers=2, slots=16), events=2000)
    assert enough.keeps_up
    assert enough.p99 < small.p99 / 10


def test_the_page_shows_what_the_model_says() -> None:
    assert shown([simulate(layout) for layout in LAYOUTS]) in (ROOT / "docs" / "scaling.md").read_text()


def test_a_layout_of_ones_own_is_checked() -> None:
    command = [sys.executable, "-m", "benchmarks.scaling", "--rate", "100", "--slots"]
    good = subprocess.run([*command, "4"], cwd=ROOT, capture_output=True, text=True, timeout=120, check=True)
    assert "| yours " in good.stdout
    bad = subprocess.run([*command, "0"], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert bad.returncode == 2
    assert "--slots has to be more than 0" in bad.stderr
