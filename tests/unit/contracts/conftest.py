"""Stores of each kind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path

import pytest

from pipeline.contracts.blobs.blobs import Blobs, store_of
from pipeline.contracts.blobs.store import Store
from tests.blobs import blobs_in, directory_in, new_bucket, s3_server


@pytest.fixture(scope="session")
def s3_address() -> Iterator[Callable[[], str]]:
    """The address of a server that plays S3, which is started when a test first asks for it."""
    with ExitStack() as started:
        yield cache(lambda: started.enter_context(s3_server()))


@pytest.fixture
def make_s3(s3_address: Callable[[], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Store]:
    """Make an empty bucket, and a store in it."""
    return lambda: store_of(f"s3://{new_bucket(s3_address(), monkeypatch)}/of/shop", tmp_path)


@pytest.fixture(params=["directory", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path, make_s3: Callable[[], Store]) -> Store:
    """An empty store of each kind."""
    return make_s3() if request.param == "s3" else directory_in(tmp_path)


@pytest.fixture
def blobs(store: Store) -> Blobs:
    """An app's blobs on a store of each kind."""
    return blobs_in(store)
