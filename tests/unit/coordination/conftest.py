"""An app whose events go into a list instead of to a broker."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline import Event, Pipeline


@pytest.fixture
def sent() -> list[Event]:
    """What the app has published."""
    return []


@pytest.fixture
def app(tmp_path: Path, sent: list[Event], monkeypatch: pytest.MonkeyPatch) -> Iterator[Pipeline]:
    """An app without a ledger."""
    app = Pipeline("test", directory=tmp_path, ledger_url="")
    monkeypatch.setattr(app.bus.publisher, "send_encoded", lambda batch, **_: sent.extend(each.event for each in batch))
    yield app
    app.celery.close()
