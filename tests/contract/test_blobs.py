"""Blobs through real workers: large content arrives, and what is missing is a dead letter until it is back."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from pipeline import Blob, Payload, Pipeline
from pipeline.contracts.blobs import blobs as blobs_module
from pipeline.contracts.blobs.blobs import DAY
from tests.blobs import s3_environment, s3_server, words
from tests.harness import Broker, StartWorker, Worker, dead_letters
from tests.ledgers import DAYS
from tests.records import age
from tests.servers import wait_for

SIZE = 10_000_000


class Report(Payload, type="report.ready"):
    pdf: Blob
    pages: list[Blob] = []


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """A file with content that is nowhere else."""
    path = tmp_path / "report.pdf"
    path.write_bytes(os.urandom(SIZE))
    return path


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.bare
@pytest.mark.watched
@pytest.mark.parametrize("pool", ["solo", "threads", "prefork"])
def test_ten_megabytes_arrive_are_sent_on_and_emitted(
    bus: Pipeline, broker: Broker, worker: StartWorker, large: Path, pool: str
) -> None:
    worker(app="blobs_app", pool=pool)
    small = Blob(b"a page", media_type="text/plain")
    bus.publish(Report(pdf=Blob(large, media_type="application/pdf"), pages=[small]))
    (line,) = broker.journal.wait(1, agent="has-read")
    assert line["data"] == [digest(large), hashlib.sha256(b"a page").hexdigest()]
    (line,) = broker.journal.wait(1, agent="checker")
    assert line["data"] == [digest(large)] * 2
    (line,) = broker.journal.wait(1, agent="summarizer")
    assert line["data"] == digest(large)
    bus.publish("report.untyped", {"pdf": {"id": digest(large), "size": SIZE}})
    (line,) = broker.journal.wait(1, agent="untyped")
    assert line["data"] == digest(large)


@pytest.mark.bare
def test_a_missing_blob_is_tried_again_and_then_a_dead_letter_that_can_be_requeued(
    bus: Pipeline, broker: Broker, worker: StartWorker, large: Path
) -> None:
    worker(app="blobs_app", name="declarer").stop()
    bus.publish(Report(pdf=Blob(large)))
    kept = broker.directory / "state" / "blobs" / "kept" / digest(large)
    kept.rename(broker.directory / "lost")
    worker(app="blobs_app")
    wait_for(lambda: len(dead_letters(bus, "reader")) == 1, "the dead letter")
    assert [line["attempt"] for line in broker.journal.lines(agent="reader")] == [1, 2, 3, 4]
    if not bus.has_ledger:
        return
    wait_for(lambda: len(bus.dead_letters.list()) == 2, "both dead letters")
    for letter in bus.dead_letters.list():
        assert letter.error.startswith(f"BlobMissing: blob {digest(large)} is not in Directory(")
    (broker.directory / "lost").rename(kept)
    assert bus.dead_letters.requeue(all=True).number == 2
    (line,) = broker.journal.wait(1, agent="has-read")
    assert line["data"] == [digest(large)]
    broker.journal.wait(1, agent="checker")
    broker.journal.wait(1, agent="summarizer")
    assert bus.dead_letters.list() == []


def test_ten_megabytes_go_a_day_after_the_last_event_that_names_them(
    bus: Pipeline, broker: Broker, worker: StartWorker, large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker(app="blobs_app", pool="prefork")
    event = bus.publish(Report(pdf=Blob(large)))
    (line,) = broker.journal.wait(1, agent="has-read", id=event.id)
    assert line["data"] == [digest(large)]
    bus.settle(event, timeout=60)
    assert digest(large) in words(bus.blobs.store)["kept"]
    age(bus, [one.event for one in bus.get_events()], 10 * DAY)
    pruned = bus.prune(older_than=5 * DAYS)
    assert (pruned.events, pruned.blobs, words(bus.blobs.store)["kept"]) == (3, 0, set())
    tomorrow = blobs_module.now() + DAY
    monkeypatch.setattr(blobs_module, "now", lambda: tomorrow)
    assert bus.prune(older_than=5 * DAYS).blobs == 2, "what was published, and what the handler has made of it"
    assert words(bus.blobs.store)["unreferenced"] == set()


def test_altered_content_is_a_dead_letter_and_a_replay_reads_what_is_right_again(
    bus: Pipeline, broker: Broker, worker: StartWorker, large: Path
) -> None:
    worker(app="blobs_app", name="declarer").stop()
    event = bus.publish(Report(pdf=Blob(large)))
    kept = broker.directory / "state" / "blobs" / "kept" / digest(large)
    right = kept.read_bytes()
    kept.write_bytes(right[:-1] + bytes([right[-1] ^ 1]))
    worker(app="blobs_app")
    wait_for(lambda: len(bus.dead_letters.list()) == 2, "both dead letters")
    assert {letter.error.partition(":")[0] for letter in bus.dead_letters.list()} == {"BlobAltered"}
    assert broker.journal.lines(agent="has-read") == []
    kept.write_bytes(right)
    bus.dead_letters.drop(all=True)
    bus.replay(to="reader", ids=[event.id])
    (line,) = broker.journal.wait(1, agent="has-read")
    assert line["data"] == [digest(large)]


def test_ten_megabytes_arrive_through_s3(tmp_path: Path, large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import boto3

    broker = Broker("embedded", f"sqlite:///{tmp_path / 'state' / 'broker.db'}", tmp_path)
    with s3_server() as address:
        for name, value in s3_environment(address).items():
            monkeypatch.setenv(name, value)
        boto3.session.Session().client("s3").create_bucket(Bucket="shop")
        settings = {"blob_store": "s3://shop/of/tests", "directory": tmp_path / "state"}
        bus = Pipeline("publisher", broker_url=broker.url, **settings)
        one = Worker(broker, app="blobs_app", pool="prefork", environment={"PIPELINE_BLOB_STORE": "s3://shop/of/tests"})
        try:
            one.start()
            bus.publish(Report(pdf=Blob(large)))
            (line,) = broker.journal.wait(1, agent="has-read")
            assert line["data"] == [digest(large)]
            (line,) = broker.journal.wait(1, agent="checker")
            assert line["data"] == [digest(large)] * 2
        finally:
            one.kill()
            bus.close()
            bus.celery.close()
    assert not (tmp_path / "state" / "blobs").exists()
