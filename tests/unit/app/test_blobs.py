"""Blobs in an app: kept before the event is published, wherever an app or a handler publishes."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from pipeline import (
    Blob,
    BlobMissing,
    BlobUnavailable,
    ConfigError,
    Context,
    EventTooLarge,
    InvalidEvent,
    Payload,
    Pipeline,
)
from pipeline.agents.payloads import answer_of
from pipeline.contracts.blobs import directory as directory_module
from pipeline.coordination.schedule import SCHEDULED
from pipeline.delivery.steps import Attempt, run
from pipeline.settings import Settings
from tests.blobs import words
from tests.records import died, event_ids, make_app, messages

CONTENT = b"x" * 200_000


class Report(Payload, type="report.ready"):
    pdf: Blob


class Number(Payload, type="number.made"):
    n: int


class Placed(Payload, type="order.placed"):
    scan: Blob | None = None


@pytest.fixture
def app(tmp_path: Path, no_settings: None) -> Iterator[Pipeline]:
    with closing(make_app(f"sqlite:///{tmp_path / 'ledger.db'}", tmp_path, agents=False)) as app:
        yield app


@pytest.fixture
def bare(tmp_path: Path, no_settings: None) -> Iterator[Pipeline]:
    """An app without a ledger."""
    url = f"sqlite:///{tmp_path / 'bare.db'}"
    with closing(Pipeline("bare", broker_url=url, ledger_url="", directory=tmp_path / "state")) as app:
        yield app


@pytest.fixture
def unwritable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nothing be written into a store."""

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(directory_module.os, "fsync", full)


def kept(app: Pipeline) -> set[str]:
    return words(app.blobs.store)["kept"]


def test_content_lies_in_a_directory_beside_the_ledger_and_is_there_before_the_event(
    app: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there: list[bool] = []
    append = app.bus.outbox.publish
    monkeypatch.setattr(app.bus.outbox, "publish", lambda *a, **k: (there.append(bool(kept(app))), append(*a, **k))[1])
    event = app.publish(Report(pdf=Blob(CONTENT)))
    assert there == [True]
    assert (tmp_path / "state" / "blobs" / "kept" / event.data["pdf"]["id"]).read_bytes() == CONTENT
    assert words(app.blobs.store)["ledgers"] == {app.ledger.id}


@pytest.mark.usefixtures("unwritable")
def test_what_cannot_be_kept_is_not_published(app: Pipeline) -> None:
    for publish in (app.publish, lambda one: app.publish_many([one]), lambda one: asyncio.run(app.apublish(one))):
        with pytest.raises(BlobUnavailable, match=r"No space left .*the space on its disk"):
            publish(Report(pdf=Blob(CONTENT)))
    assert event_ids(app) == []


def test_publishing_many_keeps_each(app: Pipeline) -> None:
    found = app.publish_many([Report(pdf=Blob(bytes([n]) * 200_000)) for n in range(3)])
    assert kept(app) == {event.data["pdf"]["id"] for event in found}


def test_without_a_ledger_it_works_too_and_the_store_knows_it(bare: Pipeline) -> None:
    event = bare.publish(Report(pdf=Blob(CONTENT)))
    assert bare.blobs.of(event.data["pdf"]).read() == CONTENT
    assert words(bare.blobs.store)["ledgers"] == {"none"}


def test_async_publishers_keep_it_beside_their_event_loop(app: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: dict[str, Any] = {}
    keep = app.blobs.keep
    monkeypatch.setattr(app.blobs, "keep", lambda source: (threads.update(keep=threading.get_ident()), keep(source))[1])
    asyncio.run(app.apublish(Report(pdf=Blob(CONTENT))))
    assert threads["keep"] != threading.get_ident()


def test_a_file_is_too_large_for_an_event_that_says_what_to_do(app: Pipeline) -> None:
    with pytest.raises(EventTooLarge, match="put large content into a field of the type Blob"):
        app.publish("a.b", "x" * 300_000)


def test_content_that_fits_into_no_event_is_kept_whatever_the_threshold(tmp_path: Path, no_settings: None) -> None:
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    with closing(make_app(url, tmp_path, agents=False, max_event_bytes=10_000, blob_threshold=10**6)) as app:
        assert "content" in app.publish(Report(pdf=Blob(b"x" * 5000))).data["pdf"]
        assert "id" in app.publish(Report(pdf=Blob(b"x" * 5001))).data["pdf"]


def test_an_agents_payload_that_untyped_data_has_to_fit_knows_the_limit(tmp_path: Path, no_settings: None) -> None:
    with closing(make_app(f"sqlite:///{tmp_path / 'l.db'}", tmp_path, agents=False, max_blob_bytes=1000)) as app:

        @app.agent(on=Report)
        def reader(report: Report) -> None: ...

        with pytest.raises(InvalidEvent, match="1,001 bytes are more than a blob may have, 1,000"):
            app.publish("report.ready", {"pdf": {"id": "ab" * 32, "size": 1001}})


# -- handlers


def attempt(app: Pipeline, handler: Callable[..., Any], payload: Payload) -> Context:
    """Run a handler on an event as a worker does; return its context."""
    agent = app.agent(on=type(payload))(handler)
    event = app.publish(payload)
    context = Context(event, agent.name, "d", 1, app.source, None, ledger=app.ledger, blobs=app.blobs.context)
    run(Attempt(app.bus, agent, context))
    return context


def test_a_handler_reads_it_and_emits_others(app: Pipeline) -> None:
    found: list[bytes] = []

    def handler(report: Report, ctx: Context) -> None:
        found.append(report.pdf.read())
        ctx.publish(Report(pdf=Blob(CONTENT[::-1] + b"!")))

    (event,) = attempt(app, handler, Report(pdf=Blob(CONTENT))).published
    assert found == [CONTENT]
    assert app.blobs.of(event.data["pdf"]).read() == CONTENT[::-1] + b"!"


def test_an_async_handlers_loop_goes_on_while_content_is_kept(app: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    turned, threads, loops = threading.Event(), [], []
    keep = app.blobs.keep

    def slow(source: Any) -> bool:
        threads.append(threading.get_ident())
        assert turned.wait(20), "the loop stood still"
        return keep(source)

    async def handler(number: Number, ctx: Context) -> None:
        loops.append(threading.get_ident())
        asyncio.get_running_loop().call_soon(turned.set)
        ctx.publish(Report(pdf=Blob(CONTENT)))

    monkeypatch.setattr(app.blobs, "keep", slow)
    context = attempt_in_strand(app, handler)
    assert len(context.published) == 1
    assert threads != loops


def attempt_in_strand(app: Pipeline, handler: Callable[..., Any]) -> Context:
    from pipeline.agents.strand import Strand, to_end

    agent = app.agent(on=Number)(handler)
    event = app.publish(Number(n=1))
    context = Context(event, agent.name, "d", 1, app.source, None, ledger=app.ledger, blobs=app.blobs.context)

    async def on_loop() -> None:
        await to_end(Strand("test", lambda: run(Attempt(app.bus, agent, context))))

    asyncio.run(on_loop())
    return context


def test_a_missing_blob_is_the_attempts_error(app: Pipeline) -> None:
    def handler(report: Report, ctx: Context) -> None:
        app.blobs.store.remove(f"kept/{report.pdf.id}")
        report.pdf.read()

    with pytest.raises(BlobMissing, match="put it back"):
        attempt(app, handler, Report(pdf=Blob(CONTENT)))


def test_what_a_canvas_keeps_of_an_answer_names_its_blob(app: Pipeline) -> None:
    answer = answer_of("a", [Report(pdf=Blob(CONTENT))], app.blobs.context)
    assert set(answer[0]["pdf"]) == {"id", "size", "media_type"}
    assert kept(app) == {answer[0]["pdf"]["id"]}


@pytest.mark.usefixtures("unwritable")
def test_an_answer_that_cannot_be_kept_is_no_wrong_answer(app: Pipeline) -> None:
    with pytest.raises(BlobUnavailable):
        answer_of("a", Report(pdf=Blob(CONTENT)), app.blobs.context)


def test_a_test_of_a_handler_needs_no_store() -> None:
    ctx = Context.for_test(Report(pdf=Blob(CONTENT)))
    ctx.publish(Report(pdf=Blob(CONTENT)))
    (event,) = ctx.published
    assert Report.model_validate(event.data).pdf.read() == CONTENT


# -- operators and schedules


def test_a_schedule_keeps_content_when_it_is_due_and_not_before(app: Pipeline, tmp_path: Path) -> None:
    app.schedule("report", 3600, Report(pdf=Blob(CONTENT)))
    assert not (tmp_path / "state" / "blobs").exists()
    app.celery.tasks[SCHEDULED]("report")
    (id,) = kept(app)
    assert app.blobs.of({"id": id, "size": len(CONTENT)}).read() == CONTENT


def test_a_dead_letter_can_be_given_other_content(app: Pipeline) -> None:
    @app.agent(on=Placed)
    def billing(order: Placed) -> None: ...

    (id,) = died(app, 1)
    app.dead_letters.requeue(id, data=Placed(scan=Blob(CONTENT)))
    ((_, body),) = messages(app, "billing")
    assert kept(app) == {body["data"]["scan"]["id"]}


# -- settings


def test_the_settings_have_the_defaults_that_the_documentation_names(no_settings: None) -> None:
    settings = Settings.load()
    assert (settings.blob_store, settings.blob_threshold, settings.max_blob_bytes) == ("", 128 * 1024, 64 * 1024 * 1024)


@pytest.mark.parametrize(
    "value",
    ["ftp://bucket", "s3://", "s3://UPPER", "s3://key:hush@bucket/x", "s3://bucket/a?token=hush", "s3:///prefix"],
)
def test_an_address_that_is_none_is_refused_and_not_shown(no_settings: None, value: str) -> None:
    with pytest.raises(ConfigError, match=r"blob_store: .*s3://BUCKET/PREFIX") as caught:
        Settings.load(blob_store=value)
    assert "hush" not in str(caught.value)


def test_s3_without_its_package_says_how_to_install_it(no_settings: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.settings.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"blob_store: s3:// needs the package boto3; pip install .*\[s3\]"):
        Settings.load(blob_store="s3://bucket/of/shop")


def test_a_directory_of_its_own_is_used(tmp_path: Path, no_settings: None) -> None:
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    with closing(make_app(url, tmp_path, agents=False, blob_store=str(tmp_path / "large"))) as app:
        event = app.publish(Report(pdf=Blob(CONTENT)))
        assert (tmp_path / "large" / "kept" / event.data["pdf"]["id"]).is_file()
