"""Publishing together with the caller's own transaction: both happen, or neither does, on every ledger."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from pipeline import Event, Pipeline
from pipeline.core.errors import EventTooLarge, InvalidEvent, LedgerError, UnknownAgent
from pipeline.ledger.database.tables import events, timers
from pipeline.ledger.database.tables import outbox as outbox_table
from tests.harness import Broker, backlog, run
from tests.ledgers import sweep
from tests.records import AWAY, Order, event_ids, order, rows
from tests.servers import AT_MOST


@pytest.fixture
def engine(app: Pipeline, ledger_url: str) -> Iterator[Engine]:
    """The caller's own engine on the ledger's database, with a table of his own."""
    one = create_engine(ledger_url)
    with one.begin() as connection:
        connection.execute(text("CREATE TABLE accounts (name TEXT)"))
    yield one
    one.dispose()


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
    assert (event_ids(app), accounts(engine)) == ([event.id for event in found], 1)
    sweep(app)
    assert rows(app, outbox_table) == []
    assert backlog(app, "events.unrouted") == len(found)


@WAYS
def test_nothing_is_left_of_a_transaction_that_is_rolled_back(app: Pipeline, engine: Engine, way: Way) -> None:
    way(app, engine, "rollback")
    assert (event_ids(app), rows(app, outbox_table), accounts(engine)) == ([], [], 0)


def test_a_delayed_event_shares_the_fate_of_its_transaction(app: Pipeline, engine: Engine) -> None:
    for end, number in (("rollback", 0), ("commit", 1)):
        with Session(engine) as session:
            app.publish(order(), session=session, delay=60)
            getattr(session, end)()
        assert len(rows(app, timers)) == number
    assert event_ids(app) == []


def test_the_first_event_of_a_process_may_be_in_a_transaction_that_has_written(
    make: Callable[..., Pipeline], engine: Engine
) -> None:
    fresh = make(ledger_timeout=AT_MOST)
    again = Pipeline("again", ledger_url=str(fresh.settings.ledger_url), broker_url=AWAY, ledger_timeout=AT_MOST)
    by_session(again, engine, "commit")
    again.close()
    assert len(event_ids(fresh)) == 1


def test_apublish_takes_async_sessions_and_connections(app: Pipeline, engine: Engine, ledger_url: str) -> None:
    async def scenario() -> list[str]:
        async_engine = create_async_engine(ledger_url.replace("sqlite:", "sqlite+aiosqlite:"))
        kept = []
        async with AsyncSession(async_engine) as session:
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

    assert asyncio.run(scenario()) == event_ids(app)


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
    assert (event_ids(app), event_ids(elsewhere), rows(app, timers)) == ([], [], [])


@pytest.mark.parametrize("thing", ["a string", object(), 7, Session, sqlite3])
def test_what_is_no_transaction_is_refused(app: Pipeline, thing: Any) -> None:
    for publish in (
        lambda: app.publish(order(), session=thing),
        lambda: app.publish(order(), connection=thing, delay=1),
        lambda: app.publish_many([order()], session=thing),
    ):
        with pytest.raises(InvalidEvent, match="is neither a SQLAlchemy Session nor a Connection"):
            publish()
    assert (event_ids(app), rows(app, timers)) == ([], [])


def test_nothing_is_written_of_a_batch_with_an_event_that_is_too_large(app: Pipeline, engine: Engine) -> None:
    with Session(engine) as session:
        for options in ({}, {"session": session}):
            with pytest.raises(EventTooLarge, match="limit is 262,144"):
                app.publish_many([order(), ("order.placed", "x" * 300_000)], **options)
        with pytest.raises(EventTooLarge):
            app.publish("order.placed", "x" * 300_000, delay=1)
        session.commit()
    assert (event_ids(app), rows(app, timers), rows(app, outbox_table)) == ([], [], [])


# -- on commit


def test_an_event_on_commit_is_published_by_the_callback(app: Pipeline) -> None:
    callbacks: list[Callable[[], Any]] = []
    event = app.publish_on_commit(order(), priority=1, subject="A1", on_commit=callbacks.append)
    later = app.publish_on_commit("order.late", {"n": 1}, delay=60, on_commit=callbacks.append)
    assert event_ids(app) == []
    assert (event.sent, later.sent) == (False, False)
    for callback in callbacks:
        callback()
    assert (event_ids(app), [row["id"] for row in rows(app, timers)]) == ([event.id], [later.id])
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
    broker = Broker("embedded", app.settings.broker_url, tmp_path, ledger=ledger_url)
    paths = os.pathsep.join(sys.path)
    done = run([sys.executable, "-c", DJANGO, str(tmp_path / "django.db")], broker, PYTHONPATH=paths)
    assert done.returncode == 0, done.stderr
    assert [Event.decode(row["body"]).data for row in rows(app, events)] == [{"n": 1}]


# -- as the first thing that is done with a ledger


@pytest.mark.parametrize("end", ["commit", "rollback"])
@pytest.mark.parametrize("writes_before", [False, True])
@pytest.mark.parametrize("delay", [None, 60])
def test_a_transaction_may_be_the_first_user_of_a_ledger(
    tmp_path: Path, end: str, writes_before: bool, delay: float | None
) -> None:
    app = Pipeline("first", directory=tmp_path / "new", ledger_timeout=AT_MOST)
    engine = create_engine(app.settings.effective_ledger_url)
    with Session(engine) as session:
        session.execute(text("CREATE TABLE accounts (name TEXT)"))
        if writes_before:  # and so holds the file's write lock
            session.execute(text("INSERT INTO accounts VALUES ('ada')"))
        with pytest.raises(UnknownAgent):
            app.publish(order(), session=session, targets=("nobody",))
        accepted = [app.publish(order(), session=session, delay=delay).id for _ in range(2)]
        getattr(session, end)()
    engine.dispose()
    found = event_ids(app) if delay is None else [row["id"] for row in rows(app, timers)]
    assert sorted(found) == (sorted(accepted) if end == "commit" else [])
    app.publish(order())
    app.close()
