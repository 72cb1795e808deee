"""Marks: what the broker has leaves the outbox with the next append, or a moment later, whatever ends the process."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from pipeline import Pipeline
from pipeline.core.errors import IdTaken, LedgerUnavailable
from pipeline.core.event import new_event
from pipeline.ledger.database.tables import outbox as outbox_table
from pipeline.publishing import marks, outbox
from tests.harness import Broker, backlog, run
from tests.ledgers import move, sweep
from tests.records import event_ids, order, rows
from tests.servers import wait_for


def unmarked(app: Pipeline) -> list[str]:
    """Return what is in the outbox, as another process sees it."""
    with app.ledger.database.reading() as connection:
        return list(connection.execute(select(outbox_table.c.event_id)).scalars())


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nobody write marks by himself."""
    monkeypatch.setattr(marks, "SOON", 600.0)


def test_a_mark_is_written_soon(app: Pipeline) -> None:
    assert app.publish(order()).sent
    wait_for(lambda: not unmarked(app), "the mark is written", 10)


def test_one_thread_writes_marks_for_a_while_and_ends_when_none_come(
    app: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(marks, "LINGER", 600.0)
    threads = []
    for _ in range(2):
        app.publish(order())
        wait_for(lambda: not unmarked(app), "the mark is written", 10)
        threads.append(app.bus.outbox._marks._thread)
    assert threads[0] is threads[1] is not None
    monkeypatch.setattr(marks, "LINGER", 0.0)
    wait_for(lambda: app.bus.outbox._marks._thread is None, "its end", 10)


@pytest.mark.usefixtures("late")
def test_a_mark_is_written_with_the_next_append(app: Pipeline) -> None:
    first, other = app.publish(order()), app.publish_many([order(), order()])
    assert sorted(unmarked(app)) == sorted(event.id for event in other)
    last = app.publish(order())
    assert unmarked(app) == [last.id]
    assert backlog(app, "events.unrouted") == len({first.id, *(event.id for event in other), last.id})


@pytest.mark.usefixtures("late")
def test_an_append_that_fails_takes_no_mark_along(app: Pipeline) -> None:
    event = app.publish(new_event(order(1), source="/t", id="a1"))
    with pytest.raises(IdTaken):
        app.publish(new_event(order(2), source="/t", id="a1"))
    assert unmarked(app) == [event.key]
    app.bus.outbox.flush()
    assert unmarked(app) == []


@pytest.mark.usefixtures("late")
def test_an_append_takes_a_bounded_number_of_marks_along(app: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(marks.Marks.take, "__defaults__", (2,))
    app.publish_many([order(number) for number in range(5)])
    app.publish(order())
    assert len(unmarked(app)) == 5 - 2 + 1


@pytest.mark.usefixtures("late")
def test_closing_writes_marks(make: Callable[..., Pipeline]) -> None:
    app, looker = make(), make()
    app.publish(order())
    assert unmarked(looker) != []
    app.close()
    assert unmarked(looker) == []


@pytest.mark.usefixtures("late")
def test_a_child_leaves_its_parents_marks_to_the_parent(app: Pipeline) -> None:
    event = app.publish(order())
    if (pid := os.fork()) == 0:
        code = 1
        try:
            app.publish(order())
            app.close()
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert unmarked(app) == [event.id]
    app.bus.outbox.flush()
    assert unmarked(app) == []


ENDS = {
    "a script": "app.publish('order.placed', {})",
    "a thread that goes on": "threading.Thread(target=app.publish, args=('order.placed', {})).start()",
    "a process of multiprocessing": "start(app.publish, 'order.placed', {})",
    "the end of the process": "atexit.register(app.publish, 'order.placed', {})",
    "a script that fails": "app.publish('order.placed', {}); sys.exit(1)",
}
SCRIPT = """
import atexit, logging, multiprocessing, sys, threading
from pipeline import Pipeline
from pipeline.publishing import marks
logging.getLogger("pipeline").setLevel("ERROR")  # nobody listens
marks.SOON = 600.0
app = Pipeline("ends")
def start(target, *args):
    process = multiprocessing.get_context("fork").Process(target=target, args=args)
    process.start()
    process.join()
"""


@pytest.mark.parametrize("how", ENDS)
def test_a_process_that_ends_in_good_order_leaves_no_mark_unwritten(
    app: Pipeline, tmp_path: Path, ledger_url: str, how: str
) -> None:
    broker = Broker("embedded", app.settings.broker_url, tmp_path, ledger=ledger_url)
    done = run([sys.executable, "-W", "error", "-c", SCRIPT + ENDS[how]], broker, seconds=60)
    assert (done.returncode, done.stderr) == ("fails" in how, "")
    assert (len(event_ids(app)), unmarked(app)) == (1, [])


def test_marks_of_a_ledger_that_was_away_are_written_when_it_is_back(
    app: Pipeline, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tries: list[Any] = []

    def away(ids: Any) -> None:
        tries.append(ids)
        raise LedgerUnavailable("the ledger is away")

    monkeypatch.setattr(marks, "AGAIN", 0.05)
    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING, "pipeline.publishing.marks"):
        patch.setattr(app.ledger, "mark_sent", away)
        event = app.publish(order())
        assert event.sent
        wait_for(lambda: len(tries) > 2, "it is tried again", 10)
    wait_for(lambda: not unmarked(app), "the mark is written", 10)
    told = "the broker has 1 event(s), but that could not be noted: LedgerUnavailable: the ledger is away"
    assert [one for one in caplog.messages if "noted" in one] == [told], "once"


def test_an_event_that_could_not_be_marked_as_sent_is_sent_once_more(
    app: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[Any] = []

    def away(ids: Any) -> None:
        tries.append(ids)
        raise LedgerUnavailable("the ledger is away")

    monkeypatch.setattr(marks, "AGAIN", 0.01)
    with monkeypatch.context() as patch:
        patch.setattr(app.ledger, "mark_sent", away)
        event = app.publish(order())
        assert event.sent
        wait_for(lambda: len(tries) == marks.TRIES, "nobody tries any longer", 10)
    app.bus.outbox.flush()
    assert unmarked(app) == [event.id]
    move(app.ledger, outbox_table, outbox.GRACE)
    sweep(app)
    assert (event_ids(app), backlog(app, "events.unrouted"), rows(app, outbox_table)) == ([event.id], 2, [])
