"""What may become of a turn.

expected --(its delivery comes)--> waiting --call--> called --(it comes back)--> runs, or kept --> gone
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import and_

from ..database.waiting import turns

#: In an order: its event is in the log, and its delivery has not come yet.
EXPECTED = "expected"
#: In its line; the delivery is parked.
WAITING = "waiting"
#: Its slot is kept for it, and it is on its way to a worker.
CALLED = "called"
#: Its attempt runs; in an order also what is retried, parked, or a dead letter that holds its key.
RUNS = "runs"
#: Has its slot from its first attempt until it has ended, of what runs one at a time.
KEPT = "kept"
HELD = (CALLED, RUNS, KEPT)


def one(delivery: str, line: str) -> Any:
    """Return the condition that a turn is a delivery's in a line."""
    return and_(turns.c.delivery == delivery, turns.c.line == line)
