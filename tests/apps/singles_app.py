"""Agents of which one delivery runs at a time, or only the last event of a series is handled."""

from __future__ import annotations

import asyncio
import os
import time
from typing import Any

from contract_app import append, is_open, once  # type: ignore[import-not-found]

from pipeline import Context, Debounce, Pipeline, Retry, Singleton

app = Pipeline("singles")
#: Seconds after which a handler that nobody stops gives up.
LONG = 300
#: The quiet time of an index: a moment, or as long as the test wants it before it lets the time pass.
QUIET = os.environ.get("QUIET", "2s")


def note(does: str, ctx: Context, data: dict[str, Any]) -> None:
    append({"agent": ctx.agent, "does": does, "id": ctx.event.id, "n": data.get("n"), "pid": os.getpid()})


def work(data: dict[str, Any], ctx: Context) -> None:
    """Run until the test opens the gate that the event names, and fail as often as it says."""
    note("begins", ctx, data)
    end = time.monotonic() + LONG
    while data.get("gate") and not is_open(data["gate"]) and time.monotonic() < end:
        time.sleep(0.02)
    if data.get("fails") and once(f"{ctx.agent}-{ctx.event.id}"):
        note("fails", ctx, data)
        raise RuntimeError("told to fail")
    ctx.publish("work.done", {"n": data.get("n"), "of": ctx.agent})
    note("ends", ctx, data)


async def work_async(data: dict[str, Any], ctx: Context) -> None:
    """Do the same on the event loop, where it can be stopped."""
    note("begins", ctx, data)
    end = time.monotonic() + LONG
    try:
        while data.get("gate") and not is_open(data["gate"]) and time.monotonic() < end:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    except asyncio.CancelledError:
        note("stopped", ctx, data)
        raise
    if data.get("fails") and once(f"{ctx.agent}-{ctx.event.id}"):
        note("fails", ctx, data)
        raise RuntimeError("told to fail")
    ctx.publish("work.done", {"n": data.get("n"), "of": ctx.agent})
    note("ends", ctx, data)


RETRY = Retry(max=3, base=0.3, jitter=0)

for when in ("skip", "queue", "cancel"):
    for handler, way in ((work, "sync"), (work_async, "async")):
        app.agent(
            on=f"{when}.{way}",
            name=f"{when}_{way}",
            retry=RETRY,
            singleton=Singleton(key="metadata.tenant", when=when),  # type: ignore[arg-type]
        )(handler)

for handler, way in ((work, "sync"), (work_async, "async")):
    app.agent(
        on=f"index.{way}",
        name=f"index_{way}",
        retry=RETRY,
        debounce=Debounce(QUIET, "10h", key="metadata.tenant"),
    )(handler)
    app.agent(on=f"busy.{way}", name=f"busy_{way}", debounce=Debounce("2s", "3s"))(handler)


@app.agent(on="work.done")
def hears(data: dict[str, Any], ctx: Context) -> None:
    append({"agent": "hears", "n": data["n"], "of": data["of"], "id": ctx.event.id})
