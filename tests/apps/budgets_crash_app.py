"""Agents that spend, in processes that kill themselves around what is written of it, once for each event."""

from __future__ import annotations

import json
import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

from contract_app import append, once  # type: ignore[import-not-found]
from sqlalchemy import Connection

from pipeline import Context, Pipeline, Retry
from pipeline.delivery import inbox
from pipeline.ledger.bounding.budget import Amounts, Scope, Use
from pipeline.ledger.bounding.budgets import Budgets
from pipeline.ledger.database import leases
from pipeline.publishing import outbox

# What a dead process has left in the outbox is sent again after seconds: the test is quicker, and sees more copies.
outbox.GRACE = inbox.GRACE = 1.0
leases.LEASE = 2.0

app = Pipeline("spenders")
HERE = Path(os.environ["JOURNAL"]).parent
app.budget("all", tokens=1_000_000)
app.budget("group", tokens=1_000_000, key="data.group", at_limit="ask")
#: What is reserved of each budget, and what is spent of it in the end.
RESERVED, SPENT = 10, 3
_now: list[Use] = []


@app.agent(on="text.wanted", retry=Retry(max=20, base=0.01, cap=0.05))
def spender(data: dict[str, Any], ctx: Context) -> None:
    reservation = ctx.budget.reserve(tokens=RESERVED)
    append({"agent": "spender", "key": data["key"]})
    reservation.settle(tokens=SPENT)
    ctx.publish("text.written", {"key": data["key"]})


def die(point: str, use: Use) -> None:
    """End this process as `kill -9` does, the first time that a delivery passes its point."""
    with suppress(FileNotFoundError):
        data = json.loads((HERE / f"asked-{use.delivery}").read_text())
        if data["point"] == point and once(f"{point}-{data['key']}"):
            os.kill(os.getpid(), signal.SIGKILL)


_reserve, _settle, _add = Budgets.reserve, Budgets.settle, Budgets._add


def reserve(self: Budgets, use: Use, scopes: list[Scope], *about: Any) -> Any:
    _now[:] = [use]
    found = _reserve(self, use, scopes, *about)
    if found is None:  # else it has no room, and nothing was reserved
        die("reserved", use)
    return found


def settle(self: Budgets, use: Use, spent: Amounts) -> None:
    _now[:] = [use]
    _settle(self, use, spent)
    die("settled", use)


def add(connection: Connection, rows: Any, numbers: Any) -> None:
    _add(connection, rows, numbers)
    (use,) = _now
    die("settling" if min(numbers) < 0 else "reserving", use)


Budgets.reserve, Budgets.settle, Budgets._add = reserve, settle, staticmethod(add)  # type: ignore[method-assign]
