"""An empty directory, an environment without anybody's settings, and nothing left running in the end."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.demos import SETTINGS, workers_in


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """What a demonstration is run with."""
    own = {"HOME": str(tmp_path), "USER": "ada", "TMPDIR": str(tmp_path), "PYTHONUNBUFFERED": "1"}
    return {**{name: value for name, value in os.environ.items() if not name.startswith(SETTINGS)}, **own}


@pytest.fixture
def nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Run the test in an empty directory, and fail when a worker runs on behind it."""
    monkeypatch.chdir(tmp_path)
    yield
    assert workers_in(tmp_path) == []
