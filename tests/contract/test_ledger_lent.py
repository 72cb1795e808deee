"""Statements on the driver's connection, in a transaction that was begun with SQLAlchemy: it hears what goes wrong."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest
from sqlalchemy import Connection, func, select, text

from pipeline.core.errors import LedgerError, LedgerUnavailable
from pipeline.ledger.database.tables import events
from pipeline.ledger.ledger import Ledger
from tests.ledgers import ON_POSTGRESQL, ON_SQLITE, new_order, record
from tests.servers import wait_for

#: What PostgreSQL says, or what is found when it has not been heard.
ENDED = r"terminating connection|server closed the connection"


class OrderToEnd(BaseException):
    """As a time limit raises one."""


def number(ledger: Ledger) -> int:
    return ledger.database.read(lambda own: own.execute(select(func.count()).select_from(events)).scalar_one())


def nothing(ledger: Ledger, connection: Connection) -> None:
    """Run a statement on the driver's own connection."""
    ledger.waiting.flows.recount(connection, "no flow", {"done": 1})


@pytest.fixture
def alarm() -> Iterator[None]:
    """A signal that interrupts what runs after half a second."""

    def end(*_: object) -> None:
        raise OrderToEnd

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, 0.5)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def test_a_connection_begins_its_transaction_with_the_first_statement(ledger: Ledger) -> None:
    before = number(ledger)
    with ledger.database.engine.connect() as connection:
        ledger.append([record(new_order())], due_in=None, connection=connection)
        connection.rollback()
        assert number(ledger) == before
        ledger.append([record(new_order())], due_in=None, connection=connection)
        connection.commit()
    assert number(ledger) == before + 1


@ON_SQLITE  # psycopg has fetched all rows by then
def test_a_row_that_cannot_be_fetched_is_the_ledgers_error(ledger: Ledger) -> None:
    rows = select(text("abs(x) FROM (SELECT 1 AS x UNION ALL SELECT -9223372036854775807 - 1)"))
    with pytest.raises(LedgerError, match="integer overflow"), ledger.database.reading() as connection:
        ledger.database.fast.on(connection).execute(rows).fetchall()
    assert number(ledger) == 0


@ON_POSTGRESQL  # nobody else can end a connection to a file
def test_a_session_whose_connection_was_ended_is_closed_and_the_next_one_works(ledger: Ledger) -> None:
    with ledger.database.session() as session:
        ended(ledger, session.connection())
        with pytest.raises(Exception, match=ENDED):
            nothing(ledger, session.connection())
    with ledger.database.session() as session:
        nothing(ledger, session.connection())


@ON_POSTGRESQL  # nobody else can end a connection to a file
def test_a_transaction_whose_connection_was_ended_says_so_and_the_next_one_works(ledger: Ledger) -> None:
    with pytest.raises(LedgerUnavailable, match=ENDED), ledger.database.transaction() as connection:
        nothing(ledger, ended(ledger, connection))
    with ledger.database.transaction() as connection:
        nothing(ledger, connection)


@ON_POSTGRESQL  # SQLite has no statement that waits
def test_an_order_to_end_comes_through_in_the_middle_of_a_statement(ledger: Ledger, alarm: None) -> None:
    with pytest.raises(OrderToEnd), ledger.database.transaction() as connection:
        ledger.database.fast.on(connection).execute(select(func.pg_sleep(60)))
    with ledger.database.transaction() as connection:
        nothing(ledger, connection)


def ended(ledger: Ledger, connection: Connection) -> Connection:
    """End a connection to PostgreSQL from another one, and return it."""
    pid = connection.execute(text("SELECT pg_backend_pid()")).scalar_one()
    alive = text("SELECT count(*) FROM pg_stat_activity WHERE pid = :pid").bindparams(pid=pid)
    with ledger.database.engine.connect() as other:
        other.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": pid})
        wait_for(lambda: other.execute(alive).scalar_one() == 0, "the connection to be ended")
    return connection
