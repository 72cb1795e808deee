"""Publishing with a ledger: later, to some, while the broker is away, across forks."""

from __future__ import annotations

import json
import logging
import os
import sqlite3
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, text

from pipeline import Event, Pipeline
from pipeline.core.errors import IdTaken, InvalidEvent, UnknownAgent
from pipeline.core.event import new_event
from pipeline.core.times import SECOND
from pipeline.ledger.database.tables import events, timers
from pipeline.ledger.database.tables import outbox as outbox_table
from pipeline.publishing import outbox
from pipeline.publishing.publisher import Publisher
from tests.foreign import foreign
from tests.harness import Broker, backlog, run
from tests.ledgers import engine_on, move, sweep
from tests.records import AWAY, event_ids, order, rows, run_agents
from tests.servers import wait_for

# -- later and to some


@pytest.mark.parametrize("how", ["delay", "timedelta", "at"])
def test_a_delayed_event_is_published_when_it_is_due(app: Pipeline, how: str) -> None:
    at = datetime.now(UTC) + timedelta(seconds=60)
    options = {"delay": {"delay": 60}, "timedelta": {"delay": timedelta(minutes=1)}, "at": {"at": at}}[how]
    event = app.publish(order(), **options)
    assert not event.sent
    assert timedelta(0) <= event.time - at < timedelta(seconds=30)
    sweep(app)
    assert event_ids(app) == []
    assert rows(app, timers)[0]["due"] == round(event.time.timestamp() * SECOND)
    move(app.ledger, timers, 61)
    sweep(app)
    assert (event_ids(app), backlog(app, "events.unrouted"), rows(app, outbox_table)) == ([event.id], 1, [])
    assert not app.cancel(event.id), "too late"


def test_another_programs_event_is_delayed_as_it_came(app: Pipeline) -> None:
    body = json.dumps(foreign(mood="sunny", time="2026-01-01T00:00:00Z")).encode()
    event = Event.decode(body, None)
    for _ in range(2):
        late = app.publish(event, delay=60)
        assert (late.key, late.encode(), late.sent) == (event.key, body, False)
    assert [row["id"] for row in rows(app, timers)] == [event.key]
    move(app.ledger, timers, 61)
    sweep(app)
    assert [(row["id"], row["body"].encode()) for row in rows(app, events)] == [(event.key, body)]
    assert (rows(app, timers), rows(app, outbox_table), app.ledger.aside.list()) == ([], [], [])
    assert app.publish(event, delay=60), "the same event once more"
    assert app.cancel(event.key)


def test_of_two_delayed_events_with_one_id_in_transactions_at_once_the_first_one_has_it(
    app: Pipeline, ledger_url: str
) -> None:
    first, other = (new_event(order(n), source="/t", id="a1") for n in (1, 2))
    waiting = text("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%timers%'")
    ended = threading.Event()
    caught: list[Exception] = []

    def late() -> None:
        try:
            app.publish(other, delay=60)
        except IdTaken as exc:
            caught.append(exc)
        finally:
            ended.set()

    with app.ledger.database.session() as session:
        app.publish(first, delay=60, session=session)
        thread = threading.Thread(target=late)
        thread.start()
        if not app.ledger.database.is_sqlite:  # whose writers come one after the other
            with engine_on(ledger_url, isolation_level="AUTOCOMMIT") as engine, engine.connect() as looker:
                wait_for(lambda: looker.execute(waiting).scalar() or ended.is_set(), "the other one waits", 4)
        session.commit()
    thread.join()
    assert len(caught) == 1
    (timer,) = rows(app, timers)
    assert json.loads(timer["body"])["data"] == first.data


def test_a_cancelled_event_is_never_published(app: Pipeline) -> None:
    event = app.publish(order(), delay=60)
    assert app.cancel(event.id)
    assert not app.cancel(event.id)
    assert not app.cancel("no-such-event")
    move(app.ledger, timers, 61)
    sweep(app)
    assert event_ids(app) == []


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"delay": -1}, "delay: -1 seconds are not between"),
        ({"delay": float("nan")}, "delay: nan"),
        ({"delay": float("inf")}, "delay: inf"),
        ({"delay": timedelta(days=100 * 366)}, "a hundred years"),
        ({"delay": "soon"}, "delay: 'soon' is neither a number of seconds nor a timedelta"),
        ({"at": "tomorrow"}, "at: 'tomorrow' is no datetime"),
        ({"at": datetime(2030, 1, 1)}, "has no time zone"),
        ({"at": datetime(2030, 1, 1, tzinfo=UTC), "delay": 1}, "not both"),
    ],
)
def test_a_time_that_is_none_is_refused(app: Pipeline, options: Any, problem: str) -> None:
    with pytest.raises(InvalidEvent, match=problem):
        app.publish(order(), **options)
    assert rows(app, timers) == []


def test_an_unknown_target_is_refused_with_the_nearest_name(app: Pipeline) -> None:
    run_agents(app, {"billing": "order.#", "stock": "order.placed"})
    for options in ({}, {"delay": 1}):
        with pytest.raises(UnknownAgent, match="no agent is called 'biling'; did you mean 'billing'"):
            app.publish(order(), targets=("stock", "biling"), **options)
    assert (event_ids(app), rows(app, timers)) == ([], [])
    app.publish(order(), targets=("stock", "billing"))


# -- the broker is away


def test_while_the_broker_is_away_events_are_kept_and_relayed_later(make: Callable[..., Pipeline]) -> None:
    app = make(broker_url=AWAY, publish_timeout=120)
    started = time.monotonic()
    kept = [app.publish(order()), *app.publish_many([order(), order()])]
    assert time.monotonic() - started < 120 / 4
    assert not any(event.sent for event in kept)
    back = make()
    move(back.ledger, outbox_table, outbox.PAUSE)  # not GRACE: nobody else is sending them
    sweep(back)
    assert (event_ids(back), rows(back, outbox_table), backlog(back, "events.unrouted")) == (
        [event.id for event in kept],
        [],
        3,
    )
    assert back.publish(kept[0]).sent, "the same event, now that the broker has it"


def test_a_broker_that_was_away_is_asked_again_only_after_a_pause(
    make: Callable[..., Pipeline], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked: list[float] = []
    clock = [1000.0]
    send = Publisher.send_encoded
    monkeypatch.setattr(outbox, "passed", lambda: clock[0])
    monkeypatch.setattr(Publisher, "send_encoded", lambda *a, **k: (asked.append(clock[0]), send(*a, **k)))
    app = make(broker_url=AWAY)
    with caplog.at_level(logging.WARNING, "pipeline.publishing.outbox"):
        for wait in (0.0, 0.0, outbox.PAUSE * 0.9, outbox.PAUSE * 0.2, 0.0):
            clock[0] += wait
            assert not app.publish(order()).sent
    assert len(asked) == 2
    assert len([one for one in caplog.records if "is kept and sent later" in one.message]) == 2


# -- threads and forks


CROWD = """
import multiprocessing, os, sys, threading
from pipeline import Pipeline
app = Pipeline("crowd")
def publish(who, number=15):
    for n in range(number):
        assert app.publish("order.placed", {"who": who, "n": n}).sent
publish("before", 1)
threads = [threading.Thread(target=publish, args=(f"thread{n}",)) for n in range(2)]
for thread in threads:
    thread.start()
children = []
for n in range(2):
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            publish(f"fork{n}")
            app.close()
            code = 0
        finally:
            os._exit(code)
    children.append(pid)
processes = [multiprocessing.get_context("fork").Process(target=publish, args=(f"process{n}",)) for n in range(2)]
for process in processes:
    process.start()
publish("parent")
for thread in threads:
    thread.join()
for process in processes:
    process.join()
codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children] + [p.exitcode for p in processes]
publish("after", 1)
app.close()
assert codes == [0, 0, 0, 0], codes
"""


def test_threads_and_forked_processes_lose_nothing(app: Pipeline, tmp_path: Path, ledger_url: str) -> None:
    broker = Broker("embedded", app.settings.broker_url, tmp_path, ledger=ledger_url)
    done = run([sys.executable, "-W", "ignore::DeprecationWarning", "-c", CROWD], broker)
    assert done.returncode == 0, done.stderr
    found = [Event.decode(row["body"]).data for row in rows(app, events)]
    number = 2 + 7 * 15
    assert len({(data["who"], data["n"]) for data in found}) == len(found) == number
    assert (rows(app, outbox_table), backlog(app, "events.unrouted")) == ([], number)
    if ledger_url.startswith("sqlite"):
        with sqlite3.connect(ledger_url.removeprefix("sqlite:///")) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        connection.close()


def test_a_child_that_is_forked_in_a_transaction_leaves_it_to_its_parent(app: Pipeline) -> None:
    with app.ledger.database.session() as session:
        app.publish(order(1), session=session)
        if (pid := os.fork()) == 0:
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        app.publish(order(2), session=session)
        session.commit()
    assert len(event_ids(app)) == 2
    connection: Connection
    with app.ledger.database.reading() as connection:
        assert connection.execute(events.select()).all()
