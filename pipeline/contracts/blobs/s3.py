"""S3 as a store, or another server that speaks its protocol: one object for each content."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

from ...core.errors import BlobUnavailable
from ...core.forks import GENERATION, held_off
from .store import Readable

#: Seconds to wait for a connection, and for the next bytes.
TIMEOUT = 10
_NOT_THERE = ("404", "NoSuchKey", "NotFound")
_NO_BUCKET, _DENIED = ("NoSuchBucket",), ("403", "AccessDenied", "Forbidden")


class S3:
    """Content in the objects of a bucket.

    Region, address of the server and credentials are where boto3 looks for them: AWS_REGION, AWS_ENDPOINT_URL,
    AWS_ACCESS_KEY_ID and so on, ~/.aws, or the role of the machine.
    """

    def __init__(self, bucket: str, prefix: str = "") -> None:
        """Connect nothing."""
        import botocore.exceptions

        self._errors = botocore.exceptions
        self._bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""
        self._lock = threading.Lock()
        self._made: tuple[int, Any] | None = None

    def __repr__(self) -> str:
        return f"S3({self._bucket!r}, {self._prefix.rstrip('/')!r})"

    def size(self, name: str) -> int | None:
        """Return how many bytes there are under a name; None when there is nothing."""
        try:
            with self._explained():
                head = self._client().head_object(**self._object(name))
        except FileNotFoundError:
            return None
        return int(head["ContentLength"])

    def write(self, name: str, file: Readable) -> None:
        """Keep all of a file that can seek; S3 shows an object when it has all of it."""
        try:
            with self._explained():
                self._client().put_object(Body=file, **self._object(name))
        except BlobUnavailable:
            if (altered := getattr(file, "altered", None)) is not None:  # boto3 has made another error of it
                raise altered from None
            raise

    @contextlib.contextmanager
    def open(self, name: str) -> Iterator[Readable]:
        """Lend what is under a name; raises FileNotFoundError."""
        with self._explained():
            body = self._client().get_object(**self._object(name))["Body"]
        with contextlib.closing(body):
            yield _Body(self, body)

    def words(self, place: str, prefix: str = "") -> Iterator[str]:
        """Return the words in a place that begin like that."""
        start = f"{self._prefix}{place}/"
        with self._explained():
            pages = self._client().get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=start + prefix)
            for page in pages:
                yield from (each["Key"].removeprefix(start) for each in page.get("Contents", ()))

    def move(self, name: str, to: str) -> None:
        """Give it another name: a copy first, then the old one goes; raises FileNotFoundError."""
        with self._explained():
            self._client().copy_object(CopySource=self._object(name), **self._object(to))
        self.remove(name)

    def remove(self, name: str) -> None:
        """Delete what is under a name; nothing when there is nothing."""
        with self._explained():
            self._client().delete_object(**self._object(name))

    def _object(self, name: str) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": self._prefix + name}

    def _client(self) -> Any:
        """Return this process's client: a child does not use its parent's connections."""
        with held_off(), self._lock:  # no child inherits it taken
            if self._made is None or self._made[0] != GENERATION.number:
                import boto3
                from botocore.config import Config

                config = Config(
                    connect_timeout=TIMEOUT,
                    read_timeout=TIMEOUT,
                    retries={"mode": "standard"},
                    # What is sent and what comes is compared with its SHA-256; not every server knows these.
                    request_checksum_calculation="when_required",
                    response_checksum_validation="when_required",
                )
                self._made = GENERATION.number, boto3.session.Session().client("s3", config=config)
            return self._made[1]

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (self._errors.ClientError, self._errors.BotoCoreError, self._errors.HTTPClientError) as exc:
            code = (getattr(exc, "response", None) or {}).get("Error", {}).get("Code")
            if code in _NOT_THERE:
                raise FileNotFoundError(code) from exc
            told = f"blob_store: the bucket {self._bucket!r} cannot be used ({exc}): {self._mend(code)}"
            raise BlobUnavailable(told) from exc

    def _mend(self, code: str | None) -> str:
        """Return what to do about an answer of the server; about none when the code is None."""
        if code in _NO_BUCKET:
            return "it is not there: create it, or correct PIPELINE_BLOB_STORE, the region or AWS_ENDPOINT_URL"
        if code in _DENIED:
            return (
                "these credentials may not do that: allow them s3:GetObject, s3:PutObject and s3:DeleteObject on its "
                "objects and s3:ListBucket on it, or use others (AWS_ACCESS_KEY_ID, ~/.aws or a role)"
            )
        return "check its name, the credentials (AWS_ACCESS_KEY_ID, ~/.aws or a role) and AWS_ENDPOINT_URL"


class _Body:
    """What S3 sends, with its errors as ours."""

    def __init__(self, store: S3, body: Any) -> None:
        self._store = store
        self._body = body

    def read(self, size: int, /) -> bytes:
        """Return at most so many of the next bytes."""
        with self._store._explained():
            chunk: bytes = self._body.read(size)
            return chunk
