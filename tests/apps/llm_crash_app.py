"""An agent of pydantic-ai in processes that are killed at one of its calls, once for each event."""

from __future__ import annotations

import os
import signal
from contextvars import ContextVar
from typing import Any

from contract_app import append, once  # type: ignore[import-not-found]

from pipeline import Context, Pipeline, Retry
from pipeline.delivery import inbox
from pipeline.ledger.database import leases
from pipeline.ledger.waiting.steps import Place, Steps
from pipeline.publishing import outbox
from pipeline.pydantic_ai import durable
from tests.llm import investigator

# What a dead process has left in the outbox is sent again after seconds: the test is quicker.
outbox.GRACE = inbox.GRACE = 1.0
leases.LEASE = 2.0

app = Pipeline("investigators")
_data: ContextVar[dict[str, Any]] = ContextVar("data")


def die(what: str, point: str) -> None:
    """End this process as `kill -9` does, the first time that an event's run comes to its point."""
    data = _data.get(None)
    if data and (data["call"], data["point"]) == (what, point) and once(f"{what}-{point}-{data['key']}"):
        os.kill(os.getpid(), signal.SIGKILL)


def called(what: str) -> str:
    append({"agent": "investigate", "key": _data.get()["key"], "call": what})
    die(what, "in work")
    return what


agent = durable(investigator(called, lambda number, prompt: called(f"request {number}")))
_keep = Steps.keep


def keep(self: Steps, delivery: str, place: Place, *about: Any) -> str:
    name, number = place
    text = _keep(self, delivery, place, *about)
    call = f"request {number}" if name.endswith("model") else name.split()[1]
    append({"agent": "investigate", "key": _data.get()["key"], "kept": call})
    die(call, "kept")
    return text


Steps.keep = keep  # type: ignore[method-assign]


async def investigate(data: dict[str, Any], ctx: Context) -> None:
    _data.set(data)
    ctx.publish("found", {"key": data["key"], "found": (await agent.run("go")).output})


def investigate_sync(data: dict[str, Any], ctx: Context) -> None:
    _data.set(data)
    ctx.publish("found", {"key": data["key"], "found": agent.run_sync("go").output})


RETRY = Retry(max=20, base=0.01, cap=0.05)
app.agent(on="crime.async", retry=RETRY)(investigate)
app.agent(on="crime.sync", retry=RETRY)(investigate_sync)
