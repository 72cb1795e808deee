"""The archive of pruned events: written whole or not at all, and restored as it was, on every ledger."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline import Event, Pipeline
from pipeline.core.errors import LedgerUnavailable
from pipeline.core.event import Encoded, new_event
from pipeline.ledger.database.migrate import VERSION_TABLE
from pipeline.ledger.database.tables import events, metadata, outbox
from pipeline.operations.keeping import retention
from pipeline.operations.keeping.archive import FORMAT, ArchiveError
from pipeline.operations.keeping.restore import Restored, restore
from pipeline.operations.keeping.retention import Pruned, prune
from tests.ledgers import DAY, DAYS, long_settled, reconcile
from tests.records import (
    age,
    event_ids,
    everything,
    make_app,
    order,
    rows,
    settle,
)  # fmt: skip

pytestmark = pytest.mark.usefixtures("agents")


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_everything_comes_back_from_an_archive_as_it_was(app: Pipeline, tmp_path: Path, name: str) -> None:
    long_settled(app, 3)
    odd = new_event("order.paid", {"text": "Grüße \u2028 \n {", "n": [1.5, None]}, source="/t/agent/x", subject="s")
    app.publish(odd, priority=1)
    settle(app, [odd.evolve()])
    age(app, [odd], 10 * DAY)
    before, path = everything(app), tmp_path / name
    assert prune(app.ledger, older_than=DAYS, archive=path) == Pruned(4, 8, 0, 0, path)
    assert everything(app) == {"events": [], "deliveries": []}
    assert restore(app.ledger, path) == Restored(4, 8, 0)
    assert everything(app) == before
    assert restore(app.ledger, path) == Restored(0, 0, 4), "a second time changes nothing"
    assert everything(app) == before
    assert rows(app, outbox) == []
    assert (path.read_bytes()[:2] == b"\x1f\x8b") == name.endswith(".gz")


def test_restored_events_are_delivered_to_nobody(app: Pipeline, tmp_path: Path) -> None:
    found = long_settled(app, 3)
    reconcile(app.ledger, 0)
    assert rows(app, outcome="queued") == []
    prune(app.ledger, older_than=DAYS, archive=tmp_path / "a.jsonl")
    restore(app.ledger, tmp_path / "a.jsonl")
    reconcile(app.ledger, 0)
    assert rows(app, outcome="queued") == []
    assert event_ids(app) == [event.id for event in found]
    newer = app.publish(order())
    assert event_ids(app)[-1] == newer.id, "what comes now still comes last"


def test_an_archive_is_lines_of_cloudevents(app: Pipeline, tmp_path: Path) -> None:
    (event,) = long_settled(app, 1)
    (row,) = rows(app, events)
    prune(app.ledger, older_than=DAYS, archive=tmp_path / "a.jsonl")
    lines = (tmp_path / "a.jsonl").read_bytes().splitlines()
    assert lines[1] == event.encode(), "the event as it was stored"
    kinds = [json.loads(line)["type"] for line in lines]
    assert kinds == ["event.recorded", "order.placed", "delivery.recorded", "delivery.recorded", "archive.ended"]
    for line in lines:
        Event.decode(line)
    head = json.loads(lines[0])
    assert (head["subject"], head["data"]["seq"], head["data"]["recorded"]) == (event.id, row["seq"], row["recorded"])
    delivery = json.loads(lines[2])["data"]
    assert delivery["event_id"] == event.id
    assert (delivery["outcome"], delivery["attempts"]) == ("succeeded", 1)


def test_an_event_on_several_lines_fits_on_one(app: Pipeline, tmp_path: Path) -> None:
    text = json.dumps(json.loads(new_event("lost.one", {"a": "b\nc"}, source="/x").encode()), indent=1)
    event = Event.decode(text)
    app.ledger.append([Encoded(event, text.replace("\n", "\r\n").encode())], due_in=None)
    prune(app.ledger, keep=0, archive=tmp_path / "a.jsonl")
    restore(app.ledger, tmp_path / "a.jsonl")
    assert Event.decode(rows(app, events)[0]["body"]) == event


def in_place_of(app: Pipeline, ledger_url: str, directory: Path, **options: Any) -> Pipeline:
    """Return an app with an empty ledger in the place of another one's."""
    app.close()
    with app.ledger.database.engine.begin() as connection:
        metadata.drop_all(connection)
        connection.exec_driver_sql(f"DROP TABLE {VERSION_TABLE}")
    app.ledger.close()
    directory.mkdir()
    return make_app(ledger_url, directory, **options)


def test_a_ledger_that_was_lost_is_restored_into_an_empty_one(app: Pipeline, tmp_path: Path, ledger_url: str) -> None:
    found = long_settled(app, 3)
    prune(app.ledger, older_than=DAYS, archive=tmp_path / "a.jsonl")
    fresh = in_place_of(app, ledger_url, tmp_path / "new", agents=False)
    assert restore(fresh.ledger, tmp_path / "a.jsonl").events == 3
    newer = fresh.publish_many([order(), order()])
    assert event_ids(fresh) == [*(event.id for event in found), *(event.id for event in newer)]
    fresh.close()


def test_an_archive_of_another_ledger_is_refused_where_agents_would_get_its_events(
    app: Pipeline, tmp_path: Path, ledger_url: str
) -> None:
    long_settled(app, 1)
    prune(app.ledger, older_than=DAYS, archive=tmp_path / "a.jsonl")
    other = in_place_of(app, ledger_url, tmp_path / "new")
    with pytest.raises(ArchiveError, match="another ledger"):
        restore(other.ledger, tmp_path / "a.jsonl")
    assert event_ids(other) == []
    other.close()


def test_a_number_that_belongs_to_another_event_is_refused(app: Pipeline, tmp_path: Path, ledger_url: str) -> None:
    long_settled(app, 2)
    prune(app.ledger, older_than=DAYS, archive=tmp_path / "a.jsonl")
    other = in_place_of(app, ledger_url, tmp_path / "new", agents=False)
    mine = other.publish(order())
    before = everything(other)
    with pytest.raises(ArchiveError, match="sequence number 1 belongs to another event"):
        restore(other.ledger, tmp_path / "a.jsonl")
    assert everything(other) == before
    assert event_ids(other) == [mine.id]
    other.close()


# -- an archive that cannot be written


def test_an_existing_file_is_not_overwritten(app: Pipeline, tmp_path: Path) -> None:
    found = long_settled(app, 1)
    (tmp_path / "a.jsonl").write_text("mine")
    with pytest.raises(ArchiveError, match="is not overwritten"):
        prune(app.ledger, older_than=DAYS, archive=tmp_path / "a.jsonl")
    assert (tmp_path / "a.jsonl").read_text() == "mine"
    assert event_ids(app) == [event.id for event in found]


def test_a_file_that_appears_meanwhile_is_not_overwritten(
    app: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = long_settled(app, 1)
    fsync = os.fsync

    def other_process(handle: int) -> None:
        (tmp_path / "a.jsonl").write_text("mine")
        fsync(handle)

    monkeypatch.setattr(os, "fsync", other_process)
    with pytest.raises(ArchiveError, match="is not overwritten"):
        prune(app.ledger, older_than=DAYS, archive=tmp_path / "a.jsonl")
    assert (tmp_path / "a.jsonl").read_text() == "mine"
    assert event_ids(app) == [event.id for event in found]


@pytest.mark.parametrize("where", ["missing/a.jsonl", "file/a.jsonl"])
def test_a_directory_that_cannot_be_written_deletes_nothing(app: Pipeline, tmp_path: Path, where: str) -> None:
    found = long_settled(app, 1)
    (tmp_path / "file").write_text("")
    with pytest.raises(ArchiveError, match=r"cannot be written .*nothing was deleted"):
        prune(app.ledger, older_than=DAYS, archive=tmp_path / where)
    assert event_ids(app) == [event.id for event in found]


def test_a_full_disk_deletes_nothing_and_leaves_no_half_archive(app: Pipeline, tmp_path: Path) -> None:
    found = long_settled(app, 40)
    (tmp_path / "archives").mkdir()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16_384, hard))
    try:
        with pytest.raises(ArchiveError, match="nothing was deleted"):
            prune(app.ledger, older_than=DAYS, archive=tmp_path / "archives" / "a.jsonl")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list((tmp_path / "archives").iterdir()) == []
    assert event_ids(app) == [event.id for event in found]


def test_nothing_to_prune_writes_no_archive(app: Pipeline, tmp_path: Path) -> None:
    long_settled(app, 1)
    (tmp_path / "archives").mkdir()
    found = prune(app.ledger, older_than=20 * DAYS, archive=tmp_path / "archives" / "a.jsonl")
    assert found == Pruned(0, 0, 0, 0, None)
    assert list((tmp_path / "archives").iterdir()) == []


def test_a_ledger_that_goes_away_meanwhile_is_told_apart_from_the_archive(
    app: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long_settled(app, 1)

    def away(*_: object) -> None:
        raise LedgerUnavailable("away")

    monkeypatch.setattr(retention, "examine", away)
    with pytest.raises(LedgerUnavailable, match="away"):
        prune(app.ledger, older_than=DAYS, archive=tmp_path / "a.jsonl")
    assert not (tmp_path / "a.jsonl").exists()


KILLED = """
import os, signal, sys
from datetime import timedelta
from pathlib import Path
from pipeline.operations.keeping import retention
from pipeline.ledger.ledger import Ledger

left = int(sys.argv[3])
original = retention._delete

def delete(connection, **options):
    global left
    found = original(connection, **options)
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
    left -= 1
    return found

retention._delete = delete
retention.prune(Ledger(sys.argv[1]), older_than=timedelta(days=1), archive=Path(sys.argv[2]), batch=2)
"""


@pytest.mark.parametrize("batches", [0, 1])
def test_a_kill_while_rows_are_deleted_loses_nothing(
    app: Pipeline, ledger_url: str, tmp_path: Path, batches: int
) -> None:
    found, before = long_settled(app, 5), everything(app)
    path = tmp_path / "a.jsonl"
    ended = subprocess.run(
        [sys.executable, "-c", KILLED, ledger_url, str(path), str(batches)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert event_ids(app) == [event.id for event in found[batches * 2 :]], "the batch that was under way is whole"
    rest = prune(app.ledger, older_than=DAYS, archive=tmp_path / "b.jsonl")
    assert rest.events == 5 - batches * 2
    assert event_ids(app) == []
    assert restore(app.ledger, path) == Restored(5, 10, 0), "the first archive has everything"
    assert everything(app) == before
    assert restore(app.ledger, tmp_path / "b.jsonl").known == rest.events


# -- formats


def rewrite(path: Path, change: Any) -> None:
    """Let every record of an archive be what a function makes of its data."""
    lines = []
    for line in path.read_bytes().splitlines():
        record = json.loads(line)
        if record["type"] in ("event.recorded", "delivery.recorded"):
            change(record["type"], record["data"])
            lines.append(json.dumps(record).encode() + b"\n")
        else:
            lines.append(line + b"\n")
    path.write_bytes(b"".join(lines))


def test_an_archive_says_its_format(app: Pipeline, tmp_path: Path) -> None:
    long_settled(app, 1)
    prune(app.ledger, older_than=DAYS, archive=tmp_path / "a.jsonl")
    assert json.loads((tmp_path / "a.jsonl").read_bytes().splitlines()[0])["data"]["format"] == FORMAT


def test_an_archive_of_an_older_format_is_read_with_what_it_has(app: Pipeline, tmp_path: Path) -> None:
    """As it was before there were format numbers, and with columns that came and went since."""

    def older(type: str, data: dict[str, Any]) -> None:
        data.pop("format", None)
        data["of_old"] = "gone"
        for name in ("replay",) if type == "event.recorded" else ("process", "emitted", "broadcast"):
            del data[name]

    long_settled(app, 2)
    before, path = everything(app), tmp_path / "a.jsonl"
    prune(app.ledger, older_than=DAYS, archive=path)
    rewrite(path, older)
    assert restore(app.ledger, path) == Restored(2, 4, 0)
    after = everything(app)
    assert after["events"] == before["events"]
    lost = {"process": None, "emitted": 0, "broadcast": True}
    assert after["deliveries"] == [{**row, **lost} for row in before["deliveries"]]


def test_an_archive_of_a_newer_format_is_left_alone(app: Pipeline, tmp_path: Path) -> None:
    def newer(type: str, data: dict[str, Any]) -> None:
        if type == "event.recorded":
            data["format"] = FORMAT + 1

    long_settled(app, 1)
    path = tmp_path / "a.jsonl"
    prune(app.ledger, older_than=DAYS, archive=path)
    rewrite(path, newer)
    with pytest.raises(ArchiveError, match=f"has format {FORMAT + 1}, newer than {FORMAT}.*upgrade pipeline"):
        restore(app.ledger, path)
    assert everything(app) == {"events": [], "deliveries": []}
