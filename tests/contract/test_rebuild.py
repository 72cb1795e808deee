"""Read models that are built anew, on every ledger."""

from __future__ import annotations

import threading

import pytest
from sqlalchemy import insert
from sqlalchemy.orm import Session

from pipeline.core.errors import ProjectionFailed
from pipeline.history.projections import Projection, catch_up, rebuild
from pipeline.ledger.ledger import Ledger
from tests.logs import numbered, put
from tests.readmodels import forget, note, numbers, position, projection, seen

pytestmark = pytest.mark.usefixtures("read_model")


def test_a_rebuilt_read_model_is_what_it_was(ledger: Ledger) -> None:
    orders = projection()
    put(ledger, *(numbered(n) for n in range(2500)))
    while catch_up(ledger, orders):
        pass
    with ledger.database.transaction() as connection:
        connection.execute(insert(seen).values(number=-1))
    told: list[tuple[int, int]] = []

    assert rebuild(ledger, orders, lambda done, total: told.append((done, total))) == 2500

    assert numbers(ledger) == list(range(2500))
    assert told == [(1000, 2500), (2000, 2500), (2500, 2500)]
    assert catch_up(ledger, orders) == 0


def test_one_that_never_ran_can_be_rebuilt(ledger: Ledger) -> None:
    put(ledger, numbered(0))

    assert rebuild(ledger, projection()) == 1
    assert numbers(ledger) == [0]


def test_a_failing_reset_changes_nothing(ledger: Ledger) -> None:
    orders = projection()
    put(ledger, numbered(0))
    catch_up(ledger, orders)
    before = position(ledger)

    @orders.reset
    def clear(session: Session) -> None:
        forget(session)
        raise RuntimeError("no")

    with pytest.raises(ProjectionFailed, match="'orders' failed at its reset function: RuntimeError: no"):
        rebuild(ledger, orders)
    assert (numbers(ledger), position(ledger)) == ([0], before)


def test_without_a_reset_function_there_is_no_rebuild(ledger: Ledger) -> None:
    put(ledger, numbered(0))
    orders = Projection("orders", "order.*", note)

    with pytest.raises(ProjectionFailed, match=r"decorate the function .* with @orders\.reset"):
        rebuild(ledger, orders)
    assert numbers(ledger) == []


def test_a_rebuild_while_others_catch_up_shows_each_event_once(ledger: Ledger) -> None:
    orders = projection()
    put(ledger, *(numbered(n) for n in range(200)))
    stop = threading.Event()
    failed: list[BaseException] = []

    def work() -> None:
        try:
            while not stop.is_set():
                catch_up(ledger, orders, limit=3)
        except BaseException as exc:
            failed.append(exc)

    helper = threading.Thread(target=work)
    helper.start()
    for _ in range(3):
        rebuild(ledger, orders)
    stop.set()
    helper.join()

    assert failed == []
    assert numbers(ledger) == list(range(200))
