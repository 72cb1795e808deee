"""Blobs as what they are in code: content that is read, in memory, from files and from a store."""

from __future__ import annotations

import asyncio
import hashlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import Blob, BlobAltered, BlobMissing, BlobTooLarge, BlobUnavailable, InvalidEvent, Payload, PipelineError
from pipeline.agents.declare import declare
from pipeline.agents.payloads import payload_of
from pipeline.contracts.blobs.blob import may_hold_blobs
from pipeline.contracts.blobs.blobs import Blobs
from pipeline.contracts.registry import Types
from pipeline.core.event import Event, new_event
from tests.blobs import LARGEST, THRESHOLD, blobs_in, words

CONTENT = bytes(range(256)) * 40
ID = hashlib.sha256(CONTENT).hexdigest()


class Report(Payload, type="report.ready"):
    pdf: Blob


class Page(Payload):
    image: Blob


class Book(Payload, type="book.printed"):
    pages: list[Page] = []
    by_name: dict[str, Blob | None] = {}


def sent(payload: Payload, blobs: Blobs | None = None) -> Event:
    """Return an event as it arrives."""
    made = new_event(payload, source="/test", context=blobs and blobs.context)
    return Event.decode(made.encode())


def arrived(payload: Payload, blobs: Blobs) -> Any:
    """Return what an agent is called with."""
    return read_by_agent(sent(payload, blobs), type(payload), blobs)


def read_by_agent(event: Event, cls: Any, blobs: Blobs) -> Any:
    def handler(payload: Any) -> None: ...

    handler.__annotations__["payload"] = cls
    return payload_of(declare(handler, on=event.type), event, Types(), blobs.context)


def kept(blobs: Blobs) -> Blob:
    """Return large content as an agent gets it."""
    blob: Blob = arrived(Report(pdf=Blob(CONTENT, media_type="application/pdf")), blobs).pdf
    return blob


async def streamed(blob: Blob) -> list[bytes]:
    return [chunk async for chunk in blob.chunks(1000)]


# -- on the way


def test_large_content_is_kept_and_the_event_says_which_it_is(blobs: Blobs) -> None:
    event = sent(Report(pdf=Blob(CONTENT, media_type="application/pdf")), blobs)
    assert event.data == {"pdf": {"id": ID, "size": len(CONTENT), "media_type": "application/pdf"}}
    assert words(blobs.store) == {"kept": {ID}, "unreferenced": set(), "ledgers": {"l1"}}


@pytest.mark.parametrize(("size", "is_kept"), [(0, False), (THRESHOLD, False), (THRESHOLD + 1, True)])
def test_the_threshold_decides(blobs: Blobs, size: int, is_kept: bool) -> None:
    payload = Report(pdf=Blob(b"x" * size))
    event = sent(payload, blobs)
    assert ("id" in event.data["pdf"], "content" in event.data["pdf"]) == (is_kept, not is_kept)
    assert bool(words(blobs.store)["kept"]) is is_kept
    assert read_by_agent(event, Report, blobs).pdf.read() == b"x" * size


def test_what_arrives_is_equal_to_what_was_sent(blobs: Blobs) -> None:
    blob = kept(blobs)
    assert (blob.id, blob.size, blob.media_type) == (ID, len(CONTENT), "application/pdf")
    assert blob == Blob(CONTENT, media_type="application/pdf")
    assert len({blob, Blob(CONTENT, media_type="application/pdf")}) == 1
    assert blob != Blob(CONTENT)
    assert blob != Blob(CONTENT[1:], media_type="application/pdf")
    assert blob != ID


def test_each_way_of_reading_gives_the_content(blobs: Blobs) -> None:
    blob = kept(blobs)
    assert blob.read() == CONTENT
    assert asyncio.run(blob.aread()) == CONTENT
    with blob.open() as file:
        assert (file.read(10), file.read(0), file.read()) == (CONTENT[:10], b"", CONTENT[10:])
    chunks = asyncio.run(streamed(blob))
    assert b"".join(chunks) == CONTENT
    assert {len(chunk) for chunk in chunks[:-1]} == {1000}


def test_a_stream_that_is_left_early_is_closed(blobs: Blobs) -> None:
    async def first() -> bytes:
        chunks = kept(blobs).chunks(1000)
        chunk = await anext(chunks)
        await chunks.aclose()  # type: ignore[attr-defined]
        return chunk

    assert asyncio.run(first()) == CONTENT[:1000]  # an open file would be a warning, and so an error


def test_files_are_published_as_they_are(blobs: Blobs, tmp_path: Path) -> None:
    (tmp_path / "report.pdf").write_bytes(CONTENT)
    assert arrived(Report(pdf=Blob(tmp_path / "report.pdf")), blobs).pdf.read() == CONTENT
    file = io.BytesIO(b"header" + CONTENT)
    file.seek(6)
    blob = Blob(file)
    assert arrived(Report(pdf=blob), blobs).pdf.read() == CONTENT
    assert blob.read() == CONTENT, "as often as one likes"


def test_a_path_is_never_in_memory_as_a_whole(blobs: Blobs, tmp_path: Path) -> None:
    import tracemalloc

    size, path = LARGEST * 20, tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(size)
    large = Blobs(blobs.store, THRESHOLD, size, lambda: "l1")
    sent(Report(pdf=Blob(b"y" * 1000)), large)  # what is imported and connected once
    tracemalloc.start()
    event = sent(Report(pdf=Blob(path)), large)
    with read_by_agent(event, Report, large).pdf.open() as file:
        while file.read(100_000):
            pass
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    if repr(blobs.store).startswith("Directory"):  # the server that plays S3 is in this process
        assert most < 3_000_000


def test_blobs_are_found_wherever_they_are_in_a_payload(blobs: Blobs) -> None:
    pages = [Page(image=Blob(bytes([n]) * 1000)) for n in range(3)]
    found = arrived(Book(pages=pages, by_name={"cover": Blob(b"c" * 2000), "none": None}), blobs)
    assert [page.image.read()[0] for page in found.pages] == [0, 1, 2]
    assert found.by_name["cover"].read() == b"c" * 2000
    assert len(words(blobs.store)["kept"]) == 4


@given(content=st.binary(max_size=3 * THRESHOLD))
def test_whatever_it_is_it_comes_back(content: bytes) -> None:
    import tempfile

    from tests.blobs import directory_in

    with tempfile.TemporaryDirectory() as directory:
        blobs = blobs_in(directory_in(Path(directory)))
        found = arrived(Report(pdf=Blob(content)), blobs).pdf
        assert (found.read(), found.size, found.id) == (content, len(content), hashlib.sha256(content).hexdigest())


def test_a_blob_that_arrived_is_sent_on_without_being_read(blobs: Blobs, monkeypatch: pytest.MonkeyPatch) -> None:
    blob = kept(blobs)
    monkeypatch.setattr(blobs.store, "open", None)
    monkeypatch.setattr(blobs.store, "write", None)
    assert sent(Book(by_name={"same": blob}), blobs).data["by_name"]["same"]["id"] == ID


def test_a_blob_that_is_gone_is_not_sent_on(blobs: Blobs) -> None:
    blob = kept(blobs)
    blobs.store.remove(f"kept/{ID}")
    with pytest.raises(BlobMissing, match=ID):
        sent(Report(pdf=blob), blobs)


def test_without_an_app_content_travels_in_the_payload() -> None:
    event = sent(Report(pdf=Blob(CONTENT)))
    assert Report.model_validate(event.data).pdf.read() == CONTENT


def test_outside_of_an_app_a_kept_blob_says_how_to_be_read(blobs: Blobs) -> None:
    event = sent(Report(pdf=Blob(CONTENT)), blobs)
    with pytest.raises(PipelineError, match=r"context=app\.blobs\.context"):
        Report.model_validate(event.data).pdf.read()
    assert Report.model_validate(event.data, context=blobs.context).pdf.read() == CONTENT
    assert blobs.of(event.data["pdf"]).read() == CONTENT


# -- what goes wrong with content


def test_a_missing_blob_is_an_error_that_says_what_to_do(blobs: Blobs) -> None:
    blob = kept(blobs)
    blobs.store.remove(f"kept/{ID}")
    for read in (blob.read, lambda: asyncio.run(blob.aread()), lambda: asyncio.run(streamed(blob))):
        with pytest.raises(BlobMissing, match=rf"blob {ID} is not in .*put it back .* then requeue"):
            read()
    sent(Report(pdf=Blob(CONTENT)), blobs)
    assert blob.read() == CONTENT, "publishing it again has put it back"


@pytest.mark.parametrize(
    "other", [CONTENT[:-1], CONTENT[:-1] + b"?", CONTENT + b"!", b""], ids=["cut", "changed", "longer", "empty"]
)
def test_altered_content_is_found_out_before_its_end(blobs: Blobs, other: bytes) -> None:
    blob = kept(blobs)
    blobs.store.write(f"kept/{ID}", io.BytesIO(other))
    handed: list[bytes] = []

    async def stream() -> None:
        async for chunk in blob.chunks(1000):
            handed.append(chunk)  # noqa: PERF401  # those that came before the error count

    for read in (blob.read, lambda: asyncio.run(blob.aread()), lambda: asyncio.run(stream())):
        with pytest.raises(BlobAltered, match=rf"blob {ID} is not what was published.*requeue"):
            read()
    assert sum(map(len, handed)) < len(CONTENT)


def test_content_that_was_cut_off_is_put_back_by_publishing_it_again(blobs: Blobs) -> None:
    blob = kept(blobs)
    blobs.store.write(f"kept/{ID}", io.BytesIO(CONTENT[:-1]))
    sent(Report(pdf=Blob(CONTENT)), blobs)
    assert blob.read() == CONTENT


def test_a_file_that_changes_while_it_is_published_is_refused_and_nothing_is_kept(blobs: Blobs, tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(CONTENT)
    blob = Blob(path)
    assert blob.id == ID
    path.write_bytes(CONTENT[::-1])
    with pytest.raises(InvalidEvent, match="changed while it was read"):
        sent(Report(pdf=blob), blobs)
    path.write_bytes(CONTENT + b"x")
    grown = Blob(path)
    assert grown.size == len(CONTENT) + 1
    path.write_bytes(CONTENT)
    with pytest.raises(InvalidEvent, match="changed while it was read"):
        sent(Report(pdf=grown), blobs)
    assert words(blobs.store)["kept"] == set()


def test_content_that_is_too_large_is_refused_before_it_is_read(
    blobs: Blobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (tmp_path / "large").open("wb") as file:
        file.truncate(LARGEST + 1)
    blob = Blob(tmp_path / "large")
    monkeypatch.setattr(Path, "open", None)
    with pytest.raises(BlobTooLarge, match=r"^report.ready: data.pdf: 1,000,001 bytes are .*PIPELINE_MAX_BLOB_BYTES"):
        sent(Report(pdf=blob), blobs)
    book = Book(pages=[Page(image=Blob(b"small")), Page(image=blob)], by_name={"cover": None})
    with pytest.raises(BlobTooLarge, match=r"^book.printed: data.pages.1.image: 1,000,001 bytes are"):
        sent(book, blobs)
    with pytest.raises(BlobTooLarge, match=r"^book.printed: data.by_name.back: 1,000,001 bytes are"):
        sent(Book(by_name={"cover": Blob(b"small"), "back": blob}), blobs)


def test_an_event_that_names_too_large_content_is_refused(blobs: Blobs) -> None:
    event = Event(id="e", type="report.ready", source="/s", data={"pdf": {"id": ID, "size": LARGEST + 1}})
    with pytest.raises(InvalidEvent, match=r"pdf: .*bytes are more than a blob may have"):
        read_by_agent(event, Report, blobs)


def test_a_store_that_cannot_be_used_is_no_wrong_payload(blobs: Blobs, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: Any) -> None:
        raise BlobUnavailable("it is away")

    monkeypatch.setattr(blobs.store, "write", away)
    with pytest.raises(BlobUnavailable, match="it is away"):
        sent(Report(pdf=Blob(CONTENT)), blobs)


def test_the_same_content_is_written_once(blobs: Blobs, monkeypatch: pytest.MonkeyPatch) -> None:
    sent(Report(pdf=Blob(CONTENT)), blobs)
    monkeypatch.setattr(blobs.store, "write", None)
    sent(Report(pdf=Blob(CONTENT, media_type="text/plain")), blobs)


# -- what is no blob


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Blob("text"), "takes bytes, a Path, or a file"),
        (lambda: Blob(io.StringIO("text")), "this one gives text"),
        (lambda: Blob(Path("/no/such/file")), "there is no file /no/such/file"),
        (lambda: Blob(Path("/")), "there is no file /"),
        (lambda: Blob(b"", media_type="pdf"), "media_type: 'pdf' is none such as"),
        (lambda: Blob(b"", media_type="text/plain\n"), "media_type: "),
    ],
)
def test_what_cannot_be_a_blob_is_refused_at_once(make: Callable[[], Blob], said: str) -> None:
    with pytest.raises(InvalidEvent, match=said):
        make()


def test_what_can_be_read_only_once_is_refused() -> None:
    import os

    read, write = os.pipe()
    os.close(write)
    with os.fdopen(read, "rb") as pipe, pytest.raises(InvalidEvent, match="write it to a file first"):
        Blob(pipe)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("text", "a blob is"),
        ({}, "a blob is"),
        ({"id": ID, "size": 1, "content": ""}, "a blob is"),
        ({"id": "../" * 3 + "etc/passwd", "size": 1}, "id: no SHA-256"),
        ({"id": ID.upper(), "size": 1}, "id: no SHA-256"),
        ({"id": ID + "\n", "size": 1}, "id: no SHA-256"),
        ({"id": 7, "size": 1}, "id: no SHA-256"),
        ({"id": ID}, "size: "),
        ({"id": ID, "size": -1}, "size: "),
        ({"id": ID, "size": True}, "size: "),
        ({"id": ID, "size": 1, "media_type": 7}, "media_type: "),
        ({"content": "no base64"}, "content: no base64"),
        ({"content": 7}, "content: no base64"),
        ({"content": "", "media_type": "x"}, "media_type: "),
    ],
)
def test_an_event_with_something_else_does_not_validate(blobs: Blobs, value: Any, said: str) -> None:
    event = Event(id="e", type="report.ready", source="/s", data={"pdf": value})
    with pytest.raises(InvalidEvent, match=f"pdf: {said}"):
        read_by_agent(event, Report, blobs)


def test_other_programs_are_told_both_forms() -> None:
    schema = Report.model_json_schema()["properties"]["pdf"]
    assert [form["required"] for form in schema["anyOf"]] == [["id", "size"], ["content"]]


def test_its_text_shows_no_content() -> None:
    assert repr(Blob(b"secret" * 1000)) == "Blob(<6,000 bytes>, media_type='application/octet-stream')"
    assert "secret" not in repr(Blob(io.BytesIO(b"secret")))


def test_classes_that_hold_blobs_are_known() -> None:
    class Tree(Payload, type="tree.grown"):
        blob: Blob | None = None
        below: list[Tree] = []

    class Number(Payload, type="number.made"):
        n: int

    Tree.model_rebuild(_types_namespace={"Tree": Tree, "Blob": Blob})
    assert may_hold_blobs(Report)
    assert may_hold_blobs(Book)
    assert may_hold_blobs(Tree)
    assert not may_hold_blobs(Number)
