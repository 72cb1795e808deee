"""Agents with decentralized identifiers: one asks the other by its identifier, which listens to something else."""

from __future__ import annotations

from typing import Any

from contract_app import journal

from pipeline import Context, Pipeline

app = Pipeline("crew")
RESEARCH = "did:web:example.com:agents:research"
WRITER = "did:web:example.com:agents:writer"


@app.agent(on="paper.requested", did=RESEARCH)
def research(data: Any, ctx: Context) -> None:
    journal("research", ctx, data)
    ctx.publish("paper.found", data, targets=(WRITER,))


@app.agent(on="nothing.else", did=WRITER)
async def writer(data: Any, ctx: Context) -> None:
    journal("writer", ctx, data)


@app.agent(on="#")
def tap(data: Any, ctx: Context) -> None:
    journal("tap", ctx, data)
