"""What the errors of databases mean: told by their codes, whatever their texts say."""

from __future__ import annotations

import sqlite3

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg import errors
from sqlalchemy.exc import DBAPIError

from pipeline.core.errors import LedgerError, LedgerRefused, LedgerUnavailable
from pipeline.ledger.database.trouble import SQLITE, Trouble, trouble_in

STATES = sorted({kind.sqlstate for kind in vars(errors).values() if isinstance(getattr(kind, "sqlstate", None), str)})

UNAVAILABLE = [
    errors.ConnectionFailure,
    errors.ProtocolViolation,  # all that PgBouncer says itself: no more connections, query_wait_timeout, server_login
    errors.ReadOnlySqlTransaction,
    errors.AdminShutdown,
    errors.CrashShutdown,
    errors.CannotConnectNow,
    errors.IdleSessionTimeout,
    errors.IdleInTransactionSessionTimeout,
    errors.TooManyConnections,
    errors.OutOfMemory,
    errors.DiskFull,
    errors.IoError,
    errors.LockNotAvailable,
    errors.QueryCanceled,
    errors.SerializationFailure,
    errors.DeadlockDetected,
    errors.DuplicatePreparedStatement,
    errors.InvalidSqlStatementName,
    errors.InternalError_,
    errors.InvalidPassword,
]
REFUSED = [
    errors.UniqueViolation,
    errors.NotNullViolation,
    errors.CheckViolation,
    errors.CharacterNotInRepertoire,
    errors.StringDataRightTruncation,
    errors.NumericValueOutOfRange,
    errors.UntranslatableCharacter,
    errors.ProgramLimitExceeded,
    errors.RaiseException,
]
TO_MEND = {
    errors.InsufficientPrivilege: Trouble.FORBIDDEN,
    errors.UndefinedTable: Trouble.NO_TABLES,
    errors.UndefinedColumn: Trouble.NO_TABLES,
    errors.DataCorrupted: Trouble.DAMAGED,
    errors.SyntaxError: Trouble.UNKNOWN,
    errors.SequenceGeneratorLimitExceeded: Trouble.UNKNOWN,
}
IN_SQLITE = {
    sqlite3.SQLITE_BUSY: LedgerUnavailable,
    sqlite3.SQLITE_BUSY_SNAPSHOT: LedgerUnavailable,
    sqlite3.SQLITE_LOCKED: LedgerUnavailable,
    sqlite3.SQLITE_FULL: LedgerUnavailable,
    sqlite3.SQLITE_IOERR: LedgerUnavailable,
    sqlite3.SQLITE_IOERR_FSYNC: LedgerUnavailable,
    sqlite3.SQLITE_READONLY: LedgerUnavailable,
    sqlite3.SQLITE_READONLY_DBMOVED: LedgerUnavailable,
    sqlite3.SQLITE_CONSTRAINT_NOTNULL: LedgerRefused,
    sqlite3.SQLITE_TOOBIG: LedgerRefused,
    sqlite3.SQLITE_MISMATCH: LedgerRefused,
    sqlite3.SQLITE_CORRUPT: LedgerError,
    sqlite3.SQLITE_CORRUPT_INDEX: LedgerError,
    sqlite3.SQLITE_NOTADB: LedgerError,
    sqlite3.SQLITE_CANTOPEN: LedgerError,
}


def explained(error: Exception, base: type[Exception], *, lost: bool = False) -> LedgerError:
    wrapped = DBAPIError.instance("INSERT", {}, error, base, connection_invalidated=lost)
    assert isinstance(wrapped, DBAPIError)
    return trouble_in(wrapped).explained("postgresql://db/shop", error, 5)


def on_postgresql(kind: type[psycopg.Error], text: str = "no") -> LedgerError:
    return explained(kind(text), psycopg.Error)


def on_sqlite(code: int, text: str = "no") -> LedgerError:
    error = sqlite3.OperationalError(text)
    error.sqlite_errorcode = code
    return explained(error, sqlite3.Error)


@pytest.mark.parametrize("kind", UNAVAILABLE)
def test_what_may_work_later_is_unavailable(kind: type[psycopg.Error]) -> None:
    assert type(on_postgresql(kind)) is LedgerUnavailable


@pytest.mark.parametrize("kind", REFUSED)
def test_what_would_fail_again_is_refused(kind: type[psycopg.Error]) -> None:
    assert type(on_postgresql(kind)) is LedgerRefused


@pytest.mark.parametrize(("kind", "trouble"), TO_MEND.items())
def test_what_an_operator_has_to_mend_is_neither(kind: type[psycopg.Error], trouble: Trouble) -> None:
    error = on_postgresql(kind)
    assert type(error) is LedgerError
    assert str(error) == str(trouble.explained("postgresql://db/shop", "no", 5))


@pytest.mark.parametrize(("code", "kind"), IN_SQLITE.items())
def test_a_code_of_sqlite_has_a_meaning(code: int, kind: type[LedgerError]) -> None:
    assert type(on_sqlite(code)) is kind


def test_a_missing_table_of_sqlite_is_told_from_a_wrong_statement() -> None:
    assert "run `pipeline ledger upgrade`" in str(on_sqlite(sqlite3.SQLITE_ERROR, "no such table: pipeline_events"))
    assert "pipeline doctor" in str(on_sqlite(sqlite3.SQLITE_ERROR, 'near "x": syntax error'))


@given(text=st.text() | st.sampled_from(["database is locked", "busy", "disk is full", "no such table: x"]))
def test_the_text_of_an_error_may_quote_anything(text: str) -> None:
    for state in STATES:
        kind = errors.lookup(state)
        assert type(on_postgresql(kind, text)) is type(on_postgresql(kind))
    for code in SQLITE:
        assert type(on_sqlite(code, text)) is type(on_sqlite(code))
    assert "\n" not in str(on_postgresql(errors.UniqueViolation, text))


def test_what_a_driver_finds_out_itself_is_told_by_its_class() -> None:
    assert type(on_postgresql(psycopg.OperationalError, "connection refused")) is LedgerUnavailable
    assert type(on_postgresql(psycopg.InterfaceError, "the connection is closed")) is LedgerUnavailable
    assert type(on_postgresql(psycopg.DataError, "text fields cannot contain NUL")) is LedgerRefused
    assert type(on_postgresql(psycopg.ProgrammingError, "no such type")) is LedgerError
    assert type(explained(sqlite3.ProgrammingError("closed"), sqlite3.Error)) is LedgerError
    assert type(explained(sqlite3.ProgrammingError("closed"), sqlite3.Error, lost=True)) is LedgerUnavailable
