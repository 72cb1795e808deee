"""An app without a worker, and the server that answers for it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline import Payload, Pipeline
from tests.http import Server, served


class Placed(Payload, type="order.placed"):
    order_id: str
    total: float = 1.0


@pytest.fixture
def app(tmp_path: Path, no_settings: None) -> Iterator[Pipeline]:
    """An app on the embedded broker that has a class for one type, and no worker."""
    one = Pipeline("shop", directory=tmp_path)
    one.types.add(Placed)
    yield one
    one.close()


@pytest.fixture
def server(app: Pipeline) -> Iterator[Server]:
    with served(app) as one:
        yield one
