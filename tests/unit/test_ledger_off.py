"""What needs a ledger says so when there is none."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from pipeline import Pipeline
from pipeline.core.errors import LedgerOff
from tests.records import order


def test_without_a_ledger_what_needs_one_says_so(tmp_path: Path) -> None:
    app = Pipeline("t", ledger_url="", broker_url=f"sqlite:///{tmp_path / 'broker.db'}", directory=tmp_path)
    at = datetime.now(UTC)
    for needs, call in {
        "^delay= and at= need": lambda: app.publish(order(), delay=1),
        "and at= need": lambda: app.publish(order(), at=at),
        "and connection= need": lambda: app.publish(order(), connection=object()),
        "session= and connection= need": lambda: app.publish_many([order()], session=object()),
        "delay= and at= need": lambda: app.publish_on_commit(order(), delay=1, on_commit=print),
        r"cancel\(\) needs": lambda: app.cancel("x"),
        "this needs": lambda: app.ledger,
    }.items():
        with pytest.raises(LedgerOff, match=f"{needs}.* a ledger, and the setting ledger_url is empty"):
            call()
    assert app.publish(order()).sent
    app.close()


def test_without_a_ledger_there_is_nothing_to_look_at(tmp_path: Path) -> None:
    app = Pipeline("t", ledger_url="", directory=tmp_path)
    with pytest.raises(LedgerOff):
        app.dead_letters.list()
    with pytest.raises(LedgerOff):
        app.approvals.list()


def test_without_a_ledger_there_is_nothing_to_replay(tmp_path: Path) -> None:
    app = Pipeline("t", ledger_url="", directory=tmp_path)
    with pytest.raises(LedgerOff):
        app.replay(to="billing", all=True)
