"""What tests of the page share: a shop that runs, and a browser."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from tests.browser import browsing
from tests.shop import Shop, open_shop


@pytest.fixture
def shop(tmp_path: Path, no_settings: None) -> Iterator[Shop]:
    """A shop that runs, in which something has happened."""
    with open_shop(tmp_path) as one:
        yield one


@pytest.fixture
def browser() -> Iterator[Browser]:
    """A real browser."""
    with browsing() as one:
        yield one
