"""Stores of blobs for the tests: a directory, and S3 as moto's server plays it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import pytest

from pipeline.contracts.blobs.blobs import Blobs, store_of
from pipeline.contracts.blobs.store import Store

#: Bytes above which the blobs of these tests are kept.
THRESHOLD = 100
LARGEST = 1_000_000


@contextmanager
def s3_server() -> Iterator[str]:
    """Start a server that plays S3, on a free port; lend its address."""
    server = pytest.importorskip("moto.server").ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield f"http://{host}:{port}"
    finally:
        server.stop()


def new_bucket(address: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Let boto3 find a server, and make a bucket on it; return its name."""
    import boto3

    for name, value in s3_environment(address).items():
        monkeypatch.setenv(name, value)
    bucket = f"shop-{uuid4().hex}"
    boto3.session.Session().client("s3").create_bucket(Bucket=bucket)
    return bucket


def s3_environment(address: str) -> dict[str, str]:
    """Return the variables in which boto3 finds a server."""
    return {
        "AWS_ENDPOINT_URL": address,
        "AWS_ACCESS_KEY_ID": "someone",
        "AWS_SECRET_ACCESS_KEY": "hush-hush",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_CONFIG_FILE": "/dev/null",
        "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
    }


def blobs_in(store: Store, ledger: str = "l1", *, threshold: int = THRESHOLD) -> Blobs:
    """Return the blobs of an app on a store."""
    return Blobs(store, threshold, LARGEST, lambda: ledger)


def directory_in(path: Path) -> Store:
    """Return a directory as a store."""
    return store_of(str(path / "blobs"), path)


def words(store: Store) -> dict[str, set[str]]:
    """Return what is in each place of a store."""
    return {place: set(store.words(place)) for place in ("kept", "unreferenced", "ledgers")}
