"""Somebody who approves, and is killed on the way: `python crash_decider.py POINT ID`."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from approvals_app import app  # type: ignore[import-not-found]

from pipeline.ledger.waiting.approvals import Approvals
from pipeline.ledger.waiting.waits import Waits

POINT, ID = sys.argv[1:]
#: What is called, and whether the process dies before or after it.
POINTS = {
    "decided": (Waits, "release", False),  # the decision and its event are written, what waits is not released
    "released": (Waits, "release", True),  # so is that; nothing is committed
    "committed": (Approvals, "decide", True),
}
owner, name, is_after = POINTS[POINT]
called = getattr(owner, name)


def crash(*args: Any, **options: Any) -> None:
    if is_after:
        called(*args, **options)
    os.kill(os.getpid(), signal.SIGKILL)


setattr(owner, name, crash)
app.approvals.approve(ID, by="ada")
