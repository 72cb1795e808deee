"""Publishing with a ledger: together with a transaction, later, to some, while the broker is away, across forks."""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, create_engine, text
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from pipeline import Event, Pipeline, outbox
from pipeline.errors import EventTooLarge, InvalidEvent, LedgerError, LedgerOff, LedgerUnavailable, UnknownAgent
from pipeline.ledger.rows import SECOND
from pipeline.ledger.tables import events, timers
from pipeline.ledger.tables import outbox as outbox_table
from pipeline.publisher import Publisher
from pipeline.sweeper import Sweeper
from tests.harness import Broker, run
from tests.ledgers import move
from tests.records import AWAY, Order, make_app, order, rows, run_agents


@pytest.fixture
def make(ledger_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Pipeline]]:
    """Make apps on the ledger under test, or on another one."""
    for name in [name for name in os.environ if name.startswith("PIPELINE_")]:
        monkeypatch.delenv(name)
    made: list[Pipeline] = []

    def one(url: str = ledger_url, **settings: Any) -> Pipeline:
        made.append(make_app(url, tmp_path, agents=False, **settings))
        return made[-1]

    yield one
    for app in made:
        app.close()


@pytest.fixture
def app(make: Callable[..., Pipeline]) -> Pipeline:
    return make()


@pytest.fixture
def engine(app: Pipeline, ledger_url: str) -> Iterator[Engine]:
    """The caller's own engine on the ledger's database, with a table of his own."""
    one = create_engine(ledger_url)
    with one.begin() as connection:
        connection.execute(text("CREATE TABLE accounts (name TEXT)"))
    yield one
    one.dispose()


def sweep(app: Pipeline) -> None:
    sweeper = Sweeper(app)
    try:
        while sweeper.sweep():
            pass
    finally:
        sweeper.leave()


def at_broker(app: Pipeline) -> int:
    """Return how many events the broker has got; no agent has a queue here."""
    with app.celery.connection_for_read() as connection:
        return int(connection.default_channel.queue_declare("events.unrouted", passive=True).message_count)


def ids(app: Pipeline) -> list[str]:
    return [row["id"] for row in rows(app, events)]


# -- with a transaction


def by_session(app: Pipeline, engine: Engine, end: str) -> Sequence[Event]:
    with Session(engine) as session:
        session.execute(text("INSERT INTO accounts VALUES ('ada')"))
        event = app.publish(order(), session=session)
        getattr(session, end)()
    return [event]


def by_scoped_session(app: Pipeline, engine: Engine, end: str) -> Sequence[Event]:
    session = scoped_session(sessionmaker(engine))
    session.execute(text("INSERT INTO accounts VALUES ('ada')"))
    event = app.publish("order.placed", {"n": 1}, session=session)
    getattr(session, end)()
    session.remove()
    return [event]


def by_connection(app: Pipeline, engine: Engine, end: str) -> Sequence[Event]:
    with engine.connect() as connection:
        connection.execute(text("INSERT INTO accounts VALUES ('ada')"))
        event = app.publish(order(), connection=connection)
        getattr(connection, end)()
    return [event]


def many(app: Pipeline, engine: Engine, end: str) -> Sequence[Event]:
    with Session(engine) as session:
        session.execute(text("INSERT INTO accounts VALUES ('ada')"))
        found = app.publish_many([order(1), ("order.placed", {"n": 2})], session=session)
        getattr(session, end)()
    return found


WAYS = pytest.mark.parametrize("way", [by_session, by_scoped_session, by_connection, many])
Way = Callable[[Pipeline, Engine, str], Sequence[Event]]


def accounts(engine: Engine) -> int:
    with engine.connect() as connection:
        return int(connection.execute(text("SELECT count(*) FROM accounts")).scalar_one())


@WAYS
def test_an_event_exists_when_the_callers_transaction_is_committed(app: Pipeline, engine: Engine, way: Way) -> None:
    found = way(app, engine, "commit")
    assert not any(event.sent for event in found)
    assert (ids(app), accounts(engine)) == ([event.id for event in found], 1)
    sweep(app)
    assert rows(app, outbox_table) == []
    assert at_broker(app) == len(found)


@WAYS
def test_nothing_is_left_of_a_transaction_that_is_rolled_back(app: Pipeline, engine: Engine, way: Way) -> None:
    way(app, engine, "rollback")
    assert (ids(app), rows(app, outbox_table), accounts(engine)) == ([], [], 0)


def test_a_delayed_event_shares_the_fate_of_its_transaction(app: Pipeline, engine: Engine) -> None:
    for end, number in (("rollback", 0), ("commit", 1)):
        with Session(engine) as session:
            app.publish(order(), session=session, delay=60)
            getattr(session, end)()
        assert len(rows(app, timers)) == number
    assert ids(app) == []


def test_the_first_event_of_a_process_may_be_in_a_transaction_that_has_written(
    make: Callable[..., Pipeline], engine: Engine
) -> None:
    fresh = make.__call__(ledger_timeout=1)
    again = Pipeline("again", ledger_url=str(fresh.settings.ledger_url), broker_url=AWAY, ledger_timeout=1)
    by_session(again, engine, "commit")
    again.close()
    assert len(ids(fresh)) == 1


def test_apublish_takes_async_sessions_and_connections(app: Pipeline, engine: Engine, ledger_url: str) -> None:
    pytest.importorskip("greenlet")
    if ledger_url.startswith("sqlite"):
        pytest.importorskip("aiosqlite")
    asyncio_ = pytest.importorskip("sqlalchemy.ext.asyncio")

    async def scenario() -> list[str]:
        async_engine = asyncio_.create_async_engine(ledger_url.replace("sqlite:", "sqlite+aiosqlite:"))
        kept = []
        async with asyncio_.AsyncSession(async_engine) as session:
            await app.apublish(order(), session=session)
            await session.rollback()
            kept.append(await app.apublish(order(), session=session))
            await session.commit()
        async with async_engine.connect() as connection:
            kept.append(await app.apublish("order.placed", {"n": 1}, connection=connection, priority=1))
            await connection.commit()
            await app.apublish(order(), connection=connection)
        await async_engine.dispose()
        return [event.id for event in kept]

    assert asyncio.run(scenario()) == ids(app)


def test_a_transaction_elsewhere_is_refused(make: Callable[..., Pipeline], app: Pipeline, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'other.db'}"
    other = create_engine(url)
    with Session(other) as session:
        with pytest.raises(LedgerError, match=r"database has no ledger .*PIPELINE_LEDGER_URL.*pipeline ledger upgrade"):
            app.publish(order(), session=session)
        with pytest.raises(LedgerError, match="database has no ledger"):
            app.publish(order(), session=session, delay=1)
    elsewhere = make(url)
    with other.connect() as connection:
        with pytest.raises(LedgerError, match="database has another ledger than"):
            app.publish(order(), connection=connection)
        connection.commit()
    other.dispose()
    assert (ids(app), ids(elsewhere), rows(app, timers)) == ([], [], [])


@pytest.mark.parametrize("thing", ["a string", object(), 7, Session, sqlite3])
def test_what_is_no_transaction_is_refused(app: Pipeline, thing: Any) -> None:
    for publish in (
        lambda: app.publish(order(), session=thing),
        lambda: app.publish(order(), connection=thing, delay=1),
        lambda: app.publish_many([order()], session=thing),
    ):
        with pytest.raises(InvalidEvent, match="is neither a SQLAlchemy Session nor a Connection"):
            publish()
    assert (ids(app), rows(app, timers)) == ([], [])


# -- on commit


def test_an_event_on_commit_is_published_by_the_callback(app: Pipeline) -> None:
    callbacks: list[Callable[[], Any]] = []
    event = app.publish_on_commit(order(), priority=1, subject="A1", on_commit=callbacks.append)
    later = app.publish_on_commit("order.late", {"n": 1}, delay=60, on_commit=callbacks.append)
    assert ids(app) == []
    for callback in callbacks:
        callback()
    assert (ids(app), [row["id"] for row in rows(app, timers)]) == ([event.id], [later.id])
    assert (event.priority, event.subject, event.data["order_id"]) == (1, "A1", "A1")


@pytest.mark.parametrize(
    ("arguments", "options", "error"),
    [
        (("not a type!",), {}, InvalidEvent),
        (("order.placed", "x" * 300_000), {}, EventTooLarge),
        (("order.placed", object()), {}, InvalidEvent),
        ((Order(order_id="A", total=1), {"n": 1}), {}, InvalidEvent),
        (("order.placed",), {"priority": 11}, InvalidEvent),
        (("order.placed",), {"delay": -1}, InvalidEvent),
        (("order.placed",), {"targets": ("nobody",)}, UnknownAgent),
        (("order.placed",), {"session": None}, TypeError),
    ],
)
def test_what_is_wrong_is_said_before_the_commit(
    app: Pipeline, arguments: Any, options: Any, error: type[Exception]
) -> None:
    callbacks: list[Callable[[], Any]] = []
    with pytest.raises(error):
        app.publish_on_commit(*arguments, on_commit=callbacks.append, **options)
    assert callbacks == []


DJANGO = """
import sys
import django
from django.conf import settings
settings.configure(DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": sys.argv[1]}})
django.setup()
from django.db import transaction
from pipeline import Pipeline
app = Pipeline("django")
def publish(number, fail):
    try:
        with transaction.atomic():
            app.publish_on_commit("order.placed", {"n": number})
            assert not fail
    except AssertionError:
        pass
publish(1, False)
publish(2, True)
app.close()
"""


def test_django_publishes_on_commit(app: Pipeline, tmp_path: Path, ledger_url: str) -> None:
    pytest.importorskip("django")
    broker = Broker("embedded", app.settings.broker_url, tmp_path, ledger=ledger_url)
    paths = os.pathsep.join(sys.path)
    done = run([sys.executable, "-c", DJANGO, str(tmp_path / "django.db")], broker, PYTHONPATH=paths)
    assert done.returncode == 0, done.stderr
    assert [Event.decode(row["body"]).data for row in rows(app, events)] == [{"n": 1}]


# -- later


@pytest.mark.parametrize("how", ["delay", "timedelta", "at"])
def test_a_delayed_event_is_published_when_it_is_due(app: Pipeline, how: str) -> None:
    at = datetime.now(UTC) + timedelta(seconds=60)
    options = {"delay": {"delay": 60}, "timedelta": {"delay": timedelta(minutes=1)}, "at": {"at": at}}[how]
    event = app.publish(order(), **options)
    assert not event.sent
    assert timedelta(0) <= event.time - at < timedelta(seconds=30)
    sweep(app)
    assert ids(app) == []
    assert rows(app, timers)[0]["due"] == round(event.time.timestamp() * SECOND)
    move(app.ledger, timers, 61)
    sweep(app)
    assert (ids(app), at_broker(app), rows(app, outbox_table)) == ([event.id], 1, [])
    assert not app.cancel(event.id), "too late"


def test_a_cancelled_event_is_never_published(app: Pipeline) -> None:
    event = app.publish(order(), delay=60)
    assert app.cancel(event.id)
    assert not app.cancel(event.id)
    assert not app.cancel("no-such-event")
    move(app.ledger, timers, 61)
    sweep(app)
    assert ids(app) == []


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


# -- to some, too large, without a ledger


def test_an_unknown_target_is_refused_with_the_nearest_name(app: Pipeline) -> None:
    run_agents(app, {"billing": "order.#", "stock": "order.placed"})
    for options in ({}, {"delay": 1}):
        with pytest.raises(UnknownAgent, match="no agent is called 'biling'; did you mean 'billing'"):
            app.publish(order(), targets=("stock", "biling"), **options)
    assert (ids(app), rows(app, timers)) == ([], [])
    app.publish(order(), targets=("stock", "billing"))


def test_nothing_is_written_of_a_batch_with_an_event_that_is_too_large(app: Pipeline, engine: Engine) -> None:
    with Session(engine) as session:
        for options in ({}, {"session": session}):
            with pytest.raises(EventTooLarge, match="limit is 262,144"):
                app.publish_many([order(), ("order.placed", "x" * 300_000)], **options)
        with pytest.raises(EventTooLarge):
            app.publish("order.placed", "x" * 300_000, delay=1)
        session.commit()
    assert (ids(app), rows(app, timers), rows(app, outbox_table)) == ([], [], [])


def test_without_a_ledger_what_needs_one_says_so(tmp_path: Path) -> None:
    app = Pipeline("t", ledger_url="", broker_url=f"sqlite:///{tmp_path / 'broker.db'}", directory=tmp_path)
    at = datetime.now(UTC)
    for needs, call in {
        "delay= and at= needs": lambda: app.publish(order(), delay=1),
        "at= needs": lambda: app.publish(order(), at=at),
        "connection= needs": lambda: app.publish(order(), connection=object()),
        "session= needs": lambda: app.publish_many([order()], session=object()),
        "delay= and at= need": lambda: app.publish_on_commit(order(), delay=1, on_commit=print),
        r"cancel\(\) needs": lambda: app.cancel("x"),
        "this needs": lambda: app.ledger,
    }.items():
        with pytest.raises(LedgerOff, match=f"{needs}.* a ledger, and the setting ledger_url is empty"):
            call()
    assert app.publish(order()).sent
    app.close()


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
    assert (ids(back), rows(back, outbox_table), at_broker(back)) == ([event.id for event in kept], [], 3)
    assert back.publish(kept[0]).sent, "the same event, now that the broker has it"


def test_a_broker_that_was_away_is_asked_again_only_after_a_pause(
    make: Callable[..., Pipeline], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked: list[float] = []
    clock = [1000.0]
    send = Publisher.send_encoded
    monkeypatch.setattr(outbox, "monotonic", lambda: clock[0])
    monkeypatch.setattr(Publisher, "send_encoded", lambda *a, **k: (asked.append(clock[0]), send(*a, **k)))
    app = make(broker_url=AWAY)
    with caplog.at_level(logging.WARNING, "pipeline.outbox"):
        for wait in (0.0, 0.0, outbox.PAUSE * 0.9, outbox.PAUSE * 0.2, 0.0):
            clock[0] += wait
            assert not app.publish(order()).sent
    assert len(asked) == 2
    assert len([one for one in caplog.records if "is kept and sent later" in one.message]) == 2


def test_an_event_that_could_not_be_marked_as_sent_is_sent_once_more(
    app: Pipeline, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def away(_: Any) -> None:
        raise LedgerUnavailable("the ledger is away")

    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING, "pipeline.outbox"):
        patch.setattr(app.ledger, "mark_sent", away)
        event = app.publish(order())
    assert event.sent
    assert "the broker has 1 event(s), but that could not be noted: the ledger is away" in caplog.messages
    move(app.ledger, outbox_table, outbox.GRACE)
    sweep(app)
    assert (ids(app), at_broker(app), rows(app, outbox_table)) == ([event.id], 2, [])


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
    assert (rows(app, outbox_table), at_broker(app)) == ([], number)
    if ledger_url.startswith("sqlite"):
        with sqlite3.connect(ledger_url.removeprefix("sqlite:///")) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        connection.close()


def test_a_child_that_is_forked_in_a_transaction_leaves_it_to_its_parent(app: Pipeline) -> None:
    with app.ledger.store.session() as session:
        app.publish(order(1), session=session)
        if (pid := os.fork()) == 0:
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        app.publish(order(2), session=session)
        session.commit()
    assert len(ids(app)) == 2
    connection: Connection
    with app.ledger.store.reading() as connection:
        assert connection.execute(events.select()).all()
