"""Archives that are damaged, cut off or joined: what is wrong is named, and nothing is half restored."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from pipeline import Pipeline
from pipeline.operations.keeping.archive import ArchiveError
from pipeline.operations.keeping.restore import Restored, restore
from pipeline.operations.keeping.retention import prune
from tests.ledgers import DAYS, long_settled
from tests.records import (
    event_ids,
    messages,
    order,
    rows,
)  # fmt: skip

pytestmark = pytest.mark.usefixtures("agents")


@pytest.fixture
def damaged(app: Pipeline, tmp_path: Path) -> Path:
    """Return an archive of four events, three lines and then some each, that were pruned."""
    long_settled(app, 4)
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
        (9, {"seq": 2**63}, "line 9: .*data.seq.*64 bits"),
        (9, {"recorded": -1}, "line 9: data.recorded.*range"),
        (9, {"ledger": None}, "line 9: data: ledger"),
        (9, {"deliveries": 1}, "line 12: type"),
        (9, {"deliveries": 3}, "line 13: type"),
        (9, {"id": "other"}, "line 10: id"),
        (9, {"type": "other"}, "line 10: id"),
        (11, {"outcome": "queued"}, "line 11: data.outcome: 'queued' is not over"),
        (11, {"outcome": "dead"}, "line 11: data.outcome"),
        (11, {"event_id": "other"}, "line 11: data.event_id"),
        (11, {"agent": 3}, "line 11: data.agent"),
        (11, {"broadcast": 1}, "line 11: data.broadcast"),
        (11, {"surprise": 1}, "line 11: data: not a row"),
        (17, {"events": 5}, "line 17: data"),
    ],
)
def test_a_wrong_row_is_named_and_the_rest_restored(
    app: Pipeline, damaged: Path, number: int, data: dict[str, Any], match: str
) -> None:
    change(damaged, number, edited(damaged, number, **data))
    # A delivery too many, and a wrong count at the end, cost no event.
    lost = 0 if data in ({"deliveries": 1}, {"events": 5}) else 1
    restored = restore(app.ledger, damaged)
    assert (restored.events, restored.aside) == (4 - lost, 1)
    assert re.search(match, reported(app))


def reported(app: Pipeline) -> str:
    """Return where and why something is set aside."""
    (one,) = app.ledger.aside.list()
    assert one.place == "archive a.jsonl"
    return f"{one.id}: {one.reason}"


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
def test_a_line_that_is_damaged_or_missing_is_named_and_the_rest_restored(
    app: Pipeline, damaged: Path, number: int, line: bytes | None, named: int
) -> None:
    change(damaged, number, line)
    restored = restore(app.ledger, damaged)
    assert (restored.events, restored.aside) == (3, 1)
    assert f"line {named}: " in reported(app)


def test_what_comes_before_the_end_of_an_archive_that_was_cut_off_can_be_had_in_batches(
    app: Pipeline, damaged: Path
) -> None:
    damaged.write_bytes(b"".join(damaged.read_bytes().splitlines(keepends=True)[:10]))
    with pytest.raises(ArchiveError, match=r"ends after line 10, .*; 2 events before that were restored"):
        restore(app.ledger, damaged, batch=2)
    assert len(event_ids(app)) == 2
    assert len(rows(app)) == 4


def test_damage_is_noted_with_its_batch(app: Pipeline, damaged: Path) -> None:
    change(damaged, 1, edited(damaged, 1, seq="x"))
    noted: list[str] = []
    restored = restore(app.ledger, damaged, batch=1, progress=lambda _: noted.append(reported(app)))
    assert (restored.events, restored.aside) == (3, 1)
    assert len(noted) == 3


def test_that_damage_cannot_be_noted_does_not_hide_that_an_archive_was_cut_off(app: Pipeline, damaged: Path) -> None:
    lines = damaged.read_bytes().splitlines(keepends=True)
    damaged.write_bytes(b"".join([*lines[:12], b"{}\n"]))
    with app.ledger.database.transaction() as connection:
        connection.execute(text("ALTER TABLE pipeline_aside RENAME TO elsewhere"))
    with pytest.raises(ArchiveError, match="3 events before that were restored"):
        restore(app.ledger, damaged, batch=1)


@pytest.mark.parametrize("seq", [0, 2**53 + 1, 2**63 - 2, 2**63 - 1])
def test_a_number_that_leaves_none_for_new_events_is_not_restored(app: Pipeline, damaged: Path, seq: int) -> None:
    change(damaged, 13, edited(damaged, 13, seq=seq))
    assert restore(app.ledger, damaged).events == 3
    assert app.publish(order())


@pytest.mark.parametrize("lines", [0, 4, 5, 6, 7, 16])
def test_an_archive_that_was_cut_off_is_incomplete(app: Pipeline, damaged: Path, lines: int) -> None:
    damaged.write_bytes(b"".join(damaged.read_bytes().splitlines(keepends=True)[:lines]))
    with pytest.raises(ArchiveError, match=f"ends after line {lines}, and is incomplete"):
        restore(app.ledger, damaged)
    assert event_ids(app) == []


def test_compressed_archives_can_be_damaged_too(app: Pipeline, damaged: Path, tmp_path: Path) -> None:
    whole = gzip.compress(damaged.read_bytes())
    path = tmp_path / "b.jsonl.gz"
    for raw in (whole[:-20], whole[:200], b"plain text\n", whole[:100] + b"\x00\x00\x00" + whole[103:]):
        path.write_bytes(raw)
        with pytest.raises(ArchiveError, match="damaged in line"):
            restore(app.ledger, path)
        assert event_ids(app) == []
    path.write_bytes(whole)
    assert restore(app.ledger, path).events == 4


def test_an_archive_that_is_not_there_is_named(app: Pipeline, tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match=r"no\.jsonl cannot be read"):
        restore(app.ledger, tmp_path / "no.jsonl")
    with pytest.raises(ArchiveError, match="cannot be read"):
        restore(app.ledger, tmp_path)


def test_archives_may_be_joined(app: Pipeline, damaged: Path, tmp_path: Path) -> None:
    long_settled(app, 2)
    prune(app.ledger, older_than=DAYS, archive=tmp_path / "b.jsonl")
    both = tmp_path / "both.jsonl"
    both.write_bytes(damaged.read_bytes() + (tmp_path / "b.jsonl").read_bytes())
    done: list[int] = []
    assert restore(app.ledger, both, batch=4, progress=done.append) == Restored(6, 12, 0)
    assert done == [4, 6]
    assert messages(app, "billing") == []
