"""Files for their owner only: who else may write beside them is told, and no link of theirs is followed."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from pipeline import Pipeline
from pipeline.core.errors import EmbeddedBrokerError, LedgerError
from pipeline.core.files import make_private, write_ahead


def test_a_directory_of_our_own_is_nobody_elses(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make_private(tmp_path / "state" / "ledger.db")
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "state" / "ledger.db").stat().st_mode & 0o777 == 0o600
    assert caplog.text == ""


def test_a_directory_that_others_may_write_into_is_complained_about_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tmp_path.chmod(0o777)
    make_private(tmp_path / "ledger.db")
    make_private(tmp_path / "broker.db")
    assert caplog.text.count("others may write into") == 1


@pytest.mark.parametrize("target", ["file", "nothing"])
def test_a_link_in_a_directory_that_others_may_write_into_is_refused(tmp_path: Path, target: str) -> None:
    place, elsewhere = tmp_path / "place", tmp_path / "elsewhere"
    for directory in (place, elsewhere):
        directory.mkdir()
    if target == "file":
        (elsewhere / "db").touch()
    place.chmod(0o777)
    for name in ("ledger.db", "broker.db"):
        os.symlink(elsewhere / "db", place / name)
    urls = {"broker_url": f"sqlite:///{place}/broker.db", "ledger_url": f"sqlite:///{place}/ledger.db"}
    app = Pipeline("t", directory=place, **urls)
    with pytest.raises(LedgerError, match=r"ledger\.db is a link that others may have put there"):
        app.ledger.database.check()
    with (
        pytest.raises(EmbeddedBrokerError, match=r"broker\.db is a link"),
        app.celery.connection_for_write() as connection,
    ):
        connection.channel()
    app.close()
    assert not (elsewhere / "db").exists() or (elsewhere / "db").stat().st_size == 0


def test_a_state_directory_that_is_a_link_of_its_owner_is_followed(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    os.symlink(tmp_path / "disk", tmp_path / "state")
    make_private(tmp_path / "state" / "ledger.db")
    assert (tmp_path / "disk" / "ledger.db").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a link that is somebody else's")
def test_somebody_elses_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    os.symlink(tmp_path / "disk", tmp_path / "state")
    os.lchown(tmp_path / "state", 65534, 65534)
    with pytest.raises(PermissionError, match="state is a link"):
        make_private(tmp_path / "state" / "ledger.db")


def test_a_new_database_is_waited_for_while_another_process_changes_its_mode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # SQLite itself fails at once, whatever its timeout.
    other = sqlite3.connect(tmp_path / "new.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    waited = []

    def sleep(seconds: float) -> None:
        waited.append(seconds)
        if other.in_transaction:
            other.execute("COMMIT")

    monkeypatch.setattr("pipeline.core.files.time.sleep", sleep)
    ours = sqlite3.connect(tmp_path / "new.db", timeout=60)
    write_ahead(ours, patience=60)
    assert waited
    assert ours.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    ours.close()
    other.close()


def test_a_database_whose_mode_cannot_be_changed_is_an_error_in_the_end(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "new.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        ours = closing(sqlite3.connect(tmp_path / "new.db", timeout=0))
        with ours as connection, pytest.raises(sqlite3.OperationalError, match="locked"):
            write_ahead(connection, patience=0.02)
