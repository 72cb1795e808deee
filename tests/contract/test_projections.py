"""Read models: kept up to date in order and exactly once, on every ledger."""

from __future__ import annotations

import multiprocessing
import threading
from typing import Any

import pytest
from sqlalchemy import insert, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from pipeline.core.errors import ProjectionFailed
from pipeline.core.event import Event, Payload
from pipeline.history import projections as module
from pipeline.history.projections import catch_up, lag
from pipeline.ledger.ledger import Ledger
from pipeline.ledger.log import BEGIN
from tests.logs import numbered, put
from tests.readmodels import Total, note, numbers, position, projection, seen

pytestmark = pytest.mark.usefixtures("read_model")


class OrderPaid(Payload, type="order.paid"):
    n: int


def test_events_are_shown_once_in_order(ledger: Ledger) -> None:
    orders = projection()
    put(ledger, numbered(0), numbered(1, "user.created"), numbered(2, "order.paid"))

    assert [catch_up(ledger, orders) for _ in range(2)] == [3, 0]
    put(ledger, numbered(3), numbered(4))
    assert [catch_up(ledger, orders) for _ in range(2)] == [2, 0]

    assert numbers(ledger) == [0, 2, 3, 4]


def test_an_empty_log_is_caught_up_with(ledger: Ledger) -> None:
    assert catch_up(ledger, projection()) == 0
    assert position(ledger) is None


def test_a_batch_has_a_limit_and_passes_what_is_not_listened_to(ledger: Ledger) -> None:
    orders = projection(OrderPaid)
    put(ledger, *(numbered(n, "user.created") for n in range(7)), numbered(7, "order.paid"))

    assert [catch_up(ledger, orders, limit=3) for _ in range(4)] == [3, 3, 2, 0]
    assert numbers(ledger) == [7]


def test_a_slow_handler_gets_a_smaller_batch(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BATCH_SECONDS", -1)
    put(ledger, numbered(0), numbered(1))

    assert [catch_up(ledger, projection()) for _ in range(3)] == [1, 1, 0]
    assert numbers(ledger) == [0, 1]


def test_what_a_replay_emitted_is_not_shown(ledger: Ledger) -> None:
    put(ledger, numbered(0))
    put(ledger, numbered(1), replay="r")

    assert lag(ledger, projection()) == 1
    assert catch_up(ledger, projection()) == 2
    assert numbers(ledger) == [0]


def test_the_lag_counts_what_is_still_to_be_shown(ledger: Ledger) -> None:
    orders = projection()
    put(ledger, numbered(0), numbered(1, "user.created"), numbered(2), numbered(3))
    assert lag(ledger, orders) == 3

    catch_up(ledger, orders, limit=1)
    assert lag(ledger, orders) == 2
    catch_up(ledger, orders)
    assert lag(ledger, orders) == 0


def test_mapped_classes_work(ledger: Ledger) -> None:
    def count(event: Event, session: Session) -> None:
        total = session.get(Total, event.type)
        if total is None:
            session.add(Total(type=event.type, count=1))
        else:
            total.count += 1

    put(ledger, *(numbered(n, f"order.t{n % 2}") for n in range(5)))
    totals = projection(handler=count)
    for _ in range(2):
        catch_up(ledger, totals, limit=3)

    with Session(ledger.database.engine) as session:
        found = {total.type: total.count for total in session.scalars(select(Total))}
        session.rollback()
    assert found == {"order.t0": 3, "order.t1": 2}


def test_a_failing_handler_keeps_nothing_and_says_where_it_failed(ledger: Ledger) -> None:
    broken = [True]

    def fragile(event: Event, session: Session) -> None:
        note(event, session)
        if event.data["n"] == 2 and broken:
            raise RuntimeError("no paper")

    orders = projection(handler=fragile)
    put(ledger, numbered(0))
    catch_up(ledger, orders)
    before = position(ledger)
    _, bad = put(ledger, numbered(1), numbered(2))

    with pytest.raises(ProjectionFailed) as caught:
        catch_up(ledger, orders)

    assert str(caught.value) == (
        f"projection 'orders' failed at event {bad} (order.created, number 3): RuntimeError: no paper"
    )
    assert isinstance(caught.value.__cause__, RuntimeError)
    assert numbers(ledger) == [0]
    assert position(ledger) == before

    broken.clear()
    assert catch_up(ledger, orders) == 2
    assert numbers(ledger) == [0, 1, 2]


def test_what_the_session_fails_to_write_is_the_events_fault(ledger: Ledger) -> None:
    def twice(event: Event, session: Session) -> None:
        session.add_all([Total(type="same", count=1)])
        session.expunge_all()
        session.add(Total(type="same", count=event.data["n"]))

    (first, second) = put(ledger, numbered(0), numbered(1))

    with pytest.raises(ProjectionFailed, match=f"event {second}.*IntegrityError") as caught:
        catch_up(ledger, projection(handler=lambda event, session: (twice(event, session), session.flush())))
    assert isinstance(caught.value.__cause__, IntegrityError)
    assert first not in str(caught.value)


def test_a_handler_that_commits_does_not_commit_the_batch(ledger: Ledger) -> None:
    def committing(event: Event, session: Session) -> None:
        note(event, session)
        session.commit()
        if event.data["n"] == 1:
            raise RuntimeError

    put(ledger, numbered(0), numbered(1))

    with pytest.raises(ProjectionFailed):
        catch_up(ledger, projection(handler=committing))
    assert numbers(ledger) == []


def test_a_handler_that_rolls_back_is_told_so(ledger: Ledger) -> None:
    def undoing(event: Event, session: Session) -> None:
        note(event, session)
        session.rollback()

    put(ledger, numbered(0))

    with pytest.raises(ProjectionFailed, match="rolled the session back"):
        catch_up(ledger, projection(handler=undoing))
    assert position(ledger) in (None, BEGIN)


def test_a_savepoint_is_the_handlers_own(ledger: Ledger) -> None:
    def careful(event: Event, session: Session) -> None:
        with session.begin_nested() as savepoint:
            note(event, session)
            if event.data["n"] == 1:
                savepoint.rollback()

    put(ledger, *(numbered(n) for n in range(3)))
    catch_up(ledger, projection(handler=careful))

    assert numbers(ledger) == [0, 2]


def test_what_commits_late_is_not_missed(ledger: Ledger) -> None:
    """On PostgreSQL a transaction may get its sequence number first and commit last."""
    if ledger.database.is_sqlite:
        pytest.skip("SQLite has one writer at a time")
    orders = projection()
    put(ledger, numbered(0))
    with ledger.database.transaction() as slow:
        put(ledger, numbered(1), connection=slow)
        put(ledger, numbered(2))
        assert [catch_up(ledger, orders) for _ in range(2)] == [1, 0]
        assert numbers(ledger) == [0]

    assert [catch_up(ledger, orders) for _ in range(2)] == [2, 0]
    assert numbers(ledger) == [0, 1, 2]


def test_threads_that_catch_up_together_show_each_event_once(ledger: Ledger) -> None:
    written = 300
    start = threading.Barrier(5)
    failed: list[BaseException] = []

    def work() -> None:
        try:
            start.wait()
            while lag(ledger, orders):
                catch_up(ledger, orders, limit=7)
        except BaseException as exc:
            failed.append(exc)

    orders = projection()
    put(ledger, *(numbered(n) for n in range(written // 2)))
    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    start.wait()
    for n in range(written // 2, written):
        put(ledger, numbered(n))
    for thread in threads:
        thread.join()
    while catch_up(ledger, orders):
        pass

    assert failed == []
    assert numbers(ledger) == list(range(written))


def catch_up_in_process(url: str, by: str, start: Any, written: int) -> None:
    """Catch up until all is shown, and sign each row."""

    def sign(event: Event, session: Session) -> None:
        session.execute(insert(seen).values(number=event.data["n"], by=by))

    ledger = Ledger(url)
    start.wait()
    while len(numbers(ledger)) < written:
        catch_up(ledger, projection(handler=sign), limit=5)
    ledger.close()


def test_processes_that_catch_up_together_show_each_event_once(ledger: Ledger, ledger_url: str) -> None:
    written = 200
    put(ledger, *(numbered(n) for n in range(written)))
    spawn = multiprocessing.get_context("spawn")
    start = spawn.Barrier(2)
    processes = [
        spawn.Process(target=catch_up_in_process, args=(ledger_url, by, start, written)) for by in ("one", "two")
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()

    assert [process.exitcode for process in processes] == [0, 0]
    assert numbers(ledger) == list(range(written))


def test_a_process_that_is_at_it_is_left_alone(ledger: Ledger) -> None:
    """On PostgreSQL the second one goes away at once; on SQLite it waits for its turn, and finds nothing left."""
    inside, leave = threading.Event(), threading.Event()

    def waiting(event: Event, session: Session) -> None:
        note(event, session)
        inside.set()
        assert leave.wait(60)

    orders = projection(handler=waiting)
    put(ledger, numbered(0))
    catching = threading.Thread(target=catch_up, args=(ledger, orders))
    catching.start()
    assert inside.wait(60)
    if ledger.database.is_sqlite:
        leave.set()
    assert catch_up(ledger, projection()) == 0
    leave.set()
    catching.join()

    assert numbers(ledger) == [0]
