"""References: which blobs the ledger's events still name."""

from __future__ import annotations

import re
from typing import Any

from sqlalchemy import Select, Table, select, union_all

from ...ledger.database.tables import aside, deliveries, events, snapshots, timers
from ...ledger.database.waiting import steps
from ...ledger.ledger import Ledger

#: Rows that are in memory at once.
ROWS = 500
#: An id in any text counts: in untyped data, a chord's results or a state nobody knows what it means.
_ID = re.compile(r"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")
_HEX = bytes(0x30 if chr(byte) in "0123456789abcdef" else 0x20 for byte in range(256))
_RUN = b"0" * 64


def still_named(ledger: Ledger, ids: set[str]) -> set[str]:
    """Return those of some blobs' ids that are in any text of the ledger, in one snapshot of it.

    All of it is read, and nothing when there are no ids. Raises LedgerUnavailable.
    """
    found: set[str] = set()
    if not ids:
        return found
    # In one statement: what a delayed event becomes is in the same snapshot as what it was.
    texts = union_all(*(_texts(table, name) for table, name in _PLACES))
    with ledger.database.reading() as connection:
        for (text,) in connection.execution_options(yield_per=ROWS).execute(texts):
            # Most texts have no id in them, which is found out ten times faster so.
            if _RUN in text.encode(errors="replace").translate(_HEX):
                found.update(ids.intersection(_ID.findall(text)))
    return found


_PLACES = (
    (events, "body"), (deliveries, "body"), (deliveries, "result"), (timers, "body"), (aside, "body"),
    (snapshots, "body"), (steps, "result"),
)  # fmt: skip


def _texts(table: Table, name: str) -> Select[Any]:
    return select(table.c[name]).where(table.c[name].is_not(None))
