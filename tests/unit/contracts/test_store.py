"""Stores: one suite for all of them."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.contracts.blobs import directory as directory_module
from pipeline.contracts.blobs import s3
from pipeline.contracts.blobs.blobs import store_of
from pipeline.contracts.blobs.source import Sent
from pipeline.contracts.blobs.store import CHUNK, Store
from pipeline.core.errors import BlobAltered, BlobUnavailable
from tests.blobs import blobs_in, directory_in, words


def put(store: Store, name: str, content: bytes) -> None:
    store.write(name, io.BytesIO(content))


def got(store: Store, name: str) -> bytes:
    with store.open(name) as file:
        return b"".join(iter(lambda: file.read(7000), b""))


@pytest.mark.parametrize("content", [b"", b"a", b"ab" * CHUNK], ids=len)
def test_what_is_written_is_read(store: Store, content: bytes) -> None:
    put(store, "kept/a", content)
    assert store.size("kept/a") == len(content)
    assert got(store, "kept/a") == content


def test_what_was_there_is_replaced(store: Store) -> None:
    put(store, "kept/a", b"an older one")
    put(store, "kept/a", b"newer")
    assert got(store, "kept/a") == b"newer"
    assert words(store)["kept"] == {"a"}


def test_what_is_not_there_has_no_size_and_cannot_be_opened_or_moved(store: Store) -> None:
    assert store.size("kept/a") is None
    with pytest.raises(FileNotFoundError), store.open("kept/a"):
        pass
    with pytest.raises(FileNotFoundError):
        store.move("kept/a", "unreferenced/a")
    store.remove("kept/a")
    assert words(store) == {"kept": set(), "unreferenced": set(), "ledgers": set()}


def test_words_are_those_of_one_place_that_begin_so(store: Store) -> None:
    for name in ("kept/ab", "kept/ac", "kept/b", "unreferenced/ad"):
        put(store, name, b"x")
    assert set(store.words("kept")) == {"ab", "ac", "b"}
    assert set(store.words("kept", "a")) == {"ab", "ac"}


def test_what_is_moved_is_there_under_the_new_name_only(store: Store) -> None:
    put(store, "kept/a", b"content")
    put(store, "unreferenced/a", b"an older one")
    store.move("kept/a", "unreferenced/a")
    assert words(store) == {"kept": set(), "unreferenced": {"a"}, "ledgers": set()}
    assert got(store, "unreferenced/a") == b"content"


def test_what_is_removed_is_gone(store: Store) -> None:
    put(store, "kept/a", b"content")
    store.remove("kept/a")
    assert store.size("kept/a") is None


def test_a_writer_that_fails_leaves_nothing_under_the_name(store: Store) -> None:
    with pytest.raises((BlobUnavailable, OSError)):
        store.write("kept/a", Failing())
    assert words(store)["kept"] == set()


class Failing(io.BytesIO):
    """A file whose end cannot be read."""

    def __init__(self) -> None:
        super().__init__(bytes(3 * CHUNK))

    def read(self, size: int | None = -1) -> bytes:
        if self.tell() >= CHUNK:
            raise OSError("the disk is broken")
        return super().read(CHUNK)

    def readinto(self, buffer: Any) -> int:
        chunk = self.read(len(buffer))
        buffer[: len(chunk)] = chunk
        return len(chunk)


# -- directories


def test_a_directory_is_for_its_owner_only(tmp_path: Path) -> None:
    put(directory_in(tmp_path), "kept/a", b"secret")
    found = [tmp_path / "blobs", *(tmp_path / "blobs").rglob("*")]
    assert {path.stat().st_mode & 0o077 for path in found} == {0}
    assert tmp_path / "blobs" / "kept" / "a" in found


def test_content_is_on_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    sync, rename = directory_module.os.fsync, Path.rename
    monkeypatch.setattr(directory_module.os, "fsync", lambda handle: (done.append("fsync"), sync(handle)))
    monkeypatch.setattr(Path, "rename", lambda own, to: (done.append("rename"), rename(own, to)))
    store = directory_in(tmp_path)
    put(store, "kept/a", b"content")
    done.clear()
    put(store, "kept/b", b"content")
    assert done == ["fsync", "rename", "fsync"], "the file, then its directory"


def test_a_link_that_others_may_have_put_there_is_not_followed(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "blobs").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BlobUnavailable, match="is a link that others may have put there"):
        put(directory_in(tmp_path), "kept/a", b"content")


def test_a_link_in_the_place_of_content_is_not_followed(tmp_path: Path) -> None:
    store = directory_in(tmp_path)
    put(store, "kept/a", b"content")
    (tmp_path / "blobs" / "kept" / "b").symlink_to(tmp_path / "blobs" / "kept" / "a")
    with pytest.raises(BlobUnavailable), store.open("kept/b"):
        pass


def test_what_a_dead_process_has_begun_is_removed_a_day_later(tmp_path: Path) -> None:
    store = directory_in(tmp_path)
    put(store, "kept/a", b"content")
    fresh, old = (tmp_path / "blobs" / "partial" / name for name in ("fresh", "old"))
    for path in (fresh, old):
        path.write_bytes(b"x")
    day_ago = fresh.stat().st_mtime - directory_module.ABANDONED - 1
    os.utime(old, (day_ago, day_ago))
    put(store, "kept/b", b"content")
    assert (fresh.exists(), old.exists()) == (True, False)


def test_a_directory_that_cannot_be_used_is_said_to_be_so(tmp_path: Path) -> None:
    (tmp_path / "blobs").write_text("a file")
    with pytest.raises(BlobUnavailable, match=r"blob_store: .*blobs cannot be used .*check its permissions"):
        put(directory_in(tmp_path), "kept/a", b"content")


# -- S3


def test_a_bucket_that_is_not_there_is_said_to_be_so(make_s3: Callable[[], Store], tmp_path: Path) -> None:
    make_s3()
    nowhere = store_of("s3://no-such-bucket/x", tmp_path)
    with pytest.raises(
        BlobUnavailable, match=r"bucket 'no-such-bucket' cannot be used .*: create it.*AWS_ENDPOINT"
    ) as caught:
        put(nowhere, "kept/a", b"content")
    assert "hush" not in str(caught.value) + repr(nowhere)


def test_what_credentials_may_not_do_is_said_with_the_rights_that_are_needed(
    make_s3: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from botocore.exceptions import ClientError

    def refused(operation: str, code: str) -> Callable[..., None]:
        def call(**_: Any) -> None:
            raise ClientError({"Error": {"Code": code, "Message": "no"}}, operation)

        return call

    client = SimpleNamespace(head_object=refused("HeadObject", "403"), put_object=refused("PutObject", "AccessDenied"))
    store = make_s3()
    monkeypatch.setattr(store, "_client", lambda: client)
    for attempt in (lambda: store.size("kept/a"), blobs_in(store).probe):
        with pytest.raises(BlobUnavailable, match=r"may not do that: allow them s3:GetObject, s3:PutObject and s3:Del"):
            attempt()


def test_a_probe_leaves_nothing_and_says_when_what_it_reads_is_not_what_it_wrote(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    blobs = blobs_in(store)
    blobs.probe()
    assert words(store) == {"kept": set(), "unreferenced": set(), "ledgers": set()}
    monkeypatch.setattr(store, "open", lambda name: contextlib.nullcontext(io.BytesIO(b"other")))
    with pytest.raises(BlobUnavailable, match="does not give back what was written"):
        blobs.probe()


def test_a_child_has_a_client_of_its_own(make_s3: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    store = make_s3()
    mine = store._client()
    assert store._client() is mine
    monkeypatch.setattr(s3.GENERATION, "number", s3.GENERATION.number + 1)
    assert store._client() is not mine


def test_content_that_changed_while_it_was_sent_is_said_to_be_so_whatever_boto3_makes_of_it(
    make_s3: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from botocore.exceptions import HTTPClientError

    class Client:
        """boto3 over TLS reads content while it sends, where its library turns every error into one of its own."""

        def put_object(self, Body: Any, **_: Any) -> None:  # noqa: N803
            try:
                Body.read()
            except Exception as exc:
                raise HTTPClientError(error=exc) from exc

    store = make_s3()
    monkeypatch.setattr(store, "_client", Client)
    with pytest.raises(BlobAltered):
        store.write("kept/a", Sent(io.BytesIO(b"other"), "ab" * 32, 5))
    store.write("kept/a", io.BytesIO(b"what is not compared"))


def test_a_server_that_nobody_answers_at_is_said_to_be_so(
    make_s3: Callable[[], Store], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_s3()
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    away = store_of("s3://some-bucket", tmp_path)
    with pytest.raises(BlobUnavailable, match="'some-bucket' cannot be used"):
        away.size("kept/a")
