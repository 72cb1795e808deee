"""Agents of two workers, of which one may have a clock that is wrong, and who hears of the others."""

from __future__ import annotations

import os
import time
from typing import Any

if skew := float(os.environ.get("SKEW", "0")):  # as on a machine whose clock is wrong; libfaketime may not be there
    true_time, true_ns = time.time, time.time_ns
    time.time = lambda: true_time() + skew
    time.time_ns = lambda: true_ns() + int(skew * 1e9)

from contract_app import is_open, journal  # type: ignore[import-not-found]
from pydantic import BaseModel

from pipeline import Context, Pipeline, Retry, capability

app = Pipeline("presence")


class Text(BaseModel):
    text: str


class Short(BaseModel):
    summary: str


summarize = capability("summarize", input=Text, output=Short, max_concurrent=3, specializations=["law"])


@app.agent(capability=summarize, retry=Retry(max=0))
def writer(data: dict[str, Any], ctx: Context) -> Any:
    journal("writer", ctx, data)
    while data["text"] == "wait" and not is_open("gate"):
        time.sleep(0.02)
    return {"wrong": 1} if data["text"] == "wrong" else {"summary": data["text"][:3]}


@app.agent(on=["agent.online", "agent.offline", "agent.suspected_failure", "agent.recovered"])
def hears(data: Any, ctx: Context) -> None:
    journal("hears", ctx, {**data, "type": ctx.event.type})


@app.agent(on="agent.heartbeat")
def pulse(data: Any, ctx: Context) -> None:
    journal("pulse", ctx, data)


@app.agent(on="#")
def audit(data: Any, ctx: Context) -> None:
    journal("audit", ctx, data)
