"""Retention of blobs: what the ledger's events name stays, and the rest goes, on every ledger."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert, update

from pipeline import Blob, ConfigError, Event, Payload, Pipeline
from pipeline.contracts.blobs import blobs as blobs_module
from pipeline.contracts.blobs.blobs import DAY
from pipeline.ledger.database.tables import aside, deliveries, events, snapshots, timers
from pipeline.operations.keeping.references import still_named
from tests.blobs import words
from tests.ledgers import DAYS
from tests.records import age, die, event_ids, lose_outbox, rows, succeed

ID, OTHER = "ab" * 32, "cd" * 32


class Report(Payload, type="report.ready"):
    pdf: Blob


@pytest.fixture
def days(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Let days pass for the store of blobs."""
    real, gone = blobs_module.now, [0]
    monkeypatch.setattr(blobs_module, "now", lambda: real() + gone[0])

    def wait(number: int) -> None:
        gone[0] += number * DAY

    return wait


def published(app: Pipeline, byte: bytes = b"x", **options: Any) -> Event:
    """Publish a report with large content; the broker has it."""
    event = app.publish(Report(pdf=Blob(byte * 200_000)), **options)
    lose_outbox(app)
    return event


def kept(app: Pipeline) -> set[str]:
    return words(app.blobs.store)["kept"]


def readable(app: Pipeline) -> set[str]:
    """Return the ids of what can still be read."""
    found = words(app.blobs.store)
    return found["kept"] | {word.partition(".")[0] for word in found["unreferenced"]}


def test_a_blob_goes_a_day_after_its_event(app: Pipeline, days: Callable[[int], None]) -> None:
    old, new = published(app, b"o"), published(app, b"n")
    for event in (old, new):
        succeed(app, event, "any")
    age(app, [old], 10 * DAY)
    ids = [event.data["pdf"]["id"] for event in (old, new)]
    pruned = app.prune(older_than=5 * DAYS)
    assert (pruned.events, pruned.blobs, pruned.as_data()["blobs"]) == (1, 0, 0)
    assert (kept(app), readable(app)) == ({ids[1]}, set(ids))
    assert app.prune(older_than=5 * DAYS).blobs == 0
    days(2)
    assert app.prune(older_than=5 * DAYS).blobs == 1
    assert readable(app) == {ids[1]}


def test_content_that_another_event_names_too_stays(app: Pipeline, days: Callable[[int], None]) -> None:
    old, new = published(app), published(app)
    for event in (old, new):
        succeed(app, event, "any")
    age(app, [old], 10 * DAY)
    for _ in range(3):
        app.prune(older_than=5 * DAYS)
        days(2)
    assert event_ids(app) == [new.id]
    assert kept(app) == {new.data["pdf"]["id"]}


def test_a_dead_letter_keeps_its_blob(app: Pipeline, days: Callable[[int], None]) -> None:
    event = published(app)
    die(app, event)
    age(app, [event], 10 * DAY)
    for _ in range(3):
        app.prune(older_than=5 * DAYS)
        days(2)
    assert kept(app) == {event.data["pdf"]["id"]}


def test_a_delayed_event_keeps_its_blob(app: Pipeline, days: Callable[[int], None]) -> None:
    event = app.publish(Report(pdf=Blob(b"x" * 200_000)), delay=3600)
    for _ in range(3):
        app.prune(keep=0)
        days(2)
    assert kept(app) == {event.data["pdf"]["id"]}


def test_content_whose_event_is_appended_after_the_look_stays(app: Pipeline, days: Callable[[int], None]) -> None:
    payload = Report(pdf=Blob(b"x" * 200_000))
    app.blobs.keep(payload.pdf._source)  # type: ignore[arg-type]  # as publish() does first
    app.prune(keep=0)
    assert kept(app) == set()
    data = {"id": payload.pdf.id, "size": payload.pdf.size}
    event = app.publish("report.ready", {"pdf": data})
    assert app.blobs.of(event.data["pdf"]).read() == b"x" * 200_000
    days(2)
    app.prune(keep=5)
    assert kept(app) == {payload.pdf.id}


def test_erasing_an_event_lets_its_blob_go(app: Pipeline, days: Callable[[int], None]) -> None:
    event, other = published(app, b"e", subject="ada"), published(app, b"o", subject="grace")
    succeed(app, event, "any")
    assert app.erase(subject="ada").events == 1
    for _ in range(2):
        app.prune(keep=100)
        days(2)
    assert readable(app) == {other.data["pdf"]["id"]}


def test_an_archive_keeps_the_name_and_not_the_content(
    app: Pipeline, days: Callable[[int], None], tmp_path: Path
) -> None:
    event = published(app)
    succeed(app, event, "any")
    app.prune(keep=0, archive=tmp_path / "old.jsonl")
    assert event.data["pdf"]["id"] in (tmp_path / "old.jsonl").read_text()
    app.restore(tmp_path / "old.jsonl")
    days(2)
    app.prune(keep=100)
    assert kept(app) == {event.data["pdf"]["id"]}, "restored in time, its blob is back"


def test_where_another_ledgers_events_may_name_blobs_nothing_is_pruned(app: Pipeline) -> None:
    event = published(app)
    succeed(app, event, "any")
    app.blobs.store.write("ledgers/another", io.BytesIO())
    with pytest.raises(ConfigError, match="events of the ledger another may refer"):
        app.prune(keep=0)
    assert event_ids(app) == [event.id], "nor is anything else"


# -- every place that names one


@pytest.mark.pooled
@pytest.mark.parametrize("place", ["event", "edited", "result", "delayed", "aside", "state", "nowhere"])
def test_each_text_of_the_ledger_counts(app: Pipeline, place: str) -> None:
    event = app.publish("order.paid", {"pdf": ID if place == "event" else "none"})
    succeed(app, event, "any")
    text = json.dumps({"data": {"pdf": [{"id": ID, "size": 1}]}})
    tables = {
        "delayed": (timers, {"id": "t", "kind": "publish", "due": 2**60, "correlation": "c", "body": text}),
        "aside": (aside, {"place": "timers", "id": "a", "at": 1, "reason": "bad", "body": text}),
        "state": (
            snapshots,
            {"stream": "s", "state": "S", "tx": 0, "seq": 1, "max_seq": 1, "max_time": 1, "body": text},
        ),
    }
    with app.ledger.database.transaction() as connection:
        if place in tables:
            table, row = tables[place]
            connection.execute(insert(table).values(row))
        if place in ("edited", "result"):
            connection.execute(update(deliveries).values({"body" if place == "edited" else "result": text}))
    assert still_named(app.ledger, {ID, OTHER}) == (set() if place == "nowhere" else {ID})


def test_an_id_within_something_longer_is_none(app: Pipeline) -> None:
    app.publish("order.paid", {"sha512": "00" + ID, "other": ID + "00", "upper": OTHER.upper()})
    assert still_named(app.ledger, {ID, OTHER}) == set()


def test_a_text_that_is_damaged_stops_no_look(app: Pipeline) -> None:
    app.publish("order.paid", {"pdf": ID})
    if app.ledger.database.is_sqlite:
        with app.ledger.database.transaction() as connection:
            connection.exec_driver_sql("UPDATE pipeline_events SET body = CAST(body || x'ff' AS TEXT)")
    assert still_named(app.ledger, {ID}) == {ID}


def test_more_rows_than_are_in_memory_at_once_are_read(app: Pipeline) -> None:
    app.publish_many([("order.paid", {"n": n}) for n in range(1200)])
    app.publish("order.paid", {"pdf": ID})
    assert still_named(app.ledger, {ID}) == {ID}
    assert len(rows(app, events)) == 1201
