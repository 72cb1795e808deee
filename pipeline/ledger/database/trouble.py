"""What a database's error means: one table for each kind of database, by the error's code and never by its text.

A text may quote what was to be written. What cannot be written whatever happens is refused; what may be written later,
as it is, is unavailable; the rest is for an operator to mend, and what was to be written waits for that.
"""

from __future__ import annotations

import sqlite3
from enum import Enum
from typing import Any

from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, InterfaceError, OperationalError

from ...core.errors import LedgerError, LedgerRefused, LedgerUnavailable


class Trouble(Enum):
    """What is wrong: the error that it becomes, and what is said about the ledger."""

    AWAY = (
        LedgerUnavailable,
        "cannot be reached ({cause}); start it or set PIPELINE_LEDGER_URL, and run `pipeline doctor` to see what is "
        "wrong",
    )
    LOCKED = LedgerUnavailable, "was locked for {timeout:g} s by another process"
    BUSY = LedgerUnavailable, "has no room for more at once ({cause}): allow it more, or run fewer workers"
    AGAIN = LedgerUnavailable, "did not finish a statement ({cause}); trying again may help"
    FULL = LedgerUnavailable, "cannot grow ({cause}): free space on its disk"
    #: A server that was the first one until a failover, a disk that was mounted anew.
    READ_ONLY = (
        LedgerUnavailable,
        "is read-only ({cause}): let PIPELINE_LEDGER_URL name the server that takes writes, or check the permissions "
        "of the file and of its directory",
    )
    REFUSED = LedgerRefused, "does not take what was to be written ({cause}): change that, trying again does not help"
    FORBIDDEN = LedgerError, "does not let its user do that ({cause}): grant what docs/ledger.md lists"
    NO_TABLES = LedgerError, "has no tables ({cause}): run `pipeline ledger upgrade`"
    NO_FILE = LedgerError, "cannot be used ({cause}): check its directory's permissions"
    DAMAGED = LedgerError, "is damaged or no ledger ({cause}): restore it, or move it away"
    UNKNOWN = LedgerError, "cannot run a statement ({cause}): run `pipeline doctor` to see what is wrong"

    def explained(self, ledger: object, cause: object, timeout: float) -> LedgerError:
        """Return the error for those who use a ledger.

        Arguments:
            ledger: its address without a password.
            cause: what the database says.
            timeout: seconds for which it was tried.

        """
        kind: type[LedgerError] = self.value[0]
        said = self.value[1].format(cause=" ".join(str(cause).split()), timeout=timeout)
        return kind(f"the ledger {ledger} {said}")


#: By SQLSTATE, or by the class that it begins with (https://www.postgresql.org/docs/current/errcodes-appendix.html).
#: PgBouncer reports what it has to say itself as 08P01.
POSTGRESQL = {
    "08": Trouble.AWAY,
    "0A": Trouble.AGAIN,  # a plan of a connection that has seen another schema
    "22": Trouble.REFUSED,
    "2200H": Trouble.UNKNOWN,  # a sequence has come to its end, whatever is written
    "23": Trouble.REFUSED,
    "25006": Trouble.READ_ONLY,
    "25P03": Trouble.AWAY,
    "25P04": Trouble.AGAIN,
    "26": Trouble.AGAIN,  # prepared on a server connection that a pooler has given to somebody else
    "28": Trouble.AWAY,
    "3D": Trouble.AWAY,
    "3F": Trouble.NO_TABLES,
    "40": Trouble.AGAIN,
    "42501": Trouble.FORBIDDEN,
    "42703": Trouble.NO_TABLES,
    "42P01": Trouble.NO_TABLES,
    "42P05": Trouble.AGAIN,
    "44": Trouble.REFUSED,
    "53": Trouble.BUSY,
    "53100": Trouble.FULL,
    "54": Trouble.REFUSED,
    "55": Trouble.AGAIN,
    "55P03": Trouble.LOCKED,
    "57": Trouble.AWAY,
    "57014": Trouble.AGAIN,
    "58": Trouble.AGAIN,
    "P0": Trouble.REFUSED,  # by a trigger
    "XX": Trouble.AGAIN,
    "XX001": Trouble.DAMAGED,
    "XX002": Trouble.DAMAGED,
}

#: By the low byte of SQLite's result code (https://www.sqlite.org/rescode.html).
SQLITE = {
    sqlite3.SQLITE_PERM: Trouble.NO_FILE,
    sqlite3.SQLITE_ABORT: Trouble.AGAIN,
    sqlite3.SQLITE_BUSY: Trouble.LOCKED,
    sqlite3.SQLITE_LOCKED: Trouble.LOCKED,
    sqlite3.SQLITE_NOMEM: Trouble.BUSY,
    sqlite3.SQLITE_READONLY: Trouble.READ_ONLY,
    sqlite3.SQLITE_INTERRUPT: Trouble.AGAIN,
    sqlite3.SQLITE_IOERR: Trouble.FULL,
    sqlite3.SQLITE_CORRUPT: Trouble.DAMAGED,
    sqlite3.SQLITE_FULL: Trouble.FULL,
    sqlite3.SQLITE_CANTOPEN: Trouble.NO_FILE,
    sqlite3.SQLITE_PROTOCOL: Trouble.LOCKED,
    sqlite3.SQLITE_SCHEMA: Trouble.AGAIN,
    sqlite3.SQLITE_TOOBIG: Trouble.REFUSED,
    sqlite3.SQLITE_CONSTRAINT: Trouble.REFUSED,
    sqlite3.SQLITE_MISMATCH: Trouble.REFUSED,
    sqlite3.SQLITE_AUTH: Trouble.NO_FILE,
    sqlite3.SQLITE_NOTADB: Trouble.DAMAGED,
}

#: What Python's own drivers raise for values that no database gets to see.
UNSENDABLE = (UnicodeError, OverflowError)


def trouble_in(error: DBAPIError) -> Trouble:
    """Return what an error of a driver means, as SQLAlchemy has wrapped it."""
    cause: Any = error.orig
    code = getattr(cause, "sqlite_errorcode", None)
    if code is not None:
        return _in_sqlite(code, cause)
    state = state_of(cause)
    if state:
        return POSTGRESQL.get(state) or POSTGRESQL.get(state[:2], Trouble.UNKNOWN)
    match error:  # what a driver finds before it asks, or when nobody answers
        case DataError() | IntegrityError():
            return Trouble.REFUSED
        case _ if error.connection_invalidated:
            return Trouble.AWAY
        case OperationalError() | InterfaceError() if not isinstance(cause, sqlite3.Error):
            return Trouble.AWAY
        case _:
            return Trouble.UNKNOWN


def _in_sqlite(code: int, cause: sqlite3.Error) -> Trouble:
    if code == sqlite3.SQLITE_ERROR:  # it has no code of its own for that
        return Trouble.NO_TABLES if str(cause).startswith(("no such table", "no such column")) else Trouble.UNKNOWN
    return SQLITE.get(code & 0xFF, Trouble.UNKNOWN)


def state_of(cause: object) -> str:
    """Return the SQLSTATE of a driver's error, or nothing."""
    return getattr(cause, "sqlstate", None) or getattr(cause, "pgcode", None) or ""


def is_stale(cause: object) -> bool:
    """Say whether a connection has to be replaced after an error, though it still works.

    It is on a server that was demoted, was opened while a disk was read-only, or shares prepared statements.
    """
    if getattr(cause, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_READONLY:
        return True
    return state_of(cause) in ("25006", "26000", "42P05")


def is_lost(exc: Exception, dialect: Any, driver: Any) -> bool:
    """Say whether an error of the driver leaves a connection that nothing can be done with any more."""
    return driver is None or is_stale(exc) or bool(dialect.is_disconnect(exc, driver, None))


def as_sqlalchemys(exc: BaseException, dialect: Any, *, lost: bool) -> DBAPIError:
    """Return an error of the driver as SQLAlchemy has it."""
    errors = dialect.loaded_dbapi.Error
    found: Any = DBAPIError.instance(None, None, exc, errors, connection_invalidated=lost, dialect=dialect)
    return found  # type: ignore[no-any-return]
