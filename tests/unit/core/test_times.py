"""How long things take."""

from __future__ import annotations

import pytest

from pipeline.core.times import Pace


def test_a_pace_is_quick_when_it_is_known_to_be_and_the_latest_run_counts_a_fifth() -> None:
    pace = Pace()
    assert not pace.is_quick
    pace.took(0.0005)
    assert pace.is_quick
    pace.took(0.01)
    assert pace.mean == pytest.approx(0.0005 + 0.0095 * 0.2)
    assert not pace.is_quick
    for _ in range(10):
        pace.took(0)
    assert pace.is_quick
