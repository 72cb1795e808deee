"""Retention: old events go into an archive and come back from it, on every ledger."""

from __future__ import annotations

import gzip
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from pipeline import Event, Pipeline, archive, retention
from pipeline.archive import ArchiveError
from pipeline.dead_letters import DeadLetters
from pipeline.errors import InvalidSelection, LedgerUnavailable
from pipeline.event import new_event
from pipeline.ids import delivery_id
from pipeline.ledger import missing
from pipeline.ledger.migrate import VERSION_TABLE
from pipeline.ledger.rows import SECOND, Record, now
from pipeline.ledger.tables import events, joins, metadata, outbox
from pipeline.retention import Pruned, Restored, prune, restore
from tests.records import (
    age,
    die,
    everything,
    lose_outbox,
    make_app,
    messages,
    order,
    rows,
    run_agents,
    settle,
    succeed,
)  # fmt: skip

DAY = 86_400 * SECOND
DAYS = timedelta(days=1)


@pytest.fixture
def app(ledger_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pipeline]:
    for name in [name for name in os.environ if name.startswith("PIPELINE_")]:
        monkeypatch.delenv(name)
    app = make_app(ledger_url, tmp_path)
    yield app
    app.close()


def old(app: Pipeline, number: int, days: int = 10) -> list[Event]:
    """Publish orders that were settled days ago."""
    found = app.publish_many([order(n) for n in range(number)])
    settle(app, found)
    age(app, found, days * DAY)
    return found


def left(app: Pipeline) -> list[str]:
    """Return the ids of the events in the ledger, in their order."""
    return [row["id"] for row in everything(app)["events"]]


# -- what goes and what stays


def test_old_events_go_with_their_deliveries(app: Pipeline) -> None:
    gone, kept = old(app, 3, days=31), old(app, 2, days=29)
    assert prune(app.ledger, older_than=30 * DAYS) == Pruned(3, 6, 0, 0, None)
    assert left(app) == [event.id for event in kept]
    assert {row["event_id"] for row in rows(app)} == {event.id for event in kept}
    assert prune(app.ledger, older_than=30 * DAYS) == Pruned(0, 0, 0, 0, None)
    assert not {event.id for event in gone} & set(left(app))


@pytest.mark.parametrize(("keep", "number"), [(0, 0), (2, 2), (5, 5), (9, 5)])
def test_the_newest_stay(app: Pipeline, keep: int, number: int) -> None:
    found = old(app, 5)
    assert prune(app.ledger, keep=keep).events == 5 - number
    assert left(app) == [event.id for event in found[5 - number :]]


def test_with_both_limits_an_event_has_to_be_beyond_both(app: Pipeline) -> None:
    found = [*old(app, 3, days=31), *old(app, 1, days=1)]
    assert prune(app.ledger, older_than=30 * DAYS, keep=2).events == 2
    assert left(app) == [event.id for event in found[2:]]
    assert prune(app.ledger, older_than=30 * DAYS, keep=1).events == 1


def test_events_that_nobody_listens_to_and_filtered_or_dropped_ones_go_too(app: Pipeline) -> None:
    lost = app.publish("lost.one", {})
    dropped = app.publish("order.paid", {})
    DeadLetters(app).drop(die(app, dropped))
    lose_outbox(app)
    age(app, [lost, dropped], 10 * DAY)
    assert prune(app.ledger, older_than=5 * DAYS).events == 2


def test_dead_letters_stay_and_are_counted(app: Pipeline) -> None:
    (event,) = app.publish_many([order()])
    succeed(app, event, "stock")
    id = die(app, event)
    old(app, 1)
    age(app, [event], 10 * DAY)
    assert prune(app.ledger, older_than=DAYS) == Pruned(1, 2, 1, 0, None)
    assert DeadLetters(app).get(id).event == event


@pytest.mark.parametrize("state", ["unsent", "running", "retrying", "requeued", "joining", "unclaimed"])
def test_an_event_with_which_something_is_still_to_be_done_stays(app: Pipeline, state: str) -> None:
    event = app.publish(order())
    succeed(app, event, "stock")
    id = delivery_id(event.id, "billing")
    if state == "unsent":
        succeed(app, event, "billing")
        app.ledger.append([Record(event, event.encode())], due=0)
    elif state == "running":
        app.ledger.claim(id, event, "billing", worker="w")
    elif state == "retrying":
        app.ledger.claim(id, event, "billing", worker="w")
        app.ledger.again(id, event, 1, delay=60, error="no", timer=True)
    elif state == "requeued":
        DeadLetters(app).requeue(die(app, event))
    elif state == "joining":
        succeed(app, event, "billing")
        _add(app, joins, id="j", name="j", event_id=event.id, correlation=event.correlation_id, started=1)
    age(app, [event], 10 * DAY)
    before = everything(app)
    assert prune(app.ledger, older_than=DAYS) == Pruned(0, 0, 0, 1, None)
    assert everything(app) == before


def _add(app: Pipeline, table: Any, **values: Any) -> None:
    with app.ledger.store.transaction() as connection:
        connection.execute(table.insert().values(**values))


def test_an_event_goes_when_its_agent_is_behind_it_or_does_not_want_it_or_is_forgotten(app: Pipeline) -> None:
    wanted = app.publish(order())
    for_stock = app.publish(order(), targets=("stock",))
    succeed(app, wanted, "stock")
    succeed(app, for_stock, "stock")
    age(app, [wanted, for_stock], 10 * DAY)
    assert prune(app.ledger, older_than=DAYS).events == 1, "the other agent was never meant"
    assert left(app) == [wanted.id]
    missing.forget(app.ledger, "billing")
    assert prune(app.ledger, older_than=DAYS).events == 1


def test_an_agent_that_came_later_holds_nothing_back(app: Pipeline) -> None:
    old(app, 2)
    run_agents(app, {"late": "#"})
    assert prune(app.ledger, older_than=DAYS) == Pruned(2, 4, 0, 0, None)


def test_joins_that_ended_long_ago_go_too(app: Pipeline) -> None:
    for number, ended in enumerate([now() - 10 * DAY, now(), None]):
        _add(app, joins, id=str(number), name="j", event_id="e", correlation="c", started=1, ended=ended)
    prune(app.ledger, older_than=DAYS)
    assert [row["id"] for row in rows(app, joins)] == ["1", "2"]


def test_events_go_in_batches_with_progress(app: Pipeline) -> None:
    found = old(app, 5)
    (kept,) = found[2:3]
    app.ledger.claim(delivery_id(kept.id, "audit"), kept, "audit", worker="w")
    done: list[int] = []
    assert prune(app.ledger, older_than=DAYS, batch=2, progress=done.append).events == 4
    assert done == [2, 3, 4]
    assert left(app) == [kept.id]


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"keep": -1},
        {"older_than": -DAYS},
        {"keep": 1, "batch": 0},
        {"keep": 1, "batch": 100_000},
    ],
)
def test_what_may_go_has_to_be_said(app: Pipeline, arguments: dict[str, Any]) -> None:
    found = old(app, 1)
    with pytest.raises(InvalidSelection):
        prune(app.ledger, **arguments)
    assert left(app) == [event.id for event in found]


def test_an_event_that_is_taken_up_again_meanwhile_stays(
    app: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = old(app, 2)
    written = archive.write

    def write(*arguments: Any) -> int:
        number = written(*arguments)
        succeed(app, one, "replayed")
        return number

    monkeypatch.setattr(archive, "write", write)
    assert prune(app.ledger, older_than=DAYS, archive=tmp_path / "a.jsonl").events == 1
    assert left(app) == [one.id]
    assert len(rows(app, event_id=one.id)) == 3
    assert rows(app, event_id=two.id) == []


# -- the archive


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_everything_comes_back_from_an_archive_as_it_was(app: Pipeline, tmp_path: Path, name: str) -> None:
    old(app, 3)
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
    found = old(app, 3)
    while missing.check(app.ledger, 0):
        pass
    assert rows(app, outcome="waiting") == []
    prune(app.ledger, older_than=DAYS, archive=tmp_path / "a.jsonl")
    restore(app.ledger, tmp_path / "a.jsonl")
    while missing.check(app.ledger, 0):
        pass
    assert rows(app, outcome="waiting") == []
    assert left(app) == [event.id for event in found]
    newer = app.publish(order())
    assert left(app)[-1] == newer.id, "what comes now still comes last"


def test_an_archive_is_lines_of_cloudevents(app: Pipeline, tmp_path: Path) -> None:
    (event,) = old(app, 1)
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
    app.ledger.append([Record(event, text.replace("\n", "\r\n").encode())], due=None)
    prune(app.ledger, keep=0, archive=tmp_path / "a.jsonl")
    restore(app.ledger, tmp_path / "a.jsonl")
    assert Event.decode(rows(app, events)[0]["body"]) == event


def test_a_ledger_that_was_lost_is_restored_into_an_empty_one(app: Pipeline, tmp_path: Path, ledger_url: str) -> None:
    found = old(app, 3)
    prune(app.ledger, older_than=DAYS, archive=tmp_path / "a.jsonl")
    app.close()
    _empty(app)
    (tmp_path / "new").mkdir()
    fresh = make_app(ledger_url, tmp_path / "new", agents=False)
    assert restore(fresh.ledger, tmp_path / "a.jsonl").events == 3
    newer = fresh.publish_many([order(), order()])
    assert left(fresh) == [*(event.id for event in found), *(event.id for event in newer)]
    fresh.close()


def _empty(app: Pipeline) -> None:
    """Put an empty ledger in the place of an app's."""
    with app.ledger.store.engine.begin() as connection:
        metadata.drop_all(connection)
        connection.exec_driver_sql(f"DROP TABLE {VERSION_TABLE}")
    app.ledger.close()


def test_an_archive_of_another_ledger_is_refused_where_agents_would_get_its_events(
    app: Pipeline, tmp_path: Path, ledger_url: str
) -> None:
    old(app, 1)
    prune(app.ledger, older_than=DAYS, archive=tmp_path / "a.jsonl")
    app.close()
    _empty(app)
    (tmp_path / "new").mkdir()
    other = make_app(ledger_url, tmp_path / "new")
    with pytest.raises(ArchiveError, match="another ledger"):
        restore(other.ledger, tmp_path / "a.jsonl")
    assert left(other) == []
    other.close()


def test_a_number_that_belongs_to_another_event_is_refused(app: Pipeline, tmp_path: Path, ledger_url: str) -> None:
    old(app, 2)
    prune(app.ledger, older_than=DAYS, archive=tmp_path / "a.jsonl")
    app.close()
    _empty(app)
    (tmp_path / "new").mkdir()
    other = make_app(ledger_url, tmp_path / "new", agents=False)
    mine = other.publish(order())
    before = everything(other)
    with pytest.raises(ArchiveError, match="sequence number 1 belongs to another event"):
        restore(other.ledger, tmp_path / "a.jsonl")
    assert everything(other) == before
    assert left(other) == [mine.id]
    other.close()


# -- an archive that cannot be written


def test_an_existing_file_is_not_overwritten(app: Pipeline, tmp_path: Path) -> None:
    found = old(app, 1)
    (tmp_path / "a.jsonl").write_text("mine")
    with pytest.raises(ArchiveError, match="is not overwritten"):
        prune(app.ledger, older_than=DAYS, archive=tmp_path / "a.jsonl")
    assert (tmp_path / "a.jsonl").read_text() == "mine"
    assert left(app) == [event.id for event in found]


def test_a_file_that_appears_meanwhile_is_not_overwritten(
    app: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = old(app, 1)
    fsync = os.fsync

    def other_process(handle: int) -> None:
        (tmp_path / "a.jsonl").write_text("mine")
        fsync(handle)

    monkeypatch.setattr(os, "fsync", other_process)
    with pytest.raises(ArchiveError, match="is not overwritten"):
        prune(app.ledger, older_than=DAYS, archive=tmp_path / "a.jsonl")
    assert (tmp_path / "a.jsonl").read_text() == "mine"
    assert left(app) == [event.id for event in found]


@pytest.mark.parametrize("where", ["missing/a.jsonl", "file/a.jsonl"])
def test_a_directory_that_cannot_be_written_deletes_nothing(app: Pipeline, tmp_path: Path, where: str) -> None:
    found = old(app, 1)
    (tmp_path / "file").write_text("")
    with pytest.raises(ArchiveError, match=r"cannot be written .*nothing was deleted"):
        prune(app.ledger, older_than=DAYS, archive=tmp_path / where)
    assert left(app) == [event.id for event in found]


def test_a_full_disk_deletes_nothing_and_leaves_no_half_archive(app: Pipeline, tmp_path: Path) -> None:
    found = old(app, 40)
    (tmp_path / "archives").mkdir()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16_384, hard))
    try:
        with pytest.raises(ArchiveError, match="nothing was deleted"):
            prune(app.ledger, older_than=DAYS, archive=tmp_path / "archives" / "a.jsonl")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list((tmp_path / "archives").iterdir()) == []
    assert left(app) == [event.id for event in found]


def test_nothing_to_prune_writes_no_archive(app: Pipeline, tmp_path: Path) -> None:
    old(app, 1)
    (tmp_path / "archives").mkdir()
    found = prune(app.ledger, older_than=20 * DAYS, archive=tmp_path / "archives" / "a.jsonl")
    assert found == Pruned(0, 0, 0, 0, None)
    assert list((tmp_path / "archives").iterdir()) == []


def test_a_ledger_that_goes_away_meanwhile_is_told_apart_from_the_archive(
    app: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old(app, 1)

    def away(*_: object) -> None:
        raise LedgerUnavailable("away")

    monkeypatch.setattr(retention, "_examine", away)
    with pytest.raises(LedgerUnavailable, match="away"):
        prune(app.ledger, older_than=DAYS, archive=tmp_path / "a.jsonl")
    assert not (tmp_path / "a.jsonl").exists()


KILLED = """
import os, signal, sys
from datetime import timedelta
from pathlib import Path
from pipeline import retention
from pipeline.ledger import Ledger

left = int(sys.argv[3])
original = retention._delete

def delete(connection, entries):
    global left
    found = original(connection, entries)
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
    found, before = old(app, 5), everything(app)
    path = tmp_path / "a.jsonl"
    ended = subprocess.run(
        [sys.executable, "-c", KILLED, ledger_url, str(path), str(batches)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert left(app) == [event.id for event in found[batches * 2 :]], "the batch that was under way is whole"
    rest = prune(app.ledger, older_than=DAYS, archive=tmp_path / "b.jsonl")
    assert rest.events == 5 - batches * 2
    assert left(app) == []
    assert restore(app.ledger, path) == Restored(5, 10, 0), "the first archive has everything"
    assert everything(app) == before
    assert restore(app.ledger, tmp_path / "b.jsonl").known == rest.events


# -- an archive that is damaged


@pytest.fixture
def damaged(app: Pipeline, tmp_path: Path) -> Path:
    """Return an archive of four events, three lines and then some each, that were pruned."""
    old(app, 4)
    prune(app.ledger, older_than=DAYS, archive=tmp_path / "a.jsonl")
    return tmp_path / "a.jsonl"


def change(path: Path, number: int, line: bytes | None) -> None:
    """Replace a line (counted from 1), or leave it out."""
    lines = path.read_bytes().splitlines(keepends=True)
    lines[number - 1 : number] = [] if line is None else [line + b"\n"]
    path.write_bytes(b"".join(lines))


def edited(path: Path, number: int, **data: Any) -> bytes:
    """Return a line with other data."""
    line = json.loads(path.read_bytes().splitlines()[number - 1])
    line["data"] = {**line["data"], **data}
    return json.dumps(line).encode()


@pytest.mark.parametrize(
    ("number", "data", "match"),
    [
        (9, {"seq": "3"}, "line 9: data.seq"),
        (9, {"seq": True}, "line 9: data.seq"),
        (9, {"seq": None}, "line 9: data.seq"),
        (9, {"seq": 2**63}, "line 9: data.seq.*range"),
        (9, {"recorded": -1}, "line 9: data.recorded.*range"),
        (9, {"ledger": None}, "line 9: data: ledger"),
        (9, {"deliveries": 1}, "line 12: type"),
        (9, {"deliveries": 3}, "line 13: type"),
        (9, {"id": "other"}, "line 10: id"),
        (9, {"type": "other"}, "line 10: id"),
        (11, {"outcome": "waiting"}, "line 11: data.outcome: 'waiting' is not over"),
        (11, {"outcome": "dead"}, "line 11: data.outcome"),
        (11, {"event_id": "other"}, "line 11: data.event_id"),
        (11, {"agent": 3}, "line 11: data.agent"),
        (11, {"broadcast": 1}, "line 11: data.broadcast"),
        (11, {"surprise": 1}, "line 11: data: not a row"),
        (17, {"events": 5}, "line 17: data"),
    ],
)
def test_a_wrong_row_is_named_and_nothing_of_its_batch_restored(
    app: Pipeline, damaged: Path, number: int, data: dict[str, Any], match: str
) -> None:
    change(damaged, number, edited(damaged, number, **data))
    with pytest.raises(ArchiveError, match=match):
        restore(app.ledger, damaged)
    assert everything(app) == {"events": [], "deliveries": []}


@pytest.mark.parametrize(
    ("number", "line", "named"),
    [
        (9, b"", 9),
        (10, b"{", 10),
        (11, b"\xff\xfe", 11),
        (12, b"[]", 12),
        (13, b'{"type": "a b"}', 13),
        (9, None, 9),
        (10, None, 10),
        (11, None, 12),
    ],
)
def test_a_line_that_is_damaged_or_missing_is_named(
    app: Pipeline, damaged: Path, number: int, line: bytes | None, named: int
) -> None:
    change(damaged, number, line)
    with pytest.raises(ArchiveError, match=rf"a\.jsonl is damaged in line {named}: "):
        restore(app.ledger, damaged)
    assert everything(app) == {"events": [], "deliveries": []}


def test_what_comes_before_the_damage_can_be_had_in_batches(app: Pipeline, damaged: Path) -> None:
    change(damaged, 10, b"{")
    with pytest.raises(ArchiveError, match=r"line 10: .*; 2 events before that were restored"):
        restore(app.ledger, damaged, batch=2)
    assert len(left(app)) == 2
    assert len(rows(app)) == 4


@pytest.mark.parametrize("lines", [0, 4, 5, 6, 7, 16])
def test_an_archive_that_was_cut_off_is_incomplete(app: Pipeline, damaged: Path, lines: int) -> None:
    damaged.write_bytes(b"".join(damaged.read_bytes().splitlines(keepends=True)[:lines]))
    with pytest.raises(ArchiveError, match=f"ends after line {lines}, and is incomplete"):
        restore(app.ledger, damaged)
    assert left(app) == []


def test_compressed_archives_can_be_damaged_too(app: Pipeline, damaged: Path, tmp_path: Path) -> None:
    whole = gzip.compress(damaged.read_bytes())
    path = tmp_path / "b.jsonl.gz"
    for raw in (whole[:-20], whole[:200], b"plain text\n", whole[:100] + b"\x00\x00\x00" + whole[103:]):
        path.write_bytes(raw)
        with pytest.raises(ArchiveError, match="damaged in line"):
            restore(app.ledger, path)
        assert left(app) == []
    path.write_bytes(whole)
    assert restore(app.ledger, path).events == 4


def test_an_archive_that_is_not_there_is_named(app: Pipeline, tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match=r"no\.jsonl cannot be read"):
        restore(app.ledger, tmp_path / "no.jsonl")
    with pytest.raises(ArchiveError, match="cannot be read"):
        restore(app.ledger, tmp_path)


def test_archives_may_be_joined(app: Pipeline, damaged: Path, tmp_path: Path) -> None:
    old(app, 2)
    prune(app.ledger, older_than=DAYS, archive=tmp_path / "b.jsonl")
    both = tmp_path / "both.jsonl"
    both.write_bytes(damaged.read_bytes() + (tmp_path / "b.jsonl").read_bytes())
    done: list[int] = []
    assert restore(app.ledger, both, batch=4, progress=done.append) == Restored(6, 12, 0)
    assert done == [4, 6]
    assert messages(app, "billing") == []
