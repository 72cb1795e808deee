"""Many seeds: whatever goes wrong, in whichever order, nothing is lost, and nothing happens twice."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from tests.seeds import side_by_side

#: How many, from which one on.
SEEDS, FIRST = int(os.environ.get("TESTS_SEEDS", "10000")), 1000


@pytest.mark.faults
@pytest.mark.timeout(SEEDS * 2 + 60)
def test_many_seeds(report: Callable[[str], None]) -> None:
    failures = side_by_side(FIRST, SEEDS, report)
    assert not failures, "\n\n".join(failures)
