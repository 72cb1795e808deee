"""Agents for those who come by other protocols: what they can do, what they say meanwhile, and whom they ask."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from pydantic import BaseModel

from pipeline import Context, Pipeline, Retry, capability

app = Pipeline("edges")

os.write(1, b"a module that prints\n")


class Text(BaseModel):
    text: str


class Short(BaseModel):
    summary: str


@app.agent(capability=capability("summarize", input=Text, output=Short, specializations=["law"]), retry=Retry(max=0))
def writer(data: dict[str, Any]) -> Any:
    if data["text"] == "wrong":
        raise ValueError("it cannot be said shorter")
    return {"summary": data["text"][:3] if data["text"] != "long" else "x" * 200_000}


@app.agent(capability=capability("trace"))
def tracer(data: Any) -> Any:
    return [data]


@app.agent(on="question.asked", retry=Retry(max=0))
def answers(data: dict[str, Any], ctx: Context) -> None:
    ctx.progress(0.5, "half")
    for word in ("Dec", "orators ", "wrap."):
        ctx.stream("answer", word)
    if data.get("question") == "wrong":
        raise ValueError("nobody knows")
    if data.get("question") == "may I":
        ctx.ask("answer.it", {"question": data["question"]})
    ctx.publish("question.answered", {"text": "Decorators wrap."})


@app.agent(on="slow.asked")
async def slow(data: Any) -> int:
    await asyncio.sleep(60)
    return 1


@app.agent(on="question.answered")
def keeps(data: Any) -> None: ...
