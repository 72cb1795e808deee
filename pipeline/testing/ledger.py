"""The ledger of an application under test: a file that is made once, and a database that has the virtual time."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ..core.times import SECOND, clocked, moment
from ..ledger.database.address import file_url
from ..ledger.ledger import Ledger
from .clock import VirtualClock

#: Julian day of 1970-01-01, and microseconds of a day: how SQLite says what time it is.
EPOCH, DAY = 2440587.5, 86400 * SECOND


@cache
def empty_ledger() -> bytes:
    """Return the file of a ledger without events, which takes longer to make than many a test."""
    with clocked(VirtualClock(moment(0), 0)), TemporaryDirectory(prefix="pipeline-") as place:
        path = Path(place) / "ledger.db"
        ledger = Ledger(file_url(path))
        _ = ledger.id, ledger.secret
        ledger.close()
        return path.read_bytes()


def tell_the_time(clock: VirtualClock, connection: Any, _: Any) -> None:
    """Let a database connection have the virtual time where a statement asks the database for it."""
    connection.create_function("julianday", 1, lambda _: clock.look() / DAY + EPOCH)
